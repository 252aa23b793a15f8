"""Gradients along a recorded path: of all images and of batches, and the floor below which their norm cannot stay."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import data, nets, series, sgd

# Points of a curve: more than a figure shows, and a small file
POINTS = 400

# Instants at which the floor is computed; each takes some of a Hessian's products for every batch
INSTANTS = 20

# Batches at each of these instants: the error of their mean is a quarter of their spread, and is saved with it
DRAWS = 16

# Nodes of Gauss's quadrature: of the spectrum of the Hessian that the noise of a batch sees
NODES = 8

# First epochs of another run that the paper's third plot begins with
SPLICED = 175


class Slopes:
    """Gradients of the loss over all images as one batch, in training mode but without dropout, weight decay included.

    A network with batch-norm has no other loss: in training the loss of an image depends on the rest of its batch.
    """

    def __init__(self, model: nn.Module, dataset: data.Dataset, weight_decay: float):
        device = next(model.parameters()).device
        self.model, self.decay = model.train(), weight_decay
        self.x, self.y = dataset.x_train.to(device), dataset.y_train.to(device)
        for layer in model.modules():
            if isinstance(layer, nn.modules.dropout._DropoutNd):
                layer.eval()

    def at(self, weights: np.ndarray) -> "Slopes":
        """Put the network at these weights."""
        nets.set_flat_parameters(self.model, torch.tensor(weights))
        return self

    def gradient(self, index: Tensor | slice = slice(None), graph: bool = False) -> Tensor:
        """Gradient ``(d,)`` over the images of a batch, or all of them."""
        parameters = list(self.model.parameters())
        loss = cross_entropy(self.model(self.x[index]), self.y[index])
        slopes = torch.autograd.grad(loss, parameters, create_graph=graph)
        slope = torch.cat([g.flatten() + self.decay * p.flatten() for g, p in zip(slopes, parameters, strict=True)])
        return slope if graph else slope.detach()

    def epoch(self, chosen, generator: torch.Generator) -> Tensor:
        """Gradients of all batches of an epoch ``(K, d)`` at the same weights; their mean is the paper's gradient."""
        batches = sgd.batches(len(self.x), chosen.batch_size, chosen.sampling, generator)
        return torch.stack([self.gradient(index.to(self.x.device)) for index in batches])

    def spectra(self, directions: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and weights ``(n, m)`` with ``v.g(F) v = sum(weights g(nodes))``, for each direction v ``(n, d)``.

        Lanczos' method with the Hessian F of the full loss: exact for polynomials g of a degree below ``2 NODES``.
        """
        slope, parameters = self.gradient(graph=True), list(self.model.parameters())

        def product(v: Tensor) -> Tensor:
            return torch.cat([part.flatten() for part in torch.autograd.grad(slope, parameters, v, retain_graph=True)])

        found = [_quadrature(product, v) for v in directions]
        return tuple(np.stack(part) for part in zip(*found, strict=True))


def _quadrature(product: Callable[[Tensor], Tensor], v: Tensor) -> tuple[np.ndarray, np.ndarray]:
    basis, steps, coupled = [v / v.norm()], [], []
    for _ in range(NODES):
        w = product(basis[-1])
        steps.append((w @ basis[-1]).item())
        for q in basis * 2:  # twice is enough
            w = w - (w @ q) * q
        coupled.append(w.norm().item())
        basis.append(w / max(coupled[-1], torch.finfo(w.dtype).tiny))
    nodes, vectors = eigh_tridiagonal(steps, coupled[:-1])
    return nodes, (v @ v).item() * vectors[0] ** 2


def gradients(chosen, slopes: Slopes, path: np.ndarray, burn: int, generator: torch.Generator) -> dict:
    """Norms over sqrt(d) of gradients along the whole ``path``; noise of a batch; squared floors, over d.

    ``gradient`` is of all images as one batch; ``figure_gradient`` the mean over the batches of an epoch, as under the
    paper's figure, from the start, which the figure does not show, and after the least burn-in. The floors are means
    over the noise v of batches of ``v.g(F) v``: ``floor_square`` with ``g = T h`` for independent ones, T the
    temperature lr / 2 (1 - momentum), ``floor_shuffled`` with :func:`one_mode`.
    """
    last, d = len(path) - 1, path.shape[1]
    often, seldom = (np.linspace(burn, last, m).astype(int) for m in (POINTS, INSTANTS))
    later = np.geomspace(max(chosen.burn, 1), last, POINTS // 2).astype(int)
    early = np.unique([*range(min(SPLICED, last)), *later])
    temperature, mode = chosen.lr / 2 / (1 - chosen.momentum), one_mode(chosen, len(slopes.x) // chosen.batch_size)
    norms = [slopes.at(path[row]).gradient().norm().item() for row in often]
    means = [slopes.at(path[row]).epoch(chosen, generator).mean(0).norm().item() for row in early]
    rows = [_floors(slopes.at(path[row]).epoch(chosen, generator), slopes, mode) for row in seldom]
    size, noise, independent, shuffled = np.array(rows).transpose(1, 0, 2) / d
    return {
        "gradient_epoch": often,
        "gradient": norms / np.sqrt(d),
        "figure_epoch": early,
        "figure_gradient": means / np.sqrt(d),
        "floor_epoch": seldom,
        "floor_gradient": np.sqrt(size[:, 0]),
        "batch_noise": np.sqrt(noise.mean(axis=1)),
        "floor_square": temperature * independent.mean(axis=1),
        "floor_shuffled": shuffled.mean(axis=1),
        "floor_error": shuffled.std(axis=1, ddof=1) / np.sqrt(noise.shape[1]),
    }


def _floors(steps: Tensor, slopes: Slopes, mode: Callable) -> np.ndarray:
    """``|mean|^2`` of an epoch, and of the noises v of some batches ``|v|^2``, ``v.F v``, ``v.g(F) v``: ``(4, n)``."""
    mean = steps.mean(0)
    nodes, weights = slopes.spectra(steps[:DRAWS] - mean)
    parts = (np.full(len(nodes), (mean @ mean).item()), weights, weights * nodes, weights * mode(nodes))
    return np.stack([part if part.ndim == 1 else part.sum(axis=1) for part in parts])


def one_mode(chosen, steps: int) -> Callable[[np.ndarray], np.ndarray]:
    """Mean squared gradient in a direction of curvature h, as a function of h, for noise of variance 1 in a batch.

    It is ``h^2`` times the variance of :func:`sgdvi_lite.series.epoch_process`, or of the process of independent
    batches, and nothing where h is not above 0; curvatures beyond the range of stability count as its end.
    """
    mu, options = chosen.momentum, {"nesterov": chosen.nesterov}
    top = 2 * (1 + mu) / (1 + 2 * mu * chosen.nesterov) / chosen.lr
    grid = top * np.geomspace(1e-6, 0.95, 200)
    if chosen.sampling == "reshuffled" and steps > 1:
        made = [series.epoch_process([[h]], [[1.0]], chosen.lr, mu, steps, **options) for h in grid]
    else:
        made = [series.momentum_process([[h]], [[1.0]], chosen.lr, mu, **options) for h in grid]
    values = grid**2 * [process.covariance[0, 0] for process in made]
    return lambda h: np.interp(h, grid, values, left=0.0)

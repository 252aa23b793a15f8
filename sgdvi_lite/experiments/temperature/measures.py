"""What a run is held against: Hessian and noise on its way, their linear theory, copies that a force pulls."""

import copy

import numpy as np
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap
from torch.nn.functional import cross_entropy

from sgdvi_lite import data, series, sgd

# Batches whose gradients are computed at once
CHUNK = 256


class Landscape:
    """The loss that SGD descends, in float64: of flat weights, in training mode, weight decay included.

    The full loss is the mean over the batches of one epoch: with batch-norm the loss of an image depends on the rest of
    its batch.
    """

    def __init__(self, model: nn.Module, dataset: data.Dataset, chosen):
        self.network = replace_all_batch_norm_modules_(copy.deepcopy(model).cpu().double().train())
        self.shapes = {name: p.shape for name, p in self.network.named_parameters()}
        self.x, self.y, self.chosen = dataset.x_train.double(), dataset.y_train, chosen
        order = torch.Generator().manual_seed(chosen.seed)
        self.epoch = torch.stack([*sgd.batches(len(self.x), chosen.batch_size, "reshuffled", order)])

    def loss(self, w: Tensor, index: Tensor) -> Tensor:
        """Mean loss of a batch."""
        parts = w.split([shape.numel() for shape in self.shapes.values()])
        weights = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        outputs = functional_call(self.network, weights, (self.x[index],))
        return cross_entropy(outputs, self.y[index]) + self.chosen.weight_decay / 2 * w @ w

    def full(self, w: Tensor) -> Tensor:
        """Full loss."""
        return torch.cat([vmap(self.loss, (None, 0))(w, part) for part in self.epoch.split(CHUNK)]).mean()

    def leading(self, w: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Largest eigenvalues of the Hessian, falling, and their eigenvectors ``(d, k)``."""

        def turned(v: np.ndarray) -> np.ndarray:
            v = torch.from_numpy(v.ravel())
            return grad(lambda w: grad(self.full)(w) @ v)(w).numpy()

        H = LinearOperator((len(w), len(w)), turned, dtype=np.float64)
        values, V = eigsh(H, self.chosen.directions, which="LA", tol=1e-6, v0=np.ones(len(w)))
        return values[::-1].copy(), V[:, ::-1].copy()

    def noise(self, path: np.ndarray, V: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Noise of independent batches along the columns of V ``(draws, k)``, half of two's difference, on the path."""
        rows = torch.randint(len(path), (self.chosen.draws,), generator=generator)
        pairs = torch.randint(len(self.x), (self.chosen.draws, 2, self.chosen.batch_size), generator=generator)
        slopes = vmap(vmap(grad(self.loss), (None, 0)))
        places = torch.from_numpy(path)[rows]
        both = (slopes(*part).numpy() @ V for part in zip(places.split(CHUNK), pairs.split(CHUNK), strict=True))
        return np.concatenate([(two[:, 0] - two[:, 1]) / 2**0.5 for two in both])

    def pulled(self, starts: Tensor, forces: Tensor, sampling: str, generator: torch.Generator) -> Tensor:
        """How far forces ``(m, d)`` have moved copies of each start after each epoch, ``(pulling, starts, m, d)``.

        It is half the way between a copy that is pulled to and one that is pulled fro, with the same batches.
        """
        pull, slopes = torch.cat([forces, -forces]), vmap(vmap(grad(self.loss), (0, None)))
        x, size = starts.repeat(1, len(pull)), (len(self.x), self.chosen.lr, self.chosen.batch_size)
        steps = {"every": len(self.epoch), "sampling": sampling, "generator": generator} | self.chosen.inertia

        def gradient(x: Tensor, index: Tensor) -> Tensor:
            return (slopes(x.view(len(x), *pull.shape), index) - pull).flatten(1)

        way = sgd.replicas(gradient, x, *size, self.chosen.pulling * len(self.epoch), **steps)[1:]
        there, back = way.view(len(way), len(x), 2, *forces.shape).unbind(2)
        return (there - back) / 2


def within(process: series.LinearProcess, N: int, b: int, sampling: str, n: int) -> np.ndarray:
    r"""Variance of each coordinate ``(k,)`` within n epochs that SGD makes near a minimum, in a steady state.

    ``process`` is that of independent batches, ``with`` replacement. An epoch of K steps is :math:`z' = A^K z +
    \sum_{i<K} A^i B\xi_i`. Batches of one ``reshuffled`` epoch have the variance :math:`(N - b) D / b(N - 1)` each and
    any two of them the covariance :math:`-D / (N - 1)`. For plain SGD with curvature l and N = Kb this takes from the
    variance of independent batches the part :math:`\tanh(x / 2) / (x / 2)`, x = K lr l, to first order in lr l. What is
    slower than n epochs does not count: the variance of the mean over n is taken off.

    References
    ----------
    Chapter 10, the epochs of the small network.
    """
    A, one = process.A, np.eye(len(process.A))
    after, S = np.linalg.matrix_power(A, N // b), solve_discrete_lyapunov(A, process.noise)
    if sampling == "reshuffled":
        M = np.linalg.solve(one - A, one - after)  # the sum of the powers
        kicks = N / (N - 1) * (S - after @ S @ after.T) - b / (N - 1) * M @ process.noise @ M.T
        S = solve_discrete_lyapunov(after, kicks)
    moved, total = S, n * S.diagonal()
    for k in range(1, n):
        moved = after @ moved
        total = total + 2 * (n - k) * moved.diagonal()
    return ((S.diagonal() - total / n**2) * n / (n - 1))[: process.d]

"""What a recorded trajectory shows, each statistic beside its null model, small enough to be saved."""

from collections.abc import Iterator
from itertools import chain, islice, repeat

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from scipy.signal import lfilter
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from sgdvi_lite import data, nets, series, sgd

# Points of a curve: more than a figure shows, and a small file
POINTS = 400

# Instants at which the floor is computed; each takes a Hessian's product for every batch
INSTANTS = 40

# Batches at each of these instants: the error of their mean is a quarter of their spread, and is saved with it
DRAWS = 16

# Repeats of a null model, for its mean and its spread
REPEATS = 20

# Principal components to which a linear process is fitted
COMPONENTS = 20

# Epochs of the running mean that is taken off, lest the drift of a run that is not stationary hide what is fast
WINDOW = 501

# Cycles an epoch below which the increments have "low-frequency modes"
LOW = 0.05


def measure(chosen, dataset: data.Dataset, model: nn.Module, recording: sgd.Recording, progress: bool) -> dict:
    """All arrays of a result, from a finished recording; ``model`` has its last weights.

    Curves over time are means over equal blocks of epochs. ``spectrum`` ``(3, m)`` and ``correlation`` ``(3, m)`` hold
    the mean, the 16 % and the 84 % quantile over the weights that move; ``null_spectrum`` and ``null_correlation`` the
    mean over AR(1) processes, one fitted to each weight and simulated for as long. ``scores`` are those of
    :func:`sgdvi_lite.series.area_scores`, ``null_scores`` ``(2, repeats, 2)`` those of the reversible linear process
    fitted to the leading components, and of surrogates whose components have random phases of their own. What begins
    with ``fast_`` is the same for the departures from a running mean.
    """
    parts = tqdm(_parts(chosen, dataset, model, recording), "measuring", 6, disable=not progress, leave=False)
    return {name: _small(value) for part in parts for name, value in part.items()}


def _parts(chosen, dataset: data.Dataset, model: nn.Module, recording: sgd.Recording) -> Iterator[dict]:
    generator = torch.Generator().manual_seed(chosen.seed + 1)
    path = recording.weights[chosen.burn :]
    yield _sizes(dataset, model, recording, path)
    yield _curves(recording, chosen.burn)
    yield _gradients(chosen, dataset, model, path, generator)
    yield _one_by_one(path, generator)
    yield _turning(path[:, _moving(path)], generator)
    yield _fast(path[:, _moving(path)], generator)


def _small(value) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 and array.size > 100 else array


def _sizes(dataset: data.Dataset, model: nn.Module, recording: sgd.Recording, path: np.ndarray) -> dict:
    return {
        "N": recording.run["N"],
        "d": recording.run["d"],
        "moving": int(_moving(path).sum()),
        "epoch_steps": recording.run["every"],
        "engine": recording.engine,
        "train_error": nets.error_rate(model, dataset.x_train, dataset.y_train),
        "test_error": nets.error_rate(model, dataset.x_test, dataset.y_test),
    }


def _moving(path: np.ndarray) -> np.ndarray:
    """Which weights are not constant: below a batch-norm a bias has no gradient."""
    spread = path.std(axis=0, dtype=np.float64)
    return spread > 1e-6 * spread.max()


def _curves(recording: sgd.Recording, burn: int) -> dict:
    left, right = (side[burn:] for side in recording.balance())
    size = np.linalg.norm(recording.weights[1 + burn :], axis=1)
    columns = np.stack([np.arange(1 + burn, 1 + burn + len(size)), recording.loss[burn:], size, left, right])
    blocks = [block.mean(axis=1) for block in np.array_split(columns, min(POINTS, len(size)), axis=1)]
    names = ("epoch", "loss", "size", "left", "right")
    return dict(zip(names, np.stack(blocks, axis=1), strict=True)) | {"balance": series.stationarity(left, right)}


# ---- the full gradient and its floor


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

    def curvatures(self, directions: list[Tensor]) -> Tensor:
        """``v.F v`` for each direction ``v``, with the Hessian F of the full loss."""
        slope, parameters = self.gradient(graph=True), list(self.model.parameters())
        turned = (torch.autograd.grad(slope, parameters, v, retain_graph=True) for v in directions)
        pairs = zip(turned, directions, strict=True)
        return torch.stack([torch.cat([part.flatten() for part in Fv]) @ v for Fv, v in pairs])


def _gradients(chosen, dataset: data.Dataset, model: nn.Module, path: np.ndarray, generator: torch.Generator) -> dict:
    """Norm of the full gradient over sqrt(d); noise of a batch, rms, likewise; the squared floor, over d.

    The floor is that of SGD with independent batches near a minimum, T tr FD: lr / 2 (1 - momentum) times the mean
    curvature along the noise of batches.
    """
    slopes, d = Slopes(model, dataset, chosen.weight_decay), path.shape[1]
    often, seldom = (np.linspace(0, len(path) - 1, m).astype(int) for m in (POINTS, INSTANTS))
    norms = [slopes.at(path[row]).gradient().norm().item() / np.sqrt(d) for row in often]
    batches = _batches(len(slopes.x), chosen.batch_size, chosen.sampling, generator)
    noise, curved = np.array([_noise(slopes, path[row], batches) for row in seldom]).swapaxes(0, 1)
    temperature = chosen.lr / 2 / (1 - chosen.momentum)
    return {
        "gradient_epoch": often + chosen.burn,
        "gradient": norms,
        "floor_epoch": seldom + chosen.burn,
        "batch_noise": np.sqrt(noise.mean(axis=1) / d),
        "floor_square": temperature * curved.mean(axis=1) / d,
        "floor_error": temperature * curved.std(axis=1, ddof=1) / np.sqrt(DRAWS) / d,
    }


def _batches(N: int, b: int, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without end."""
    return chain.from_iterable(sgd.batches(N, b, sampling, generator) for _ in repeat(None))


def _noise(slopes: Slopes, weights: np.ndarray, batches: Iterator[Tensor]) -> np.ndarray:
    """|xi|^2 and xi.F xi for the noise xi of some batches, ``(2, DRAWS)``."""
    full = slopes.at(weights).gradient()
    xi = [slopes.gradient(index.to(full.device)) - full for index in islice(batches, DRAWS)]
    return torch.stack([torch.stack([v @ v for v in xi]), slopes.curvatures(xi)]).cpu().double().numpy()


# ---- plots (a) and (b), with AR(1) processes beside them


def _one_by_one(path: np.ndarray, generator: torch.Generator) -> dict:
    n, columns = len(path), np.flatnonzero(_moving(path))
    segment = min(4096, 2 ** int(np.log2(n / 5)))
    longest = min(n // 4, 25_000)
    lags = np.unique(np.geomspace(1, longest, 200).astype(int))
    blocks = np.array_split(columns, range(32, len(columns), 32))
    paths = (np.asarray(path[:, block], np.float64) for block in blocks)
    both = ([_statistics(y, segment, longest, lags) for y in (x, _fitted_ar(x, generator))] for x in paths)
    run, null = ([np.concatenate(s, axis=-1) for s in zip(*side, strict=True)] for side in zip(*both, strict=True))
    return {
        "frequency": np.arange(1, segment // 2) / segment,
        "spectrum": _middle(run[0]),
        "null_spectrum": null[0].mean(axis=1),
        "lag": lags,
        "correlation": _middle(run[1]),
        "null_correlation": null[1].mean(axis=1),
        "low_share": [(s[0][: int(LOW * segment)].sum(axis=0) / s[0].sum(axis=0)).mean() for s in (run, null)],
        "outside": [s[2].mean() for s in (run, null)],
    }


def _statistics(x: np.ndarray, segment: int, longest: int, lags: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each column: spectrum of increments over their variance, autocorrelation, lags outside the white band."""
    density = series.increment_spectrum(x, segment).density / np.diff(x, axis=0).var(axis=0)
    rho = series.autocorrelation(x, longest)
    white = series.autocorrelation_band([1.0, 0.0], len(x))[1]
    return density, rho[lags], (abs(rho[1:]) > white).mean(axis=0)


def _middle(values: np.ndarray) -> np.ndarray:
    return np.stack([values.mean(axis=1), *np.quantile(values, [0.16, 0.84], axis=1)])


def _fitted_ar(x: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """For each column a stationary AR(1) series with the same correlation at lag one."""
    slopes = series.autocorrelation(x, 1)[1]
    kicks = torch.randn(x.shape, generator=generator, dtype=torch.float64).numpy()
    kicks[0] /= np.sqrt(1 - slopes**2)
    return np.stack([lfilter([1.0], [1.0, -a], kick) for a, kick in zip(slopes, kicks.T, strict=True)], axis=1)


# ---- is there a current, and is it a cycle


def _fast(path: np.ndarray, generator: torch.Generator) -> dict:
    """Departures from the running mean; this filter is the same backwards, so that a reversible path stays so."""
    width = min(WINDOW, len(path) // 16 * 2 + 1)
    departures = path - uniform_filter1d(path, width, axis=0)
    turning = _turning(departures[width // 2 : len(path) - width // 2], generator)
    return {f"fast_{name}": value for name, value in turning.items()}


def _turning(path: np.ndarray, generator: torch.Generator) -> dict:
    z, (_, new) = series.principal_components(path, COMPONENTS), series.chosen_plane(path)
    lowest, lags = 120 / len(z), np.unique(np.geomspace(1, len(z) // 50, 60).astype(int))
    fit = series.fit_linear(z, reversible=True)
    fits = (fit.sample(len(z), generator=generator) for _ in repeat(None))
    phases = (series.phase_surrogate(z, generator=generator, together=False) for _ in repeat(None))
    picture = np.linspace(0, len(z) - 1, min(500, len(z))).astype(int)
    return {
        "share": z.var(axis=0, ddof=1) / path.var(axis=0, ddof=1, dtype=np.float64).sum(),
        "picture": z[picture, :2],
        "scores": series.area_scores(path),
        "leading_scores": series.area_scores(z[:, :2]),
        "null_scores": [[series.area_scores(null) for null in islice(nulls, REPEATS)] for nulls in (fits, phases)],
        "area_lag": lags,
        "area": series.area_by_lag(new, lags),
        "line": series.strongest_line(z, lowest),
        "line_lowest": lowest,
        "null_line": series.strongest_line(next(fits), lowest),
    }

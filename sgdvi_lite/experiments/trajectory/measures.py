"""What a recorded trajectory shows, each statistic beside its null model, small enough to be saved."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.ndimage import uniform_filter1d
from scipy.signal import lfilter
from torch import nn
from tqdm.auto import tqdm

from sgdvi_lite import data, nets, series, sgd
from sgdvi_lite.experiments.trajectory.slopes import POINTS, Slopes, gradients
from sgdvi_lite.experiments.trajectory.turning import turning

# Epochs of the running mean that is taken off, lest the drift of a run that is not stationary hide what is fast
WINDOW = 501

# Cycles an epoch below which the increments have "low-frequency modes"
LOW = 0.05

# Of so many weights one has null models: their mean over the weights is as good
SPARSE = 4

# The distance from stationarity, in errors, up to which a run counts as stationary
SETTLED = 3.0

# Frequencies that the paper's first plot shows, and lags of its second
FREQUENCIES, LAGS = 1000, 100


def measure(chosen, dataset: data.Dataset, model: nn.Module, recording: sgd.Recording, progress: bool) -> dict:
    """All arrays of a result, from a finished recording; ``model`` has its last weights.

    Curves over time are means over equal blocks of epochs, from the ``burn`` on that :func:`settled` finds.
    ``spectrum`` ``(3, m)`` and ``correlation`` ``(3, m)`` hold the mean, the 16 % and the 84 % quantile over the
    weights that move; ``null_spectrum`` and ``null_correlation`` the mean of AR(1) processes, fitted to every
    ``SPARSE``-th weight and simulated for as long. ``figure_spectrum`` and ``figure_correlation`` are those of the
    paper's plots, after the least burn-in, as the paper has it. For areas see :func:`turning`, for
    gradients :func:`gradients`. What begins with ``fast_`` is the same for the departures from a running mean.
    """
    parts = tqdm(_parts(chosen, dataset, model, recording), "measuring", 7, disable=not progress, leave=False)
    return {name: _small(value) for part in parts for name, value in part.items()}


def _parts(chosen, dataset: data.Dataset, model: nn.Module, recording: sgd.Recording) -> Iterator[dict]:
    generator = torch.Generator().manual_seed(chosen.seed + 1)
    found = settled(recording, chosen.burn)
    burn, whole = found["burn"], recording.weights
    path, error = whole[burn:], (nets.error_rate(model, *pair) for pair in _images(dataset))
    yield found | _sizes(recording, path) | dict(zip(("train_error", "test_error"), error, strict=True))
    yield _curves(recording, burn)
    yield gradients(chosen, Slopes(model, dataset, chosen.weight_decay), whole, burn, generator)
    yield _one_by_one(path, generator)
    yield _as_in_the_figure(whole[chosen.burn :], generator)
    yield turning(path[:, _moving(path)], generator)
    yield _fast(path[:, _moving(path)], generator)


def _small(value) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 and array.size > 100 else array


def _images(dataset: data.Dataset) -> tuple:
    return (dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test)


def _sizes(recording: sgd.Recording, path: np.ndarray) -> dict:
    told = {"epoch_steps": recording.run["every"], "engine": recording.engine, "moving": int(_moving(path).sum())}
    return told | {name: recording.run[name] for name in ("N", "d")}


def _moving(path: np.ndarray) -> np.ndarray:
    """Which weights are not constant: below a batch-norm a bias has no gradient."""
    spread = path.std(axis=0, dtype=np.float64)
    return spread > 1e-6 * spread.max()


def settled(recording: sgd.Recording, least: int) -> dict:
    """The burn-in after which a run is stationary: the first tenth of it, from ``least`` to the middle, that passes.

    ``drift`` ``(3,)`` are the distances from stationarity in errors: of Yaida's balance, and the trends of the loss and
    of ``|x|``; a run passes if none exceeds ``SETTLED``. If it never does, ``least`` is taken. ``tried`` and
    ``tried_drift`` have all starts.
    """
    left, right = recording.balance()
    size, n = np.linalg.norm(recording.weights[1:], axis=1), len(left)
    starts = [least, *(start for start in n * np.arange(1, 6) // 10 if start > least)]
    rows = [
        (series.stationarity(left[s:], right[s:]).z, *(series.trend(curve[s:]) for curve in (recording.loss, size)))
        for s in starts
    ]
    passed = np.abs(rows).max(axis=1) <= SETTLED
    first = int(passed.argmax())
    found = {"burn": int(starts[first]), "stationary": bool(passed.any()), "drift": rows[first]}
    return found | {"tried": starts, "tried_drift": rows}


def _curves(recording: sgd.Recording, burn: int) -> dict:
    left, right = (side[burn:] for side in recording.balance())
    size = np.linalg.norm(recording.weights[1 + burn :], axis=1)
    columns = np.stack([np.arange(1 + burn, 1 + burn + len(size)), recording.loss[burn:], size, left, right])
    blocks = [block.mean(axis=1) for block in np.array_split(columns, min(POINTS, len(size)), axis=1)]
    names = ("epoch", "loss", "size", "left", "right")
    return dict(zip(names, np.stack(blocks, axis=1), strict=True)) | {"balance": series.stationarity(left, right)}


# ---- plots (a) and (b), with AR(1) processes and random walks beside them


def _one_by_one(path: np.ndarray, generator: torch.Generator) -> dict:
    n, longest = len(path), min(len(path) // 4, 25_000)
    segment, lags = min(4096, 2 ** int(np.log2(n / 5))), np.unique(np.geomspace(1, longest, 200).astype(int))
    run, null = _beside_nulls(path, lambda x: _statistics(x, segment, longest, lags), partial(_fitted_ar, g=generator))
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


def _as_in_the_figure(path: np.ndarray, generator: torch.Generator) -> dict:
    """Amplitudes of the increments at the lowest frequencies, and correlations at lags ``n // 100`` apart."""
    n = len(path)
    top, apart = min(FREQUENCIES, (n - 1) // 2), max(n // LAGS, 1)

    def both(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.abs(np.fft.rfft(np.diff(x, axis=0), axis=0)[:top]), series.autocorrelation(x, n - 1)[::apart]

    sides = _beside_nulls(path, both, *(partial(null, g=generator) for null in (_fitted_ar, _walk)))
    found = zip(("figure", "figure_null", "figure_walk"), sides, strict=True)
    told = {f"{name}_{kind}": _middle(s[i]) for name, s in found for i, kind in enumerate(("spectrum", "correlation"))}
    return told | {"figure_frequency": np.arange(top) / (n - 1), "figure_lag": np.arange(0, n, apart)}


def _beside_nulls(path: np.ndarray, statistics: Callable, *nulls: Callable) -> list[list[np.ndarray]]:
    """Statistics of each weight that moves, and of null models of every ``SPARSE``-th of them."""
    columns = np.flatnonzero(_moving(path))
    blocks = np.array_split(columns, range(32, len(columns), 32))
    paths = (np.asarray(path[:, block], np.float64) for block in blocks)
    each = ([statistics(x), *(statistics(null(x[:, ::SPARSE])) for null in nulls)] for x in paths)
    return [[np.concatenate(s, axis=-1) for s in zip(*side, strict=True)] for side in zip(*each, strict=True)]


def _statistics(x: np.ndarray, segment: int, longest: int, lags: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each column: spectrum of increments over their variance, autocorrelation, lags outside the white band."""
    density = series.increment_spectrum(x, segment).density / np.diff(x, axis=0).var(axis=0)
    rho = series.autocorrelation(x, longest)
    white = series.autocorrelation_band([1.0, 0.0], len(x))[1]
    return density, rho[lags], (abs(rho[1:]) > white).mean(axis=0)


def _middle(values: np.ndarray) -> np.ndarray:
    return np.stack([values.mean(axis=1), *np.quantile(values, [0.16, 0.84], axis=1)])


def _fitted_ar(x: np.ndarray, g: torch.Generator) -> np.ndarray:
    """For each column a stationary AR(1) series with the same correlation at lag one, and the same variance."""
    slopes = series.autocorrelation(x, 1)[1]
    kicks = torch.randn(x.shape, generator=g, dtype=torch.float64).numpy() * x.std(axis=0)
    kicks[1:] *= np.sqrt(1 - slopes**2)
    return np.stack([lfilter([1.0], [1.0, -a], kick) for a, kick in zip(slopes, kicks.T, strict=True)], axis=1)


def _walk(x: np.ndarray, g: torch.Generator) -> np.ndarray:
    """For each column a random walk with steps of the same variance."""
    steps = torch.randn(x.shape, generator=g, dtype=torch.float64).numpy()
    return np.cumsum(steps * np.diff(x, axis=0).std(axis=0), axis=0)


def _fast(path: np.ndarray, generator: torch.Generator) -> dict:
    """Departures from the running mean; this filter is the same backwards, so that a reversible path stays so."""
    width = min(WINDOW, len(path) // 16 * 2 + 1)
    departures = path - uniform_filter1d(path, width, axis=0)
    turned = turning(departures[width // 2 : len(path) - width // 2], generator)
    return {f"fast_{name}": value for name, value in turned.items()}

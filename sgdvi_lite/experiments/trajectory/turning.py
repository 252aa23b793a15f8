"""Is there a current, and is it a cycle: areas beside their null models, and beside a current that was planted."""

from bisect import bisect_left
from functools import partial
from itertools import islice, product, repeat

import numpy as np
import torch
from scipy import stats
from scipy.signal import lfilter

from sgdvi_lite import series

# Repeats of a null model, for its mean and its spread
REPEATS = 20

# Principal components to which a linear process is fitted, in which a plane is looked for, and which are saved
COMPONENTS = 20

# Instants at which the components are saved
INSTANTS = 4000

# Scores of a table that are corrected together: two of the weights, two of what is left without a running mean
SCORES = 4

# First component of the plane in which a current is planted: the leading two, the last two that are looked at, beyond
PLANES = (0, COMPONENTS - 2, COMPONENTS)

# Epochs in which a planted current turns by a radian, and fades by a factor e
TURNS = (10, 100)

# Its part of the variance in the plane
PARTS = np.geomspace(0.003, 0.7, 7)

# Draws of a planted current, of each kind
DRAWS = 10


def turning(path: np.ndarray, generator: torch.Generator) -> dict:
    """Scores, areas and lines of a path ``(n, d)``, its null models' scores ``(3, repeats, 2)`` and planted currents.

    The null models have no current: the reversible linear process fitted to the leading components, surrogates whose
    components have random phases of their own, and random walks with the covariance of the increments. ``p_values``
    are for the chosen and the leading plane.
    """
    z, halves = series.principal_components(path, COMPONENTS + 2), series.chosen_plane(path)
    lead, lowest, lags = z[:, :COMPONENTS], 120 / len(z), np.unique(np.geomspace(1, len(z) // 50, 60).astype(int))
    fit, steps = series.fit_linear(lead, reversible=True), np.cov(np.diff(lead, axis=0).T)
    fits = (fit.sample(len(z), generator=generator) for _ in repeat(None))
    phases = (series.phase_surrogate(lead, generator=generator, together=False) for _ in repeat(None))
    walks = (series.brownian(len(z), steps, generator=generator) for _ in repeat(None))
    pairs = np.array([[_both(null) for null in islice(nulls, REPEATS)] for nulls in (fits, phases, walks)])
    own = np.array([series.area_scores(x) for x in (np.concatenate(halves), lead[:, :2])])  # each in its plane, cheaply
    null, at = pairs[:, :, :, 1], np.linspace(0, len(z) - 1, min(INSTANTS, len(z))).astype(int)
    return {
        "share": z.var(axis=0, ddof=1) / path.var(axis=0, ddof=1, dtype=np.float64).sum(),
        "components": lead[at].astype(np.float32),
        "scores": own[0],
        "leading_scores": own[1],
        "null_scores": pairs[:, :, 0],
        "null_leading": null[:, :, 1],
        "p_values": [_chance(score, side) for score, side in zip(own[:, 1], null.transpose(2, 0, 1), strict=True)],
        "area_lag": lags,
        "area": series.area_by_lag(halves[1], lags),
        "line": series.strongest_line(lead, lowest),
        "line_lowest": lowest,
        "null_line": series.strongest_line(next(fits), lowest),
        "planted_part": PARTS,
        "planted_power": _planted(z, own[0, 1], null[:, :, 0], generator),
    }


def _both(path: np.ndarray) -> np.ndarray:
    """Scores where chosen and in new data ``(2, 2)``, in the chosen plane and in that of the leading components."""
    return np.array([series.area_scores(path), series.area_scores(series.principal_components(path, 2))])


def _chance(score: float, nulls: np.ndarray) -> float:
    """Probability of a score as large, or larger, under the null model that explains it best."""
    n, (mean, spread) = nulls.shape[1], (nulls.mean(axis=1), nulls.std(axis=1, ddof=1))
    return stats.t.sf((score - mean) / spread / np.sqrt(1 + 1 / n), n - 1).max()


def _planted(z: np.ndarray, score: float, nulls: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """How often a planted current is seen ``(planes, turns, parts)``: beyond all null models, corrected for ``SCORES``.

    Of each draw the smallest part that is seen is found by bisection. It is added to the path itself; to surrogates
    with separate phases, if the path has a current that is seen.
    """
    first, limit = np.zeros((len(PLANES), len(TURNS), DRAWS)), 0.05 / SCORES
    own = _chance(score, nulls) < limit
    for turn, draw in product(range(len(TURNS)), range(DRAWS)):
        base = series.phase_surrogate(z, generator=generator, together=False) if own else z
        moved = rotation(len(z), TURNS[turn], generator)

        def seen(part: float, plane: int, base: np.ndarray = base, moved: np.ndarray = moved) -> bool:
            return bool(_chance(series.area_scores(plant(base, moved, plane, part)).new, nulls) < limit)

        first[:, turn, draw] = [bisect_left(PARTS, True, key=partial(seen, plane=plane)) for plane in PLANES]
    return (first[..., None] <= np.arange(len(PARTS))).mean(axis=2)


def rotation(n: int, turn: float, generator: torch.Generator) -> np.ndarray:
    """Noise that turns by ``1 / turn`` a sample and fades as fast ``(n, 2)``, of variance 1.

    Its area in k samples is ``exp(-k / turn) sin(k / turn)``, at most 0.322: it never comes round.
    """
    a = np.exp((1j - 1) / turn)
    kicks = torch.randn(n, dtype=torch.complex128, generator=generator).numpy() * np.sqrt(2 * (1 - abs(a) ** 2))
    kicks[0] /= np.sqrt(1 - abs(a) ** 2)
    made = lfilter([1.0], [1.0, -a], kicks)
    return np.stack([made.real, made.imag], axis=1)


def plant(z: np.ndarray, moved: np.ndarray, plane: int, part: float) -> np.ndarray:
    """Add a rotation to two components, so that it has the given part of their variance."""
    pair, mixed = slice(plane, plane + 2), z.copy()
    mixed[:, pair] += np.sqrt(part / (1 - part)) * z[:, pair].std(axis=0) * moved
    return mixed

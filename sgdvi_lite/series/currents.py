"""Currents in a plane, from a recorded series: areas per step and velocities by position, with standard errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import Estimate, as_series, centred, stretches


def lagged_covariance(x: ArrayLike, lag: int) -> np.ndarray:
    r"""Covariance :math:`C(k) = \mathbb{E}[(x_t - \bar x)(x_{t+k} - \bar x)^\top]` of a series ``(n, d)``, ``(d, d)``.

    Time reversal transposes it: a reversible process has a symmetric ``C(k)`` at every lag.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import series
    >>> angle = np.arange(400) * np.pi / 2  # a quarter turn a step
    >>> circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    >>> series.lagged_covariance(circle, 1).round(2).tolist()
    [[0.0, 0.5], [-0.5, 0.0]]
    """
    start, end = _pairs(x, lag)
    return start.T @ end / len(start)


def stochastic_area(x: ArrayLike, lag: int = 1, n_batches: int = 30) -> Estimate:
    r"""Area swept in each plane (i, j) in ``lag`` steps, counter-clockwise positive: the antisymmetric part of C(lag).

    .. math:: A_{ij} = \tfrac12\, \mathbb{E}\bigl[x_i(t)\, x_j(t+k) - x_j(t)\, x_i(t+k)\bigr]

    Divided by the time of the lag it tends, for a fine recording, to ``OrnsteinUhlenbeck.area_rate``; the expectation
    at any lag is :meth:`LinearProcess.area`. It vanishes for every reversible process. Another origin changes it by a
    term at the ends only; the mean of the series is taken.

    Parameters
    ----------
    x
        The series ``(n, d)``, such as a trajectory projected on a few directions.
    lag
        Samples between the two points.
    n_batches
        Stretches by which the error is estimated, as in :func:`batch_means`; each should be many correlation times
        and many lags long, else the error is too small.

    Returns
    -------
    Estimate
        Areas and standard errors, ``(d, d)`` each, antisymmetric and symmetric, per ``lag`` samples.

    Raises
    ------
    ValueError
        If ``x`` is no finite ``(n, d)`` with ``d >= 2``, or shorter than needed.

    References
    ----------
    Ghanta, Neu, Teitsworth, Physical Review E 95 (2017) 032128; du Buisson, Mnyulwa, Touchette, arXiv 2307.06245.
    Chapters 7 and 10.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> turning = series.LinearProcess([[0.9, -0.1], [0.1, 0.9]], [[1.0, 0.0], [0.0, 1.0]])
    >>> x = turning.sample(100_000, generator=torch.Generator().manual_seed(0))
    >>> area, error = series.stochastic_area(x)
    >>> bool(area[0, 1] > 10 * error[0, 1]), bool(abs(area - turning.area())[0, 1] < 3 * error[0, 1])
    (True, True)
    """
    pairs = _pairs(x, lag)
    _checks.shape("x", np.shape(x), pairs[0].shape[1] >= 2, "(n, d) with d >= 2, as an area lies in a plane")
    mean, spread = 0.0, 0.0
    for n, (start, end) in enumerate(zip(*(stretches(points, n_batches) for points in pairs), strict=True), 1):
        product = start.T @ end
        change = (product - product.T) / (2 * len(start)) - mean
        mean = mean + change / n  # one stretch after the other (Welford): all at once would be n_batches times as large
        spread = spread + change**2 * ((n - 1) / n)
    return Estimate(mean, np.sqrt(spread / ((n_batches - 1) * n_batches)))


def _pairs(x: ArrayLike, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """The points at which a stretch of ``lag`` samples starts and ends, less the mean of the series."""
    x = centred(x)
    _checks.count("lag", lag, high=len(x) - 2)
    return x[:-lag], x[lag:]


class VelocityField(NamedTuple):
    """By cell: mean position of the visits ``X``, ``Y`` and their number ``(m, m)``, velocity and error ``(m, m, 2)``.

    The first index goes with the first coordinate. Cells that were never visited have NaN.
    """

    X: np.ndarray
    Y: np.ndarray
    count: np.ndarray
    velocity: np.ndarray
    error: np.ndarray


def velocity_field(x: ArrayLike, cells: int = 12, n_batches: int = 20) -> VelocityField:
    r"""Current velocity in a plane, cell by cell: the mean of :math:`(x_{t+1} - x_{t-1}) / 2` over the visits at t.

    It is half the forward drift less half the backward drift, the velocity of the probability current, and vanishes
    everywhere for a reversible process. For a linear process it is :meth:`LinearProcess.current_velocity`.

    Parameters
    ----------
    x
        The series ``(n, 2)``.
    cells
        Cells in each direction, between the 0.5 % and the 99.5 % quantiles of each coordinate.
    n_batches
        Stretches by which the errors are estimated.

    Returns
    -------
    VelocityField
        Velocities in units of ``x`` per sample.

    Raises
    ------
    ValueError
        If ``x`` is no finite series ``(n, 2)`` of two samples per stretch or more, or has a constant coordinate.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series
    >>> turning = series.LinearProcess([[0.9, -0.1], [0.1, 0.9]], [[1.0, 0.0], [0.0, 1.0]])
    >>> field = series.velocity_field(turning.sample(50_000, generator=torch.Generator().manual_seed(0)), cells=3)
    >>> right = field.velocity[2, 1]  # to the right of the centre the current goes up
    >>> bool(right[1] > 5 * field.error[2, 1, 1]), bool(abs(right[0]) < 4 * field.error[2, 1, 0])
    (True, True)
    """
    x = as_series("x", x, 4, columns=2)
    cells = _checks.count("cells", cells)
    n_batches = _checks.count("n_batches", n_batches, 2, len(x) // 2 - 1, "record more, or ask for fewer batches")
    edges = [np.linspace(*np.quantile(column, [0.005, 0.995]), cells + 1) for column in x.T]
    if not all((np.diff(edge) > 0).all() for edge in edges):
        raise ValueError("x has a coordinate that hardly varies: expected a series that fills a part of the plane")
    places = x[1:-1]
    moves = (x[2:] - x[:-2]) / 2
    batch = np.arange(len(places)) * n_batches // len(places)
    sample = np.column_stack([batch, places])
    bins = [np.arange(n_batches + 1) - 0.5, *edges]
    count, *sums = (np.histogramdd(sample, bins, weights=w)[0] for w in (None, *places.T, *moves.T))
    return _field(count, np.stack(sums[:2], axis=-1), np.stack(sums[2:], axis=-1))


def _field(count: np.ndarray, places: np.ndarray, moves: np.ndarray) -> VelocityField:
    """Ratios of the sums over all stretches; the error of the velocity from how the stretches depart from it."""
    n = len(count)
    visits = count.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        place, velocity = (sums.sum(axis=0) / visits[..., None] for sums in (places, moves))
        rest = moves - velocity * count[..., None]
        error = np.sqrt(n / (n - 1) * (rest**2).sum(axis=0)) / visits[..., None]
    return VelocityField(place[..., 0], place[..., 1], visits, velocity, error)

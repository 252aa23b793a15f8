"""Is it a cycle? The plane that turns fastest, judged on new data; the area against the lag."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks
from sgdvi_lite.series.currents import stochastic_area
from sgdvi_lite.series.estimates import Estimate, as_series, centred, deviations


class Scores(NamedTuple):
    """Area over its standard error: in the half where the plane was chosen (``own``) and in the other (``new``)."""

    own: float
    new: float


def principal_components(x: ArrayLike, k: int = 20) -> np.ndarray:
    """Project a series on its ``k`` leading principal directions, the one of largest variance first.

    Parameters
    ----------
    x
        The series ``(n, d)``.
    k
        Directions; fewer are taken where fewer vary.

    Returns
    -------
    np.ndarray
        ``(n, k)``, each column with mean 0; the sign of a column is arbitrary.

    Raises
    ------
    ValueError
        If ``x`` is no finite series ``(n, d)``, or does not vary.

    References
    ----------
    Of a walk in many dimensions these are cosines: Antognini and Sohl-Dickstein, arXiv 1806.08805. Chapter 10.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import series
    >>> x = np.outer([1.0, -1.0, 3.0, -3.0], [3.0, 4.0])
    >>> abs(series.principal_components(x)).round(6).ravel().tolist()
    [5.0, 5.0, 15.0, 15.0]
    """
    x = centred(x)
    return x @ _leading(x, k)[1]


def turning_plane(x: ArrayLike, k: int = 20) -> np.ndarray:
    r"""Find the plane that turns fastest among the ``k`` leading principal directions, each scaled to unit variance.

    With the scaled directions :math:`W` the areas are an antisymmetric matrix; its largest singular value is the
    largest area of a pair of orthonormal vectors, which its singular vectors :math:`u, v` attain.

    Parameters
    ----------
    x
        The series ``(n, d)``.
    k
        Directions; fewer are taken where fewer vary.

    Returns
    -------
    np.ndarray
        The plane's two axes :math:`Wu, Wv` ``(d, 2)``, in which ``x`` turns counter-clockwise with unit variances.
        **The area in this plane is the largest of many:** judge it on data that took no part in the choice.

    Raises
    ------
    ValueError
        If ``x`` is no finite series ``(n, d)``, or fewer than two directions vary.

    References
    ----------
    Chapter 10.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> A = [[0.9, 0.0, 0.0], [0.0, 0.9, -0.1], [0.0, 0.1, 0.9]]  # turns in the plane of the last two
    >>> process = series.LinearProcess(A, torch.eye(3))
    >>> plane = series.turning_plane(process.sample(50_000, generator=torch.Generator().manual_seed(0)))
    >>> bool(abs(plane[0]).max() < 0.05 * abs(plane[1:]).max())
    True
    """
    x = centred(x)
    spread, axes = _leading(x, k)
    _checks.require(len(spread) > 1, "x varies in one direction only: expected two, as a plane has")
    scaled = axes / np.sqrt(spread)
    left, _, right = np.linalg.svd(stochastic_area(x @ scaled).value)
    return scaled @ np.stack([left[:, 0], right[0]], axis=1)


def chosen_plane(x: ArrayLike, k: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Both halves of a series ``(n, d)`` in the :func:`turning_plane` of the first: ``(n / 2, 2)`` each.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> noise = series.white_noise(1001, torch.eye(3), generator=torch.Generator().manual_seed(0))
    >>> [half.shape for half in series.chosen_plane(noise)]
    [(501, 2), (500, 2)]
    """
    first, second = np.array_split(as_series("x", x, 8), 2)
    plane = turning_plane(first, k)
    return first @ plane, second @ plane


def area_scores(x: ArrayLike, k: int = 20) -> Scores:
    """Area over its error in the plane chosen in the first half: there, and in the second half, which counts.

    Of a reversible process the first score is many, for the plane was chosen; the second is about a standard normal
    number, if a thirtieth of half the series is many correlation times.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> noise = series.white_noise(20_000, torch.eye(20), generator=torch.Generator().manual_seed(0))
    >>> own, new = series.area_scores(noise)
    >>> own > 4, abs(new) < 3
    (True, True)
    """
    halves = [stochastic_area(half) for half in chosen_plane(x, k)]
    least = np.finfo(float).eps  # rounding, in units of the variances: what does not turn at all scores 0
    return Scores(*(float(area[0, 1] / max(error[0, 1], least)) for area, error in halves))


def holm(p: ArrayLike) -> np.ndarray:
    """Correct probabilities for their number by Holm's method: below 0.05 any is by chance in 5 % of cases at most.

    Parameters
    ----------
    p
        Probabilities of what was seen under the null models, ``(m,)``; dependent ones too.

    Raises
    ------
    ValueError
        If they are no probabilities in [0, 1].

    References
    ----------
    S. Holm, Scandinavian Journal of Statistics 6 (1979) 65.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> series.holm([0.01, 0.5, 0.02]).tolist()
    [0.03, 0.5, 0.04]
    """
    p = _checks.array("p", p, 1, "(m,)")
    _checks.require(((p >= 0) & (p <= 1)).all(), f"p = {p}: expected probabilities in [0, 1]")
    order = p.argsort()
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected


def area_by_lag(x: ArrayLike, lags: ArrayLike) -> Estimate:
    r"""Area swept in a given time, in units of the variance :math:`\sqrt{\det C(0)}`: does the motion come back?

    On a circle it is :math:`\sin \omega k`: one at a quarter of a turn, minus one at three quarters. Of a rotation that
    decays it is :math:`e^{-\gamma k} \sin \omega k`.

    Parameters
    ----------
    x
        The series in a plane ``(n, 2)``.
    lags
        Whole numbers of samples ``(m,)``.

    Returns
    -------
    Estimate
        Areas and standard errors ``(m,)``, as of :func:`stochastic_area`.

    Raises
    ------
    ValueError
        If ``x`` is no finite ``(n, 2)``, does not fill the plane, or is too short for a lag.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import series
    >>> angle = 2 * np.pi * np.arange(4000) / 40
    >>> series.area_by_lag(np.stack([np.cos(angle), np.sin(angle)], 1), [10, 20, 30]).value.round(2).tolist()
    [1.0, 0.0, -1.0]
    """
    x = as_series("x", x, 4, columns=2)
    C, lags = np.cov(deviations(x).T), np.asarray(lags)
    _checks.shape("lags", lags.shape, lags.ndim == 1 and len(lags), "(m,), a lag or more")
    unit = np.sqrt(max(np.linalg.det(C), 0.0))
    if not unit > 1e-7 * np.sqrt(C[0, 0] * C[1, 1]):  # the root of what rounding leaves of a line
        raise ValueError("x lies on a line: expected a series that fills a part of the plane")
    areas = [stochastic_area(x, lag) for lag in lags.tolist()]
    return Estimate(*(np.array(part)[:, 0, 1] / unit for part in zip(*areas, strict=True)))


def _leading(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances (k,), largest first, and directions (d, k) of a centred series; those without variance are left out."""
    _checks.count("k", k)
    n, d = x.shape
    spread, axes = np.linalg.eigh((x @ x.T if n < d else x.T @ x) / (n - 1))  # both have the same eigenvalues
    _checks.require(spread[-1] > 0, "x is constant: expected a series that varies")
    k = min(k, int((spread > 1e-12 * spread[-1]).sum()))
    spread, axes = spread[: -k - 1 : -1], axes[:, : -k - 1 : -1]
    return spread, x.T @ axes / np.sqrt((n - 1) * spread) if n < d else axes

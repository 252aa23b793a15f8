"""Autocorrelation of time series, the band in which it lies by chance, and the time that it sums to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, stats

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series, by_column


class ShortSeriesError(ValueError):
    """The series is too short for its autocorrelation time; ``estimate`` has the value all the same."""

    def __init__(self, message: str, estimate: np.ndarray):
        super().__init__(message)
        self.estimate = estimate


def autocorrelation(x: ArrayLike, lags: int) -> np.ndarray:
    r"""Sample autocorrelation :math:`\hat\rho_k`, ``(1 + lags, ...)``, by FFT.

    The estimator is :math:`\sum_{t} (x_t - \bar x)(x_{t+k} - \bar x) / \sum_t (x_t - \bar x)^2`, with n terms below and
    n - k above, which keeps it a positive sequence.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; each column by itself.
    lags
        Largest lag, below ``n``.

    Raises
    ------
    ValueError
        If the series is too short, not finite, or constant.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> series.autocorrelation([1.0, -1.0, 1.0, -1.0], lags=2).tolist()
    [1.0, -0.75, 0.5]
    """
    x = as_series("x", x, 2)
    _checks.count("lags", lags, low=0, high=len(x) - 1)
    return by_column(lambda column: _correlate(column - column.mean(), lags), x)


def _correlate(x: np.ndarray, lags: int) -> np.ndarray:
    spread = x @ x
    _checks.require(spread > 0, "x has a column that is constant: expected one that varies; leave it out")
    padded = fft.next_fast_len(len(x) + lags + 1, real=True)
    power = np.abs(fft.rfft(x, padded)) ** 2
    return np.concatenate([[1.0], fft.irfft(power, padded)[1 : lags + 1] / spread])


def autocorrelation_band(rho: ArrayLike, n: int, level: float = 0.99) -> np.ndarray:
    r"""Half-width of the band in which :math:`\hat\rho_k` lies where the true correlation has died out before lag k.

    Bartlett's formula, for linear processes and large n: the variance of :math:`\hat\rho_k` is then
    :math:`(1 + 2\sum_{0<j<k} \rho_j^2) / n`. For white noise it is ``1 / n`` at every lag: the paper's band, which a
    correlated series need not respect.

    Parameters
    ----------
    rho
        Autocorrelation ``(1 + lags, ...)``, from lag 0: measured, or of the null model.
    n
        Length of the series.
    level
        Probability of the band, two-sided.

    References
    ----------
    Brockwell and Davis, Time Series: Theory and Methods (1991), (7.2.6), page 222. Chapter 10.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> series.autocorrelation_band([1.0, 0.0, 0.0], n=100).round(3).tolist()
    [0.0, 0.258, 0.258]
    """
    rho = as_series("rho", rho, 1)
    _checks.count("n", n, low=2)
    _checks.probability("level", level)
    before = np.cumsum(rho**2, axis=0) - rho**2 - 1  # from lag 1 to k - 1
    width = stats.norm.ppf((1 + level) / 2) * np.sqrt((1 + 2 * np.maximum(before, 0)) / n)
    width[0] = 0
    return width


def integrated_time(x: ArrayLike, c: float = 5.0, tolerance: float = 50.0) -> np.ndarray:
    r"""Integrated autocorrelation time :math:`\tau = 1 + 2\sum_{k \ge 1} \rho_k`, in samples; ``n / tau`` count.

    The sum ends at the smallest window :math:`M \ge c\,\max(\tau_M, 1)` (Sokal; the 1 is for series that alternate).
    For an AR(1) process with coefficient :math:`\varphi` it is :math:`(1 + \varphi) / (1 - \varphi)`.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; each column by itself.
    c
        Window in units of the time.
    tolerance
        How many times its time a series must be long.

    Returns
    -------
    np.ndarray
        The time of each column, ``()`` or ``(c,)``. Its relative error is about ``sqrt(2 (2 M + 1) / n)``.

    Raises
    ------
    ShortSeriesError
        If the series is shorter than ``tolerance`` times its time; the estimate is in the message and in ``estimate``.

    References
    ----------
    A. Sokal, in Functional Integration (1997), doi 10.1007/978-1-4899-0319-8_6. Chapter 10.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series
    >>> process = series.LinearProcess([[0.9]], [[1.0]])
    >>> x = process.sample(200_000, generator=torch.Generator().manual_seed(0))
    >>> bool(abs(series.integrated_time(x)[0] - 19) < 1.5)
    True
    """
    x = as_series("x", x, 4)
    times = by_column(lambda column: _windowed(autocorrelation(column, len(x) // 2), c), x)
    if not (tolerance * times <= len(x)).all():
        raise ShortSeriesError(
            f"x has {len(x)} samples and an autocorrelation time of about {times.max():.4g} or more: expected at least "
            f"{tolerance:g} times as many; record longer, or lower tolerance and distrust the result",
            times,
        )
    return times


def _windowed(rho: np.ndarray, c: float) -> float:
    sums = 2 * np.cumsum(rho) - 1
    wide = np.arange(len(rho)) >= c * np.maximum(sums, 1)
    return float(sums[wide.argmax() if wide.any() else -1])

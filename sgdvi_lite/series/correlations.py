"""Autocorrelation of time series, the band in which it lies by chance, and the time that it sums to."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, stats

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series, batch_means, by_column, unit_deviations

STRETCHES = 30
"""By the variance of their means an autocorrelation time is checked."""


class ShortSeriesError(ValueError):
    """The series is too short for its autocorrelation time, or hides it; ``estimate`` has a value all the same."""

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
    lags = _checks.count("lags", lags, low=0, high=len(x) - 1)
    return by_column(lambda column: _correlate(unit_deviations(column), lags), x)


def _correlate(x: np.ndarray, lags: int) -> np.ndarray:
    padded = fft.next_fast_len(len(x) + lags + 1, real=True)
    power = np.abs(fft.rfft(x, padded)) ** 2
    return np.concatenate([[1.0], fft.irfft(power, padded)[1 : lags + 1] / (x @ x)])


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
    _checks.require(np.allclose(rho[0], 1), "rho does not begin with 1: expected the autocorrelation from lag 0 on")
    n = _checks.count("n", n, low=2)
    _checks.probability("level", level)
    before = np.cumsum(rho**2, axis=0) - rho**2 - 1  # from lag 1 to k - 1
    width = stats.norm.ppf((1 + level) / 2) * np.sqrt((1 + 2 * np.maximum(before, 0)) / n)
    width[0] = 0
    return width


def integrated_time(x: ArrayLike, c: float = 5.0, tolerance: float = 50.0) -> np.ndarray:
    r"""Integrated autocorrelation time :math:`\tau = 1 + 2\sum_{k \ge 1} \rho_k`, in samples; ``n / tau`` count.

    The window is the smallest :math:`M \ge c\,\max(\tau_M,\, 1 + 4\sum_{k=1}^M \rho_k^2)`. The first term is Sokal's;
    the second tells how long correlations last where they alternate and cancel, as of SGD with
    :math:`1 < \eta h < 2` or with momentum. The mean of the sums that end at M/2 to 3M/2 is taken: a cut at one lag
    would let in what alternates there. For an AR(1) process with coefficient :math:`\varphi` the time is
    :math:`(1 + \varphi) / (1 - \varphi)`, and M is that of :math:`|\varphi|`, nearly.

    No window sees a slow mode that is weak beside faster noise: the sum ends before. So the time is compared with the
    variance of the means of 30 stretches, which a slow mode raises, unless it is slower than a stretch.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; each column by itself.
    c
        Window in units of the time.
    tolerance
        How many times its time, M / c, a series must be long.

    Returns
    -------
    np.ndarray
        The time of each column, ``()`` or ``(c,)``. Its relative error is about ``sqrt(2 (2 M + 1) / n)``.

    Raises
    ------
    ShortSeriesError
        If the series is shorter than ``tolerance`` times its time, as every one is whose correlation does not die out,
        such as a periodic one; if its noise leaves a time that is not positive; or if the means of stretches vary far
        more than the time explains. The estimate is in the message and in ``estimate``.
    ValueError
        If the series is too short, not finite, or constant.

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
    c, tolerance = _checks.positive("c", c), _checks.positive("tolerance", tolerance)
    x = as_series("x", x, 4)
    n = len(x)
    times, windows, slow = map(np.asarray, by_column(lambda column: _times(unit_deviations(column), c), x))
    m = min(STRETCHES, n // 2)
    limit = stats.chi2.isf(1e-6, m - 1) / (m - 1) * (1 + 3 * np.sqrt(2 * (2 * windows + 1) / n))  # of both estimates
    hidden = slow > limit * times
    if not (tolerance * windows <= c * n).all() or not (times > 0).all() or hidden.any():
        raise ShortSeriesError(
            f"x has {n} samples and an autocorrelation time of about {times.max():.4g} by its window, {slow.max():.4g} "
            f"by the means of {m} stretches, and correlations that last for {windows.max() / c:.4g} or more: expected "
            f"{tolerance:g} times as many samples and two times that agree; record longer, average x over stretches if "
            "a slow mode is hidden under noise, or lower tolerance and distrust the result",
            np.where(hidden, slow, times),
        )
    return times


def _times(x: np.ndarray, c: float) -> np.ndarray:
    """The time by a window, the lag about which its sums end, or the last one, and the time by means of stretches."""
    rho, m = _correlate(x, len(x) // 2), min(STRETCHES, len(x) // 2)
    sums, lasting = 2 * np.cumsum(rho) - 1, 4 * np.cumsum(rho**2) - 3
    wide = np.append(np.arange(len(rho) - 1) >= c * np.maximum(sums, lasting)[:-1], True)
    M = int(wide.argmax())
    slow = batch_means(x, m).error ** 2 * (len(x) // m * m) / x.var()
    return np.array([sums[M // 2 : M + M // 2 + 1].mean(), M, slow])

"""Spectra and autocorrelation of time series, with their confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, signal, stats

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series


class PowerSpectrum(NamedTuple):
    """Frequencies ``(m,)`` in cycles a sample, one-sided density ``(m, ...)``, ends of its confidence interval."""

    frequency: np.ndarray
    density: np.ndarray
    low: np.ndarray
    high: np.ndarray


class ShortSeriesError(ValueError):
    """The series is too short for its autocorrelation time; ``estimate`` has the value all the same."""

    def __init__(self, message: str, estimate: np.ndarray):
        super().__init__(message)
        self.estimate = estimate


def spectrum(x: ArrayLike, segment: int = 256, level: float = 0.95) -> PowerSpectrum:
    r"""Power spectral density by Welch's method: Hann windows of ``segment`` samples that overlap by half.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; the mean of each segment is removed.
    segment
        Samples in a window; the frequencies are the multiples of ``1 / segment`` strictly between 0 and 1/2.
    level
        Of the pointwise confidence interval, :math:`\nu P / \chi^2_\nu`, with Welch's equivalent number :math:`\nu` of
        degrees of freedom.

    Returns
    -------
    PowerSpectrum
        The density is per cycle a sample: its integral over (0, 1/2) is the variance.

    Raises
    ------
    ValueError
        If the series is shorter than two segments or not finite, or the level is not in (0, 1).

    References
    ----------
    P. D. Welch, IEEE Transactions on Audio and Electroacoustics 15 (1967) 70. Chapter 10.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> x = series.white_noise(20_000, [[3.0]], generator=torch.Generator().manual_seed(0))[:, 0]
    >>> power = series.spectrum(x)
    >>> bool(abs(power.density.mean() - 2 * 3.0) < 0.2)  # one-sided: twice the variance
    True
    """
    _checks.count("segment", segment, low=4)
    _level(level)
    x = as_series("x", x, 2 * segment)
    frequency = np.arange(segment // 2 + 1) / segment
    inside = (frequency > 0) & (frequency < 0.5)
    density = _by_column(lambda column: signal.welch(column, nperseg=segment)[1], x)[inside]
    nu = _freedom(signal.get_window("hann", segment), len(x))
    above, below = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], nu)
    return PowerSpectrum(frequency[inside], density, density * nu / above, density * nu / below)


def _by_column(function: Callable, x: np.ndarray) -> np.ndarray:
    """Apply a function to each column by itself: a trajectory of a network is large."""
    columns = np.stack([function(column) for column in x.reshape(len(x), -1).T], axis=-1)
    return columns.reshape((*columns.shape[:-1], *x.shape[1:]))


def _freedom(window: np.ndarray, n: int) -> float:
    """Welch's equivalent degrees of freedom of the mean of half-overlapping modified periodograms."""
    half = len(window) // 2
    step = len(window) - half
    K = (n - half) // step
    rho = ((window[step:] @ window[:-step]) / (window @ window)) ** 2
    return 2 * K / (1 + 2 * (1 - 1 / K) * rho)


def increment_spectrum(x: ArrayLike, segment: int = 256, level: float = 0.95) -> PowerSpectrum:
    """Power spectral density of ``x[k + 1] - x[k]``, as in :func:`spectrum`; the paper's Fig. 3 of the longer version.

    White noise of variance ``s`` gives ``4 s (1 - cos(2 pi f))``, which rises with the frequency; Brownian motion with
    increments of variance ``s`` gives the constant ``2 s``. :meth:`LinearProcess.increment_spectrum` has the density of
    any linear process.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> x = series.brownian(20_000, [[1.0]], generator=torch.Generator().manual_seed(0))[:, 0]
    >>> power = series.increment_spectrum(x)
    >>> bool((power.low < 2).mean() > 0.9 and (power.high > 2).mean() > 0.9)
    True
    """
    return spectrum(np.diff(as_series("x", x, 2), axis=0), segment, level)


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
    return _by_column(lambda column: _correlate(column - column.mean(), lags), x)


def _correlate(x: np.ndarray, lags: int) -> np.ndarray:
    spread = x @ x
    if not spread > 0:
        raise ValueError("x has a column that is constant: expected one that varies; leave it out")
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
    _level(level)
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
    times = _by_column(lambda column: _windowed(autocorrelation(column, len(x) // 2), c), x)
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


def _level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: expected a probability in (0, 1), such as 0.95")

"""Power spectra of time series with their confidence intervals, and the strongest line in one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy import signal, stats
from scipy.ndimage import median_filter

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series, by_column, unit_deviations


class PowerSpectrum(NamedTuple):
    """Frequencies ``(m,)`` in cycles a sample, one-sided density ``(m, ...)``, ends of its confidence interval."""

    frequency: np.ndarray
    density: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Line(NamedTuple):
    """The strongest line: its ratio to its surroundings, what smooth noise does not exceed, its frequency."""

    ratio: float
    limit: float
    frequency: float


def spectrum(x: ArrayLike, segment: int = 256, level: float = 0.95) -> PowerSpectrum:
    r"""Power spectral density by Welch's method: Hann windows of ``segment`` samples that overlap by half.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; of each segment the mean that its window sees is removed.
    segment
        Samples in a window; the frequencies are the multiples of ``1 / segment`` strictly between 0 and 1/2. At 0 and
        1/2 there are half as many degrees of freedom, and at 0 only the mean.
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

    Notes
    -----
    An ordinate is the mean of the density under the window's transform, about ``1.5 / segment`` wide: choose segments
    over which the density is smooth. Hann's transform is W(0) = L/2, W(1/L) = -L/4 and 0 at other multiples of 1/L. So
    removing the mean, whichever, changes the lowest frequency and no other: it takes the power of what the window sees
    there of a constant. Of white noise 7/12 are left, by which the density is divided; the plain mean of the segment
    would leave 5/6, and let in all frequencies through its sharp ends. The intervals are wider there, as real and
    imaginary part vary differently.

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
    window, turn = _hann(segment)
    x, weights = as_series("x", x, 2 * len(window)), window / window.sum()
    kernel = window * (turn - turn @ weights)
    kept = np.vdot(kernel, kernel).real / (window @ window)
    return _welch(x - x[0], level, window, kernel, kept, lambda parts: parts - (parts @ weights)[..., None])


def _hann(segment: object) -> tuple[np.ndarray, np.ndarray]:
    """The window, and a turn at the lowest frequency."""
    segment = _checks.count("segment", segment, low=4)
    return signal.get_window("hann", segment), np.exp(2j * np.pi * np.arange(segment) / segment)


def _welch(
    x: np.ndarray, level: float, window: np.ndarray, kernel: np.ndarray, kept: float, detrend: object
) -> PowerSpectrum:
    """Welch's spectrum; its lowest ordinate is the square of sums by ``kernel``, of which white noise has ``kept``."""
    level, segment = _checks.probability("level", level), len(window)
    frequency = np.arange(segment // 2 + 1) / segment
    inside = (frequency > 0) & (frequency < 0.5)
    density = by_column(lambda column: signal.welch(column, nperseg=segment, detrend=detrend)[1], x)[inside]
    density[0] /= kept
    nu = np.full((len(density), *[1] * (x.ndim - 1)), _freedom(window * 1j ** np.arange(segment), len(x)))
    nu[0] = _freedom(kernel, len(x))
    above, below = (stats.chi2.ppf((1 + side * level) / 2, nu) for side in (1, -1))
    return PowerSpectrum(frequency[inside], density, density * nu / above, density * nu / below)


def _freedom(kernel: np.ndarray, n: int) -> float:
    """Welch's equivalent degrees of freedom of the mean of the squares of half-overlapping sums of noise by a kernel.

    It falls as a sum is correlated with its neighbour, with its own conjugate at a low frequency, or with both.
    """
    half = len(kernel) // 2
    step = len(kernel) - half
    K = (n - half) // step
    pairs = ((kernel, kernel), (kernel[step:], kernel[:half]))
    own, neighbours = (abs(np.vdot(a, b)) ** 2 + abs(a @ b) ** 2 for a, b in pairs)
    return 2 * K * np.vdot(kernel, kernel).real ** 2 / (own + 2 * (1 - 1 / K) * neighbours)


def increment_spectrum(x: ArrayLike, segment: int = 256, level: float = 0.95) -> PowerSpectrum:
    """Power spectral density of ``x[k + 1] - x[k]``, as in :func:`spectrum`; the paper's Fig. 3 of the longer version.

    White noise of variance ``s`` gives ``4 s (1 - cos(2 pi f))``, which rises with the frequency; Brownian motion with
    increments of variance ``s`` gives the constant ``2 s``. :meth:`LinearProcess.increment_spectrum` has the density of
    any linear process. What is removed is the slope of a line fitted to all of x, not the mean of the increments of
    a segment: that is a difference of two points, in which a density that vanishes at 0 would drown. Of such a one,
    which rises as the square of the frequency, the lowest ordinate is 4/3 of the density, the next 13/12, by the width
    of the window.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> x = series.brownian(20_000, [[1.0]], generator=torch.Generator().manual_seed(0))[:, 0]
    >>> power = series.increment_spectrum(x)
    >>> bool((power.low < 2).mean() > 0.9 and (power.high > 2).mean() > 0.9)
    True
    """
    window, turn = _hann(segment)
    steps = np.diff(as_series("x", x, 2 * len(window) + 1), axis=0)
    steps, n, kernel = steps - steps[0], len(steps), window * turn
    slope = np.arange(1, n + 1) * np.arange(n, 0, -1.0) / (n * (n + 1) * (n + 2) / 6)
    parts = sliding_window_view(slope, len(window))[:: len(window) - len(window) // 2] @ kernel
    seen = kernel.sum().real
    kept = 1 + (seen**2 * slope @ slope - 2 * seen * parts.real.mean()) / (window @ window)
    return _welch(steps - np.tensordot(slope, steps, 1), level, window, kernel, kept, False)


def strongest_line(x: ArrayLike, lowest: float, width: int = 201, chance: float = 0.001) -> Line:
    r"""Largest ordinate of the periodogram over its running median: a periodic motion puts its power at one frequency.

    Of noise with a smooth spectrum the ratio exceeds ``u`` with probability :math:`2^{-u}`, as the ordinates are
    exponential and the median of an exponential variable is :math:`\log 2` times its mean. The median over ``width``
    frequencies has itself the relative error :math:`1 / (\log 2 \sqrt{\mathrm{width}})`; the limit is raised by three
    times that.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``.
    lowest
        Cycles a sample from which on lines are looked for; at least half a ``width`` above 0.
    width
        Frequencies of the running median, an odd number.
    chance
        With which smooth noise exceeds the limit anywhere, all columns and frequencies together.

    Raises
    ------
    ValueError
        If the series is too short for the width, not finite or has a column that is constant or exactly periodic, or
        ``lowest`` or ``chance`` is out of range.

    References
    ----------
    Chapter 10.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series
    >>> noise = series.white_noise(4000, [[1.0]], generator=torch.Generator().manual_seed(0))[:, 0]
    >>> none, hidden = (series.strongest_line(x, 0.03) for x in (noise, noise + 0.3 * np.sin(np.arange(4000) / 5)))
    >>> none.ratio < none.limit < hidden.ratio, round(1 / hidden.frequency / (2 * np.pi), 1)
    (True, 5.0)
    """
    width, chance = _checks.count("width", width, low=3), _checks.probability("chance", chance)
    _checks.argument("width", width, width % 2 == 1, "an odd number, so that the median has a centre")
    x = as_series("x", x, 2 * width)
    n = len(x)
    allowed = f"cycles a sample in [{width / 2 / n:.3g}, 0.5)"
    lowest = _checks.number("lowest", lowest, lambda v: width / 2 / n <= v < 0.5, allowed)
    power = np.abs(np.fft.rfft(unit_deviations(x.reshape(n, -1)), axis=0)) ** 2
    around = median_filter(power, (width, 1))
    noisy = (around > 1e-24 * n).all()  # noise of 1e-12 of the largest value is rounding, whose lines mean nothing
    _checks.require(noisy, "x has a column that is exactly periodic: expected a series with some noise")
    start = int(lowest * n)
    ratios = (power / around)[start:]
    limit = (1 + 3 / (np.log(2) * np.sqrt(width))) * np.log2(ratios.size / chance)
    peak = np.unravel_index(ratios.argmax(), ratios.shape)[0]
    return Line(float(ratios.max()), float(limit), float((start + peak) / n))

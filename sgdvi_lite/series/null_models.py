"""Null models of a time series: noise, Brownian motion, surrogates of given data; the series backwards."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series


def white_noise(n: int, covariance: ArrayLike, *, generator: torch.Generator) -> np.ndarray:
    """Independent Gaussian vectors ``(n, d)`` with the covariance ``(d, d)``.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> series.white_noise(3, [[1.0, 0.0], [0.0, 4.0]], generator=torch.Generator().manual_seed(0)).shape
    (3, 2)
    """
    n, root = _checks.count("n", n), root_of("covariance", covariance)
    return normal(n, len(root), generator) @ root.T


def brownian(n: int, covariance: ArrayLike, *, generator: torch.Generator) -> np.ndarray:
    """Brownian motion ``(n, d)`` from 0, with the covariance ``(d, d)`` of an increment: a walk without a force.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> series.brownian(3, [[1.0]], generator=torch.Generator().manual_seed(0))[0].tolist()
    [0.0]
    """
    steps = white_noise(n, covariance, generator=generator)
    steps[0] = 0
    return np.cumsum(steps, axis=0)


def phase_surrogate(x: ArrayLike, *, generator: torch.Generator, together: bool = True) -> np.ndarray:
    """Give the Fourier modes of a series random phases: the same periodogram exactly, and all else Gaussian noise.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; better if its ends match, since the method takes it as periodic.
    generator
        CPU generator of the phases.
    together
        Turn all columns by the same phases: cross-spectra stay too, and with them every lagged covariance, circular
        stochastic areas included; the null is any linear Gaussian process, with its current. Otherwise columns are
        turned independently: the null is columns that know nothing of one another, without a current.

    Notes
    -----
    The halves of one surrogate are not independent. With ``together`` the circular area of the whole is that of ``x``:
    what one half has too much of, the other lacks, and a plane chosen because it turns most in one half is biased to
    the opposite sense in the other. Independent phases leave the area between columns free, and there is no such bias.

    References
    ----------
    Theiler et al., Physica D 58 (1992) 77; for several columns and for caveats, Schreiber and Schmitz, Physica D 142
    (2000) 346. Chapter 10.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series
    >>> x = np.sin(np.arange(100.0)) ** 3
    >>> y = series.phase_surrogate(x, generator=torch.Generator().manual_seed(0))
    >>> bool(np.allclose(np.abs(np.fft.rfft(x)), np.abs(np.fft.rfft(y)))), bool(abs(x - y).max() > 0.1)
    (True, True)
    """
    x = as_series("x", x, 4)
    modes = np.fft.rfft(x.reshape(len(x), -1), axis=0)
    shape = (len(modes), 1 if together else modes.shape[1])
    phases = 2 * np.pi * torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    phases[0] = 0
    if len(x) % 2 == 0:
        phases[-1] = 0  # the mode of frequency 1/2 is real
    return np.fft.irfft(modes * np.exp(1j * phases), n=len(x), axis=0).reshape(x.shape)


def time_reversed(x: ArrayLike) -> np.ndarray:
    """The series ``(n, ...)`` backwards: every area and current changes its sign, every spectrum stays.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> series.time_reversed([1.0, 2.0, 3.0]).tolist()
    [3.0, 2.0, 1.0]
    """
    return as_series("x", x, 1)[::-1].copy()


def normal(n: int, m: int, generator: torch.Generator) -> np.ndarray:
    """Independent standard normal numbers ``(n, m)``."""
    return torch.randn(n, m, generator=generator, dtype=torch.float64).numpy()


def root_of(name: str, covariance: ArrayLike) -> np.ndarray:
    """A square root of a covariance, which may be singular."""
    C = _checks.array(name, covariance, 2, "(d, d)")
    good = C.shape == C.T.shape and np.allclose(C, C.T, rtol=0, atol=1e-10 * np.abs(C).max())
    _checks.require(good, f"{name} is no symmetric matrix: expected a covariance (d, d)")
    sizes, vectors = np.linalg.eigh(C)
    _checks.eigenvalue(name, sizes[0], sizes[0] >= -1e-10 * max(sizes[-1], 0), ">= 0, as it is a covariance")
    return vectors * np.sqrt(np.maximum(sizes, 0))

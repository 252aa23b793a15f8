"""Means of correlated series with standard errors, by batch means."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from sgdvi_lite import _checks

LARGEST = 1e70
"""Entries of a series are zero or between this and its inverse in size, so that their fourth powers can be held."""


class Estimate(NamedTuple):
    """An estimate and its standard error, arrays of the same shape."""

    value: np.ndarray
    error: np.ndarray


def batch_means(x: ArrayLike, n_batches: int = 30) -> Estimate:
    r"""Mean of a stationary series, with a standard error that allows for its correlation.

    The series is cut into ``n_batches`` stretches of equal length :math:`L`; what is left over at the start is dropped.
    The error is :math:`s / \sqrt{n}` with :math:`s` the standard deviation of the means of the :math:`n` stretches;
    it is right, to a relative :math:`1/\sqrt{2(n-1)}`, where :math:`L` is many correlation times.

    Parameters
    ----------
    x
        The series ``(n, ...)``, oldest first.
    n_batches
        Number of stretches; at least 2, at most half the length.

    Raises
    ------
    ValueError
        If the series is too short or has a NaN or an infinity.

    References
    ----------
    The method of batch means; Flegal and Jones, arXiv 0811.1729, prove when it is consistent. Chapter 10.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import series
    >>> mean, error = series.batch_means(np.arange(8.0) % 2, n_batches=4)
    >>> float(mean), float(error)
    (0.5, 0.0)
    """
    return mean_of_stretches(stretches(as_series("x", x, 4), n_batches).mean(axis=1))


def stretches(x: np.ndarray, n_batches: int) -> np.ndarray:
    """The last part of a series as ``(n_batches, L, ...)``, or raise unless L is at least two."""
    n_batches = _checks.count("n_batches", n_batches, 2, len(x) // 2, "record more, or ask for fewer batches")
    length = len(x) // n_batches
    return x[len(x) - n_batches * length :].reshape(n_batches, length, *x.shape[1:])


def mean_of_stretches(values: np.ndarray) -> Estimate:
    """Mean of one value a stretch, with the error that their spread tells."""
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def ratio_of_means(top: np.ndarray, bottom: np.ndarray, n_batches: int) -> Estimate:
    """Mean of ``top`` over mean of ``bottom``; the error, of top - ratio * bottom, is at least that of rounding."""
    below, rounding = batch_means(bottom, n_batches).value, 4 * np.finfo(float).eps
    if not np.abs(below) > rounding * np.abs(bottom).mean():
        raise ValueError("right has the mean 0: expected one above 0, of squares; there is no ratio if nothing moves")
    ratio = batch_means(top, n_batches).value / below
    least = rounding * (np.abs(top).mean() + np.abs(bottom).mean())
    return Estimate(ratio, np.maximum(batch_means(top - ratio * bottom, n_batches).error, least) / np.abs(below))


def as_series(name: str, x: ArrayLike, shortest: int, columns: int | None = None) -> np.ndarray:
    """Return the array as float64, or raise unless it is finite, long enough and has the columns asked for."""
    x = _checks.array(name, x)
    expected = "(n, ...), a column or more" if columns is None else f"(n, {columns})"
    good = x.ndim >= 1 and 0 not in x.shape[1:] and (columns is None or x.shape[1:] == (columns,))
    _checks.shape(name, x.shape, good, expected)
    _checks.require(len(x) >= shortest, f"{name} has {len(x)} entries: expected at least {shortest}")
    size = max(x.max(), -x.min())
    allowed = f"0, or 1 / {LARGEST:g} to {LARGEST:g}, as fourth powers are taken; choose another unit"
    _checks.require(size == 0 or 1 / LARGEST <= size <= LARGEST, f"{name} has the size {size:.3g}: expected {allowed}")
    return x


def deviations(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """A series less its mean, in ``out``; exactly 0 where it is constant, whose rounded mean may differ from it."""
    constant = (x == x[0]).all(axis=0)
    z = np.subtract(x, x.mean(axis=0), out=out)
    z[..., constant] = 0
    return z


def unit_deviations(x: np.ndarray) -> np.ndarray:
    """Deviations from the mean in units of the largest of each column, or raise if a column is constant."""
    x = deviations(x)
    size = np.abs(x).max(axis=0)
    _checks.require(size.all(), "x has a column that is constant: expected one that varies; leave it out")
    return x / size


def centred(x: ArrayLike) -> np.ndarray:
    """Return a series ``(n, d)`` less its mean, or raise unless it is one."""
    own = as_series("x", x, 4)
    _checks.shape("x", own.shape, own.ndim == 2, "(n, d)")
    # a trajectory of a network is large: what was converted from another dtype is a copy already
    copied = isinstance(x, np.ndarray | Tensor) and not str(x.dtype).endswith("float64")
    return deviations(own, own if copied else None)


def by_column(function: Callable, x: np.ndarray) -> np.ndarray:
    """Apply a function to each column by itself: a trajectory of a network is large."""
    return np.apply_along_axis(function, 0, x).copy()  # in the usual order of memory

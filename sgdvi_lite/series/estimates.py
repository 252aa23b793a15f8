"""Means of correlated series with standard errors, by batch means."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks


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
    _checks.count("n_batches", n_batches, low=2, high=len(x) // 2, remedy="record more, or ask for fewer batches")
    length = len(x) // n_batches
    return x[len(x) - n_batches * length :].reshape(n_batches, length, *x.shape[1:])


def mean_of_stretches(values: np.ndarray) -> Estimate:
    """Mean of one value a stretch, with the error that their spread tells."""
    return Estimate(values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def ratio_of_means(top: np.ndarray, bottom: np.ndarray, n_batches: int) -> Estimate:
    """Mean of ``top`` over mean of ``bottom``; the error is that of top - ratio * bottom, over the mean of bottom."""
    below = batch_means(bottom, n_batches).value
    ratio = batch_means(top, n_batches).value / below
    return Estimate(ratio, batch_means(top - ratio * bottom, n_batches).error / np.abs(below))


def as_series(name: str, x: ArrayLike, shortest: int, columns: int | None = None) -> np.ndarray:
    """Return the array as float64, or raise unless it is finite, long enough and has the columns asked for."""
    x = np.asarray(x, dtype=np.float64)
    expected = "(n, ...)" if columns is None else f"(n, {columns})"
    _checks.shape(name, x.shape, x.ndim >= 1 and (columns is None or x.shape[1:] == (columns,)), expected)
    _checks.require(len(x) >= shortest, f"{name} has {len(x)} entries: expected at least {shortest}")
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        raise ValueError(f"{name}: NaN or infinity in row {bad[0][0]}; expected finite numbers")
    return x


def centred(x: ArrayLike) -> np.ndarray:
    """Return a series ``(n, d)`` less its mean, or raise unless it is one."""
    own = as_series("x", x, 4)
    _checks.shape("x", own.shape, own.ndim == 2, "(n, d)")
    # a trajectory of a network is large: what was converted is a copy already
    return np.subtract(own, own.mean(axis=0), out=None if np.may_share_memory(own, np.asarray(x)) else own)


def by_column(function: Callable, x: np.ndarray) -> np.ndarray:
    """Apply a function to each column by itself: a trajectory of a network is large."""
    return np.apply_along_axis(function, 0, x).copy()  # in the usual order of memory

"""Stationarity: Yaida's relation, as a ratio with its error; the trend of a series."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series, ratio_of_means, stretches


class Balance(NamedTuple):
    """Left side over right side of Yaida's relation, the standard error, and the distance from 1 in errors."""

    ratio: float
    error: float
    z: float


def stationarity(left: ArrayLike, right: ArrayLike, n_batches: int = 20) -> Balance:
    r"""Test Yaida's relation, which holds in every stationary state of SGD, whatever the loss and the noise.

    With PyTorch's momentum, :math:`v' = \mu v + g` and :math:`x' = x - \eta v'`, where g is the gradient of the batch
    at x, the relation is

    .. math:: \mathbb{E}[x \cdot g] = \tfrac{\eta}{2} (1 + \mu)\, \mathbb{E}[|v'|^2].

    *Proof.* In a stationary state :math:`\mathbb{E}|x'|^2 = \mathbb{E}|x|^2`, so (a) :math:`2\,\mathbb{E}[x \cdot v'] =
    \eta\,\mathbb{E}|v'|^2`; and :math:`\mathbb{E}[x' \cdot v'] = \mathbb{E}[x \cdot v]`, so with (a)
    :math:`\mathbb{E}[x \cdot v] = -\tfrac{\eta}{2}\mathbb{E}|v'|^2`. Insert :math:`v' = \mu v + g` into (a). ∎ For
    :math:`\mu = 0` it is Yaida's first relation, :math:`\mathbb{E}[x \cdot g] = \tfrac{\eta}{2}\mathbb{E}|g|^2`. With
    Nesterov's momentum, :math:`x' = x - \eta(g + \mu v')`, the point :math:`y = x + \eta\mu v` obeys
    :math:`y' = y - \eta v'`, and the relation has y in place of x. Only stationarity is used: the mean over an epoch
    stands for the expectation where batches are reshuffled.

    The two sides differ, summed over a run, by the difference of one quantity between its ends, :math:`(1-\mu)|y|^2 /
    2\eta - \mu\,y \cdot v`. So the test sees whether this has ceased to drift, and nothing else: a ratio of 1 is
    necessary for stationarity and does not prove it. Weights in front of a batch-norm have :math:`x \cdot g = 0`,
    but for its small epsilon, so without weight decay they drift outwards for ever.

    Parameters
    ----------
    left, right
        The two sides, step by step or averaged over as many steps each, ``(n,)``: ``Recording.balance()``.
    n_batches
        Stretches by which the error is estimated, as in :func:`batch_means`.

    Returns
    -------
    Balance
        Ratio of the mean sides, its standard error, and z = (ratio - 1) / error. In a stationary state the error is too
        large rather than too small, since neighbouring stretches share an end. It is at least that of rounding, so that
        sides that are constant and equal have z = 0.

    Raises
    ------
    ValueError
        If the sides are no finite series of one length, at least two samples for each stretch, or the right one has
        the mean 0.

    References
    ----------
    S. Yaida, Fluctuation-dissipation relations for stochastic gradient descent, ICLR 2019, arXiv 1810.00004; the
    relations with momentum are derived above. Chapter 10.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series, sgd
    >>> a, lr = torch.tensor([-1.0, 1.0]).double(), 0.1  # f_k = (x - a_k)^2 / 2
    >>> x = sgd.replicas(lambda x, i: x - a[i].mean(1, keepdim=True), torch.zeros(1, 1).double(), 2, lr, 1, 20_000,
    ...                  generator=torch.Generator().manual_seed(0), every=1)[:, 0, 0].numpy()
    >>> g = (x[:-1] - x[1:]) / lr
    >>> balance = series.stationarity(x[:-1] * g, lr / 2 * g**2)
    >>> abs(balance.ratio - 1) < 0.02 and abs(balance.z) < 3
    True
    """
    left, right = as_series("left", left, 4), as_series("right", right, 4)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(f"left has shape {left.shape}, right {right.shape}: expected two series (n,) of one length")
    ratio, error = (float(v) for v in ratio_of_means(left, right, n_batches))
    return Balance(ratio, error, (ratio - 1) / error)


def trend(x: ArrayLike, n_batches: int = 20) -> float:
    """How far the last half of a series lies from its first tenth, in standard errors: a normal number if stationary.

    The series is cut into ``n_batches`` stretches; the error is that which the spread of those in the last half tells,
    and Student's t is turned into the normal number of the same probability. It is right where a stretch is many
    correlation times long; of a random walk the distance is nearly always many errors.

    Parameters
    ----------
    x
        The series ``(n,)``, such as the loss or the norm of the weights.
    n_batches
        Stretches, at least 10.

    Raises
    ------
    ValueError
        If ``x`` is no finite series ``(n,)`` of two samples for each stretch.

    References
    ----------
    J. Geweke, in Bayesian Statistics 4 (1992) 169, with the variance by stretches. Chapter 10.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> g = torch.Generator().manual_seed(0)
    >>> noise, walk = (make(4000, [[1.0]], generator=g)[:, 0] for make in (series.white_noise, series.brownian))
    >>> abs(series.trend(noise)) < 3 < abs(series.trend(walk))
    True
    """
    x = as_series("x", x, 20)
    _checks.shape("x", x.shape, x.ndim == 1, "(n,)")
    means = stretches(x, _checks.count("n_batches", n_batches, low=10)).mean(axis=1)
    first, last = means[: n_batches // 10], means[n_batches // 2 :]
    error = max(last.std(ddof=1), 1e-12 * np.abs(means).max()) * np.sqrt(1 / len(first) + 1 / len(last))
    t = (last.mean() - first.mean()) / error if error else 0.0
    return float(np.copysign(stats.norm.isf(max(stats.t.sf(abs(t), len(last) - 1), 1e-300)), t))

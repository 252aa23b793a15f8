"""Positive stencils: a diffusion tensor as a sum of one-dimensional diffusions along the links of a grid.

Every symmetric positive definite 2 x 2 matrix is ``sum_k weight_k e_k e_k^T`` with three integer vectors ``e_k`` and
weights that are not negative. A flux along each ``e_k`` then discretises a full tensor, cross terms included, without
ever making a negative rate.

References
----------
Selling, Ueber die binären und ternären quadratischen Formen, J. reine angew. Math. 77 (1874), 143-229: the reduction.
"""

import numpy as np

_TURNS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
_SWEEPS = 200


def selling(D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decompose matrices ``D`` (n, 2, 2) into weights (n, 3), not negative, and integer offsets (n, 3, 2).

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite.fokker_planck.stencil import selling
    >>> D = np.array([[[2.0, 1.5], [1.5, 2.0]]])
    >>> weights, offsets = selling(D)
    >>> np.allclose(np.einsum("nk,nki,nkj->nij", weights, offsets, offsets), D)
    True
    """
    base = np.tile(np.array([[1, 0], [0, 1], [-1, -1]]), (len(D), 1, 1))
    tiny = 1e-14 * np.trace(D, axis1=1, axis2=2)
    for _ in range(_SWEEPS):
        if not any(_turn(base, D, tiny, *pair) for pair in _TURNS):
            break
    else:
        fault = "D: too anisotropic for the grid; use cells whose shape follows the tensor, or add a multiple of I"
        raise ValueError(fault)
    weights = np.stack([-_product(base, D, 1, 2), -_product(base, D, 0, 2), -_product(base, D, 0, 1)], axis=1)
    return np.where(weights > tiny[:, None], weights, 0.0), np.stack([-base[..., 1], base[..., 0]], axis=-1)


def _product(base: np.ndarray, D: np.ndarray, i: int, j: int) -> np.ndarray:
    return np.einsum("na,nab,nb->n", base[:, i], D, base[:, j])


def _turn(base: np.ndarray, D: np.ndarray, tiny: np.ndarray, i: int, j: int, k: int) -> bool:
    """Where vectors i and j enclose an acute angle in the metric of D, replace the superbase by a blunter one."""
    acute = _product(base, D, i, j) > tiny
    first, second = base[acute, i].copy(), base[acute, j].copy()
    base[acute, i], base[acute, k] = -first, first - second
    return bool(acute.any())


def bernoulli(w: np.ndarray) -> np.ndarray:
    """The Bernoulli function ``w / (exp(w) - 1)``, with value 1 at zero: the weight of exponential fitting."""
    small = np.abs(w) < 1e-5
    safe = np.where(small, 1.0, w)
    return np.where(
        small, 1 - w / 2 + np.square(np.where(small, w, 0.0)) / 12, safe / np.expm1(np.minimum(safe, 700.0))
    )

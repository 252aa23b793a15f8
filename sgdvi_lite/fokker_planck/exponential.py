"""The exponential of a large matrix times a vector, from a few implicit steps (shift-and-invert Krylov).

The space spanned by ``v, R v, R^2 v, ...`` with ``R = (I - step A)^-1`` holds ``exp(t A) v`` to a precision that
improves by about 0.4 digits with each vector, whatever the norm of ``A``: stiff parts, which have died out by the time
t, cost nothing. One factorisation of ``I - step A`` serves, with ``t`` about ten steps.

References
----------
van den Eshof and Hochbruck, Preconditioning Lanczos approximations to the matrix exponential, SIAM J. Sci. Comput. 27
(2006), 1438-1457: the method and its bounds for symmetric ``A``. Here ``A`` need not be symmetric; whoever calls this
watches the changes.
"""

from collections.abc import Callable, Iterator

import numpy as np
from scipy.linalg import expm

BASIS = 40  # the most vectors that the space may have


def exponentials(solve: Callable[[np.ndarray], np.ndarray], v: np.ndarray, ratio: float) -> Iterator[np.ndarray]:
    """Yield better and better approximations of ``exp(t A) v``: at most :data:`BASIS`; if fewer, the last is exact.

    Parameters
    ----------
    solve
        Maps a vector ``w`` to ``(I - step A)^-1 w``.
    v
        The vector, not zero.
    ratio
        ``t / step``; 5 to 20 serves well.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite.fokker_planck import exponential
    >>> rates = np.array([1.0, 50.0, 2500.0])  # A = diag(-rates), t = 1, step = 0.1
    >>> *_, last = exponential.exponentials(lambda w: w / (1 + 0.1 * rates), np.ones(3), ratio=10)
    >>> np.allclose(last, np.exp(-rates), atol=1e-14)
    True
    """
    size = np.linalg.norm(v)
    basis = np.empty((BASIS + 1, len(v)))
    H = np.zeros((BASIS + 1, BASIS))
    basis[0] = v / size
    for m in range(1, BASIS + 1):
        _arnoldi(solve, basis, H, m)
        weights = size * expm(ratio * (np.eye(m) - np.linalg.inv(H[:m, :m])))[:, 0]
        yield weights @ basis[:m]
        if H[m, m - 1] <= 1e-14 * np.linalg.norm(H[: m + 1, m - 1]):
            return
        basis[m] /= H[m, m - 1]


def _arnoldi(solve: Callable[[np.ndarray], np.ndarray], basis: np.ndarray, H: np.ndarray, m: int) -> None:
    """Put the next direction, not normalised, in row m, and its projections in column m - 1; orthogonalise twice."""
    new = solve(basis[m - 1])
    for _ in range(2):
        share = basis[:m] @ new
        new -= share @ basis[:m]
        H[:m, m - 1] += share
    H[m, m - 1] = np.linalg.norm(new)
    basis[m] = new

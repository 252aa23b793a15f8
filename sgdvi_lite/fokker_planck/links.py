"""The links between the cells of a grid, and the flux that each carries: the equation as a Markov chain.

Each link carries the exponentially fitted flux of Scharfetter and Gummel (1969). Where the density between two cells is
an exponential it is exact without a current; a current through a drift that is large for the cells is smeared, as if
there were more diffusion.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sgdvi_lite import _checks
from sgdvi_lite.fokker_planck.fields import Equation, Values
from sgdvi_lite.fokker_planck.stencil import bernoulli, selling

CORNERS = 0.02  # at most this share of the cells may be beyond the reach of the links of D

REMEDY = "use more cells, cells whose shape follows the tensor, or add a multiple of I"

_AXES = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])


@dataclass(frozen=True)
class Links:
    """Links p -> q between flattened cells."""

    p: np.ndarray
    q: np.ndarray
    rate: np.ndarray  # what diffusion alone carries over, per unit of time
    work: np.ndarray  # of the force divided by T, on the way from p to q

    def generator(self, n: int) -> sparse.csc_matrix:
        """Sparse matrix A, d(rho)/dt = A rho for n cells: columns sum to zero, off-diagonals are >= 0."""
        there, back = self.rate * bernoulli(-self.work), self.rate * bernoulli(self.work)
        rows, columns = np.concatenate([self.q, self.p]), np.concatenate([self.p, self.q])
        rates = sparse.coo_matrix((np.concatenate([there, back]), (rows, columns)), shape=[n] * 2).tocsc()
        return rates - sparse.diags(np.asarray(rates.sum(axis=0)).ravel(), format="csc")


def make(equation: Equation, points: np.ndarray, values: Values, shape: tuple[int, int], spacing: np.ndarray) -> Links:
    """Link the cells along the offsets of their tensors, and those that no offset reaches to their neighbours."""
    D, force = values.D, values.force()
    weights, offsets = selling(D / spacing[:, None] / spacing)
    signs = (1, -1) if callable(equation.D) else (1,)  # half of a link belongs to either end; constant D: both halves
    steps = [
        (w / len(signs), sign * e) for w, e in zip(weights.T, offsets.swapaxes(0, 1), strict=True) for sign in signs
    ]
    p, q, weight = (np.concatenate(part) for part in zip(*(_inside(shape, *step) for step in steps), strict=True))
    _, part = connected_components(sparse.coo_matrix((weight, (p, q)), shape=[len(points)] * 2), directed=False)
    apart = part != np.bincount(part).argmax()
    fault = f"D: too anisotropic for the grid: its links do not reach {apart.sum()} of {len(points)} cells; {REMEDY}"
    _checks.require(apart.mean() <= CORNERS, fault)
    if apart.any():
        diagonal = np.diagonal(D, axis1=1, axis2=2) / spacing**2 * apart[:, None]
        extra = [_inside(shape, diagonal[:, abs(e[1])], np.tile(e, (len(points), 1))) for e in _AXES]
        p, q, weight = (np.concatenate([old, *new]) for old, *new in zip((p, q, weight), *extra, strict=True))
    middle = equation.at((points[p] + points[q]) / 2, spacing).force()
    mean = (force[p] + 4 * middle + force[q]) / 6 / equation.T  # Simpson: exact for a quartic potential
    return Links(p, q, equation.T * weight, np.einsum("ni,ni->n", mean, points[q] - points[p]))


def _inside(shape: tuple[int, int], weight: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, ...]:
    """The links p -> q = p + offset that stay on the grid, with their weights."""
    position = np.stack(np.unravel_index(np.arange(len(weight)), shape), axis=1) + offset
    inside = ((position >= 0) & (position < shape)).all(axis=1) & (weight > 0)
    return np.flatnonzero(inside), np.ravel_multi_index(position[inside].T, shape), weight[inside]

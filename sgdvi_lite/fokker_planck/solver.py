"""The equation on a grid of cells: generator, steady state, evolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from threadpoolctl import threadpool_limits

from sgdvi_lite import _checks
from sgdvi_lite.fokker_planck import exponential, fields
from sgdvi_lite.fokker_planck.fields import Field
from sgdvi_lite.fokker_planck.stencil import bernoulli, selling

CONVENTIONS = ("ito", "printed")

PIECES = 2**12
"""Into how many parts an interval may be cut."""

KEPT = 3
"""Number of sparse factorisations kept for the next interval of the same length."""

# how SuperLU factors an M-matrix, which needs no pivoting
SPLU = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0, "panel_size": 1, "options": {"SymmetricMode": True}}


class FokkerPlanck:
    r"""The equation :math:`\rho_t = -\nabla\cdot(b\,\rho) + T\,\nabla\cdot(\nabla\cdot(D\rho))`, or its printed form.

    Parameters
    ----------
    drift
        Maps points ``(n, 2)`` to the drift ``b`` (n, 2); for SGD, minus the gradient of the loss.
    D
        The diffusion tensor: a symmetric positive definite 2 x 2 array, or a function of points to ``(n, 2, 2)``.
    T
        Temperature, > 0. The noise of the stochastic differential equation is ``sqrt(2 T D)``.
    bounds
        ``((x_low, x_high), (y_low, y_high))``. No probability crosses these walls.
    shape
        Number of cells along x and y, at least 4 each.
    convention
        ``ito``: the flux is ``b rho - T div(D rho)``, with the row-wise divergence. ``printed``: ``b rho - T D grad
        rho``, as in the paper's (FP). They agree where D is constant; chapter 2 derives both.

    Raises
    ------
    ValueError
        Before any work: if T <= 0, bounds are reversed, a field has another shape, a NaN or an infinity, D is
        asymmetric or not positive definite, or the grid is too coarse for the drift: fewer than 16 cells with a cell
        Peclet number ``|b| h / (T D)`` of at most 2.

    Attributes
    ----------
    effective_drift : numpy.ndarray
        The drift ``(nx * ny, 2)`` of the printed form that has the same flux: ``b - T div D`` (Ito) or ``b``.

    References
    ----------
    The tensor is split into diffusions along links between cells (``stencil``); each link carries the exponentially
    fitted flux of Scharfetter and Gummel, Large-signal analysis of a silicon Read diode oscillator, IEEE Trans.
    Electron Devices 16 (1969), 64-77.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite.fokker_planck import FokkerPlanck
    >>> fp = FokkerPlanck(lambda p: -p, np.eye(2), T=0.5, bounds=((-4, 4), (-4, 4)), shape=(40, 40))
    >>> rho = fp.steady_state()
    >>> X, Y = fp.grid
    >>> bool(np.isclose((rho * X**2).sum() * fp.cell_area, 0.5, rtol=1e-3))
    True
    """

    def __init__(
        self,
        drift: Field,
        D: np.ndarray | Field,
        T: float,
        bounds: Sequence[Sequence[float]],
        shape: Sequence[int],
        convention: str = "ito",
    ):
        _checks.positive("T", T)
        _checks.one_of("convention", convention, CONVENTIONS)
        self.T, self.convention = float(T), convention
        self.bounds, self.shape = fields.box(bounds, shape)
        self._factors: dict[float, SuperLU] = {}
        self._constant = not callable(D)
        self._tensor = fields.as_field(D)
        self._drift = drift
        self._points = np.stack([axis.ravel() for axis in self.grid], axis=1)
        self._D = fields.checked_tensor(self._tensor(self._points), self._points)
        self.effective_drift = self._flux_drift(self._points)
        fields.check_drift(self.effective_drift, self._D, self.T, self.spacing, self._points)

    @property
    def spacing(self) -> np.ndarray:
        """Width and height of a cell."""
        return np.array([(high - low) / n for (low, high), n in zip(self.bounds, self.shape, strict=True)])

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Cell centres X and Y, each of the grid's shape, indexed ``ij``."""
        sides = zip(self.bounds, self.spacing, self.shape, strict=True)
        return tuple(np.meshgrid(*(low + h * (np.arange(n) + 0.5) for (low, _), h, n in sides), indexing="ij"))

    @property
    def cell_area(self) -> float:
        """Area of a cell: a density integrates to ``rho.sum() * cell_area``."""
        return float(self.spacing.prod())

    @property
    def tensor(self) -> np.ndarray:
        """D at the cell centres, array ``(nx, ny, 2, 2)``."""
        return self._D.reshape(*self.shape, 2, 2)

    def _flux_drift(self, points: np.ndarray) -> np.ndarray:
        """The drift of the printed form that has the same flux."""
        drift = np.asarray(self._drift(points), dtype=float)
        if drift.shape != points.shape:
            raise ValueError(f"drift gave shape {drift.shape} for {len(points)} points: expected {points.shape}")
        return drift if self.convention == "printed" else drift - self.T * self._divergence(points)

    def _divergence(self, points: np.ndarray) -> np.ndarray:
        """Row-wise divergence of D, by central differences of the given function, of fourth order."""
        total = np.zeros_like(points)
        if self._constant:
            return total
        for axis, h in enumerate(self.spacing * 1e-2):
            step = h * np.eye(2)[axis]
            near = self._tensor(points + step) - self._tensor(points - step)
            far = self._tensor(points + 2 * step) - self._tensor(points - 2 * step)
            total += (8 * near - far)[:, :, axis] / (12 * h)
        return total

    def _force(self, points: np.ndarray) -> np.ndarray:
        """Inverse of T D times the effective drift: minus grad Phi / T where there is a potential."""
        (a, b), (c, d) = np.moveaxis(self._tensor(points), 0, -1)
        x, y = self._flux_drift(points).T
        return np.stack([d * x - b * y, a * y - c * x], axis=1) / (self.T * (a * d - b * c))[:, None]

    @cached_property
    def generator(self) -> sparse.csc_matrix:
        """Sparse matrix A, d(rho)/dt = A rho for the flattened cells: columns sum to zero, off-diagonals are >= 0."""
        force = self._force(self._points)
        weights, offsets = selling(self._D / np.outer(self.spacing, self.spacing))
        signs = (1,) if self._constant else (1, -1)  # half of a link belongs to either end; constant D: both halves
        links = zip(weights.T / len(signs), offsets.swapaxes(0, 1), strict=True)
        entries = [self._links(force, weight, sign * offset) for weight, offset in links for sign in signs]
        rates, rows, columns = (np.concatenate(part) for part in zip(*entries, strict=True))
        rates = sparse.coo_matrix((rates, (rows, columns)), shape=[len(self._points)] * 2).tocsc()
        return rates - sparse.diags(np.asarray(rates.sum(axis=0)).ravel(), format="csc")

    def _links(self, force: np.ndarray, weight: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, ...]:
        """Rates along the links p -> q = p + offset, in both directions, with the cells that they reach and leave."""
        position = np.stack(np.unravel_index(np.arange(len(weight)), self.shape), axis=1) + offset
        inside = ((position >= 0) & (position < self.shape)).all(axis=1) & (weight > 0)
        p, q = np.flatnonzero(inside), np.ravel_multi_index(position[inside].T, self.shape)
        middle = self._force((self._points[p] + self._points[q]) / 2)
        mean = (force[p] + 4 * middle + force[q]) / 6  # Simpson: exact for a quartic potential
        work = np.einsum("ni,ni->n", mean, offset[inside] * self.spacing)
        rate = self.T * weight[inside]
        rates = np.concatenate([rate * bernoulli(-work), rate * bernoulli(work)])
        return rates, np.concatenate([q, p]), np.concatenate([p, q])

    def _factor(self, step: float) -> SuperLU:
        """Factors of I - step A, an M-matrix; the last few are kept."""
        if step not in self._factors:
            while len(self._factors) >= KEPT:
                self._factors.pop(next(iter(self._factors)))
            matrix = (sparse.identity(self.generator.shape[0], format="csc") - step * self.generator).tocsc()
            self._factors[step] = splu(matrix, **SPLU)
        return self._factors[step]

    def steady_state(self) -> np.ndarray:
        """Return the stationary density, of the grid's shape; it integrates to 1.

        One factorisation; implicit steps, 1e9 times as long as diffusion takes to cross the domain, are repeated until
        nothing changes. A barrier in the potential of 25 T between two wells costs half the digits.

        Raises
        ------
        RuntimeError
            If it does not settle: the chain on the cells is reducible, or relaxes too slowly for double precision.
        """
        before = np.full(len(self._points), 1 / len(self._points))
        size = self.spacing * self.shape
        slowest = self.T * float(np.linalg.eigvalsh(self._D).min()) / float((size**2).max())
        factor = self._factor(1e9 / slowest)
        for _ in range(20):
            rho = factor.solve(before)
            rho /= rho.sum()
            if np.abs(rho - before).sum() < 1e-11:
                return (rho / self.cell_area).reshape(self.shape)
            before = rho
        raise RuntimeError(
            "steady_state: not settled after 20 implicit steps; two parts of the domain may be disconnected, or a "
            "barrier of some 30 T may part them: use a higher T"
        )

    def evolve(self, rho0: np.ndarray, times: ArrayLike, tolerance: float = 1e-9) -> np.ndarray:
        """Return the densities at the given times, array ``(len(times), *shape)``, starting from ``rho0`` at time 0.

        Each interval is one projection on the space that a few implicit steps of about a tenth of it span: one
        factorisation, and a number of solves that hardly depends on the grid. The space grows until the last two
        changes, in the L1 norm, are below ``tolerance``; each solve gains about 0.4 digits. If it would grow too
        large, as for a fast rotation over a long time, the interval is cut. Where the density is below the rounding of
        its largest value a projection can be negative: such values are set to that rounding, and the mass is restored.
        So a density is positive everywhere at every positive time, as it should be.

        Parameters
        ----------
        rho0
            Density at time 0, of the grid's shape.
        times
            Increasing times >= 0.
        tolerance
            Error in time of each interval, in the L1 norm; at least 1e-10.

        Raises
        ------
        ValueError
            If ``rho0`` has another shape, a negative value, a NaN, or does not integrate to 1; if a time is negative or
            they do not increase; if ``tolerance`` is too small.
        """
        rho0 = np.asarray(rho0, dtype=float)
        _checks.shape("rho0", rho0.shape, rho0.shape == self.shape, f"the grid's, {self.shape}")
        rho = fields.checked_density("rho0", rho0, self.cell_area).ravel() * self.cell_area
        times = fields.checked_times(times)
        if not tolerance >= 1e-10:
            raise ValueError(f"tolerance = {tolerance}: expected a number >= 1e-10, above the rounding of the solver")
        densities = np.empty((len(times), *self.shape))
        longest = np.inf
        with threadpool_limits(1):  # vectors and small matrices: a second thread would only wait
            for k, duration in enumerate(np.diff(times, prepend=0.0)):
                if duration > 0:
                    rho, longest = self._advance(rho, duration, tolerance, longest)
                densities[k] = (rho / self.cell_area).reshape(self.shape)
        return densities

    def _advance(self, rho: np.ndarray, duration: float, tolerance: float, longest: float) -> tuple[np.ndarray, float]:
        """Cut an interval until each piece converges; return the density and the longest piece to try next."""
        pieces = ceil(duration / longest) or 1
        while pieces <= PIECES:
            moved = rho
            for _ in range(pieces):
                if moved is not None:
                    moved = self._piece(moved, duration / pieces, max(tolerance / pieces, 1e-13))
            if moved is not None:
                return moved, longest
            pieces *= 2
            longest = duration / pieces
        raise RuntimeError(f"evolve: {PIECES} pieces of an interval of {duration} do not reach tolerance = {tolerance}")

    def _piece(self, rho: np.ndarray, duration: float, tolerance: float) -> np.ndarray | None:
        """Approximate until the last two changes, and what is negative, are below the tolerance; None if never."""
        step = 2.0 ** round(np.log2(duration / 10))  # powers of two, so that intervals of like length share a factor
        before, last_change = rho, np.inf
        for after in exponential.exponentials(self._factor(step).solve, rho, duration / step):
            change = np.abs(after - before).sum()
            if max(last_change, change) - after[after < 0].sum() < tolerance:
                after = np.maximum(after, np.finfo(float).eps * after.max())
                return after / after.sum()
            before, last_change = after, change
        return None

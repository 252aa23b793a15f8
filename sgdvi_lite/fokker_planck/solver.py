"""The equation on a grid of cells: generator, steady state, evolution."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from math import ceil

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu
from threadpoolctl import threadpool_limits

from sgdvi_lite import _checks
from sgdvi_lite.fokker_planck import exponential, fields, links, resolution
from sgdvi_lite.fokker_planck.fields import Equation, Field

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
        The diffusion tensor: a symmetric positive definite 2 x 2 array, or a function of points to ``(n, 2, 2)``; for
        Ito it must be differentiable, and smooth on the scale of a cell.
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
        asymmetric or not positive definite, or jumps (Ito), or the grid is too coarse for the directions of ``D``.
        Later: if a density has its mass where the grid does not resolve the drift or a well (``resolution``).

    Notes
    -----
    The functions are called here, with copies of the points, and never again. Nothing of it can be set, and its
    arrays are read-only. Errors of densities and means fall as h^2: given ``n`` and ``2 n`` cells a side, that of the
    finer result is about a third of the difference.

    Attributes
    ----------
    generator : scipy.sparse.csc_matrix
        The matrix A, d(rho)/dt = A rho for the flattened cells: columns sum to zero, off-diagonals are >= 0.
    grid : tuple
        Cell centres X and Y, each of the grid's shape, indexed ``ij``.
    spacing : numpy.ndarray
        Width and height of a cell.
    cell_area : float
        Width times height of a cell: a density integrates to ``rho.sum() * cell_area``.
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
        D: np.ndarray | Sequence | Field,
        T: float,
        bounds: np.ndarray | Sequence,
        shape: np.ndarray | Sequence,
        convention: str = "ito",
    ):
        _checks.positive("T", T)
        _checks.one_of("convention", convention, CONVENTIONS)
        equation = Equation(drift, fields.as_field(D), float(T), convention)
        self._discretise(equation, *fields.box(bounds, shape))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set: a FokkerPlanck does not change; make another with the new value")

    def _discretise(self, equation: Equation, bounds: tuple, shape: tuple[int, int]) -> None:
        """Set all attributes, once, from the values of the fields; what could be written into is read-only."""
        lows, highs = np.transpose(bounds)
        spacing = (highs - lows) / shape
        axes = (low + h * (np.arange(n) + 0.5) for low, h, n in zip(lows, spacing, shape, strict=True))
        grid = tuple(np.meshgrid(*axes, indexing="ij"))
        points = np.stack([axis.ravel() for axis in grid], axis=1)
        values = equation.at(points, spacing)
        size = (spacing * shape).max()
        slowest = equation.T * (float(np.linalg.eigvalsh(values.D).min()) / size / size)
        if equation.convention == "ito":
            fields.check_smooth(values, shape, spacing)
        chain = links.make(equation, points, values, shape, spacing)
        generator = chain.generator(len(points))
        for array in (spacing, *grid, values.drift, generator.data, generator.indices, generator.indptr):
            array.flags.writeable = False
        vars(self).update(T=equation.T, convention=equation.convention, bounds=bounds, shape=shape, spacing=spacing)
        vars(self).update(grid=grid, effective_drift=values.drift, generator=generator, cell_area=float(spacing.prod()))
        force = values.force().reshape(*shape, 2) / equation.T
        vars(self).update(_D=values.D, _force=force, _links=chain, _slowest=slowest)
        vars(self).update(_factor=lru_cache(KEPT)(partial(_factor, generator)))

    @property
    def tensor(self) -> np.ndarray:
        """D at the cell centres, array ``(nx, ny, 2, 2)``."""
        return self._D.reshape(*self.shape, 2, 2).copy()

    def steady_state(self) -> np.ndarray:
        """Return the stationary density, of the grid's shape; it integrates to 1.

        One factorisation; implicit steps, 1e9 times as long as diffusion takes to cross the domain, are repeated until
        nothing changes. A barrier in the potential of 25 T between two wells costs half the digits.

        Raises
        ------
        RuntimeError
            If it does not settle: the chain on the cells relaxes too slowly for double precision.
        ValueError
            If its mass is where the grid does not resolve the drift, or the wells of the potential.
        """
        rho = np.full(len(self._D), 1 / len(self._D))
        factor = self._factor(1e9 / self._slowest)
        for _ in range(20):
            before, rho = rho, factor.solve(rho)
            rho /= rho.sum()
            if np.abs(rho - before).sum() < 1e-11:
                self._check("steady_state", rho)
                return (rho / self.cell_area).reshape(self.shape)
        fault = "steady_state: not settled after 20 implicit steps; a barrier of some 30 T may part the domain: raise T"
        raise RuntimeError(fault)

    def _check(self, name: str, rho: np.ndarray) -> None:
        resolution.check(name, self._links, self._force, rho.reshape(self.shape), self.spacing)

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
            Increasing times >= 0; there may be none.
        tolerance
            Error in time of each interval, in the L1 norm; from 1e-10.

        Raises
        ------
        ValueError
            If ``rho0`` has another shape, a negative value, a NaN, or does not integrate to 1; if a time is negative or
            they do not increase; if ``tolerance`` is too small. Later, as for :meth:`steady_state`, for a density at a
            time > 0.
        """
        _checks.shape("rho0", np.shape(rho0), np.shape(rho0) == self.shape, f"the grid's, {self.shape}")
        rho = fields.checked_density("rho0", rho0, self.cell_area).ravel() * self.cell_area
        times = np.atleast_1d(_checks.array("times", times))
        increasing = times.ndim == 1 and (np.diff(times, prepend=-1e-300) > 0).all()
        _checks.argument("times", times.tolist(), increasing, "increasing numbers >= 0")
        sensible = "a number in [1e-10, 1), above the rounding of the solver"
        _checks.number("tolerance", tolerance, lambda v: 1e-10 <= v < 1, sensible)
        densities, longest = np.empty((len(times), *self.shape)), np.inf
        one_thread = threadpool_limits(1)  # vectors and small matrices: a second thread would only wait
        with one_thread, np.errstate(over="ignore", invalid="ignore"):  # what overflows is not taken
            for k, duration in enumerate(np.diff(times, prepend=0.0)):
                if duration > 0:
                    rho, longest = self._advance(rho, duration, tolerance, longest)
                    self._check("evolve", rho)
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
        fault = f"evolve: {PIECES} pieces of an interval of {duration} do not reach tolerance = {tolerance}; "
        raise RuntimeError(fault + "rounding hides what changes so slowly: ask for earlier times")

    def _piece(self, rho: np.ndarray, duration: float, tolerance: float) -> np.ndarray | None:
        """Approximate until the last two changes, and what is negative, are below the tolerance, or it is exact."""
        # powers of two, so that intervals of like length share a factor
        step = 2.0 ** round(np.log2(max(duration / 10, 1e-300)))
        before, last_change = rho, np.inf
        for tried, after in enumerate(exponential.exponentials(self._factor(step).solve, rho, duration / step), 1):
            after /= max(after.sum(), 0.5)  # it is 1 but for rounding, which a long step magnifies
            change, negative = np.abs(after - before).sum(), -after[after < 0].sum()
            settled = max(last_change, change) + negative < tolerance
            if settled or tried == exponential.BASIS:
                break
            before, last_change = after, change
        exhausted = tried < exponential.BASIS and after.sum() > 0.5 and negative < tolerance  # then it is exact
        after = np.maximum(after, np.finfo(float).eps * after.max())
        return after / after.sum() if settled or exhausted else None


def _factor(generator: sparse.csc_matrix, step: float) -> SuperLU:
    """Factors of I - step A, an M-matrix."""
    return splu((sparse.identity(generator.shape[0], format="csc") - step * generator).tocsc(), **SPLU)

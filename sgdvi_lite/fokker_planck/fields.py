"""Fields on a rectangle, and what the Fokker-Planck solver asks of them before any work is done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks

Field = Callable[[np.ndarray], np.ndarray]

JUMP = 0.08  # D may change between cells by so much of its trace beyond what its slopes say
SIDES = "((x_low, x_high), (y_low, y_high)) with low < high"


@dataclass(frozen=True)
class Equation:
    """Drift, diffusion tensor, temperature and convention. The functions are called with copies of the points."""

    drift: Field
    D: np.ndarray | Field
    T: float
    convention: str

    def tensor(self, points: np.ndarray) -> np.ndarray:
        """D at the points, ``(n, 2, 2)``, checked."""
        fixed = not callable(self.D)
        D = np.broadcast_to(self.D, (len(points), 2, 2)) if fixed else sample("D", self.D, points, (2, 2))
        return checked_tensor(D, points)

    def at(self, points: np.ndarray, spacing: np.ndarray) -> "Values":
        """All that the solver needs to know at the points. The slopes are central differences of fourth order."""
        slopes = np.zeros((2, len(points), 2, 2))
        for axis, h in enumerate(spacing * 1e-2 if self.convention == "ito" and callable(self.D) else ()):
            step = h * np.eye(2)[axis]
            near = self.tensor(points + step) - self.tensor(points - step)
            far = self.tensor(points + 2 * step) - self.tensor(points - 2 * step)
            slopes[axis] = (8 * near - far) / (12 * h)
        drift = sample("drift", self.drift, points, (2,)) - self.T * (slopes[0, :, :, 0] + slopes[1, :, :, 1])
        return Values(self.tensor(points), slopes, drift)


class Values(NamedTuple):
    """The fields at n points."""

    D: np.ndarray  # (n, 2, 2)
    slopes: np.ndarray  # of D along x and y, (2, n, 2, 2); zero where they are not needed
    drift: np.ndarray  # of the printed form that has the same flux: b - T div D (Ito), row by row, or b; (n, 2)

    def force(self) -> np.ndarray:
        """Inverse of D times the drift: minus grad Phi where there is a potential."""
        size = np.trace(self.D, axis1=1, axis2=2)[:, None]
        (a, b), (c, d) = np.moveaxis(self.D / size[:, None], 0, -1)
        x, y = (self.drift / size).T
        return np.stack([d * x - b * y, a * y - c * x], axis=1) / (a * d - b * c)[:, None]


def sample(name: str, field, points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return a copy of what a field gives for copies of the points, of a ``shape`` at each, or say what is wrong."""
    _checks.require(callable(field), f"{name} is a {type(field).__name__}: expected a function of points (n, 2)")
    values = np.array(_checks.array(name, field(points.copy())))
    _checks.shape(name, values.shape, values.shape == (len(points), *shape), f"{(len(points), *shape)}", "gave")
    return values


def box(bounds, shape) -> tuple[tuple[tuple[float, float], ...], tuple[int, int]]:
    """Return bounds and shape as tuples, or say what is wrong with them."""
    sides = _checks.array("bounds", bounds, 2, SIDES)
    _checks.argument("bounds", bounds, sides.shape == (2, 2) and (sides[:, 0] < sides[:, 1]).all(), SIDES)
    _checks.argument("shape", shape, np.shape(shape) == (2,), "two numbers of cells")
    nx, ny = (_checks.count("shape", n, low=4) for n in shape)
    return tuple(map(tuple, sides.tolist())), (nx, ny)


def as_field(D) -> np.ndarray | Field:
    """Return a tensor field as it is, and a constant matrix as a copy."""
    if callable(D):
        return D
    constant = np.array(_checks.array("D", D))
    _checks.shape("D", constant.shape, constant.shape == (2, 2), "(2, 2), or a function of points (n, 2) to (n, 2, 2)")
    return constant


def checked_tensor(D: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ``D`` (n, 2, 2) if it is symmetric and positive definite everywhere, or say where it is not."""
    (a, b), (c, d) = np.moveaxis(D / np.abs(D).max(axis=(1, 2), keepdims=True).clip(1e-300), 0, -1)
    symmetric = np.abs(b - c) <= 1e-10 * np.maximum(np.abs(b), 1e-4)
    definite = (a > 0) & (d > 0) & (a * d - b * c > 1e-12 * a * d)
    for good, kind in ((symmetric, "symmetric"), (definite, "positive definite")):
        at = int(np.argmin(good))
        fault = f"D is not {kind} at x = {points[at].tolist()}, where it is {D[at].tolist()}: expected symmetric "
        remedy = "positive definite matrices; add a small multiple of the identity to a singular one"
        _checks.require(good.all(), fault + remedy)
    return D


def check_smooth(values: Values, shape: tuple[int, int], spacing: np.ndarray) -> None:
    """Raise where D changes between cells two apart by more than Simpson's rule makes of its slopes: there it jumps."""
    for axis, h in enumerate(spacing):
        D, slope = (np.moveaxis(a.reshape(*shape, 2, 2), axis, 0) for a in (values.D, values.slopes[axis]))
        beyond = np.abs(D[2:] - D[:-2] - h / 3 * (slope[:-2] + 4 * slope[1:-1] + slope[2:])).max(axis=(2, 3))
        fault = f"D jumps along {'xy'[axis]}: Ito asks for a D(x) that is smooth over cells; use more, or smooth it"
        _checks.require((beyond <= JUMP * np.trace(D[1:-1], axis1=2, axis2=3)).all(), fault)


def checked_density(name: str, rho: ArrayLike, cell_area: float) -> np.ndarray:
    """Return a density as an array if it is finite, nowhere negative and integrates to 1."""
    rho = _checks.array(name, rho)
    _checks.positive("cell_area", cell_area)
    _checks.require((rho >= 0).all(), f"{name} has a negative value: expected a density")
    mass = rho.sum() * cell_area
    fault = f"{name} integrates to {mass:.6g}: expected 1; divide it by {name}.sum() * cell_area"
    _checks.require(abs(mass - 1) <= 1e-6, fault)
    return rho

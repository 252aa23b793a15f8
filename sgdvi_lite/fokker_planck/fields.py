"""Fields on a rectangle, and what the Fokker-Planck solver asks of them before any work is done."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks

Field = Callable[[np.ndarray], np.ndarray]

PECLET = 2.0  # a cell resolves the drift if its Peclet number is at most this
RESOLVED = 16  # at least so many cells must resolve the drift
JUMP = 0.08  # D may change between cells by so much of its trace beyond what its slopes say


@dataclass(frozen=True)
class Equation:
    """Drift, diffusion tensor, temperature and convention. The functions are called with copies of the points."""

    drift: Field
    D: np.ndarray | Field
    T: float
    convention: str

    def tensor(self, points: np.ndarray) -> np.ndarray:
        """D at the points, ``(n, 2, 2)``, checked."""
        D = array("D", self.D(points.copy())) if callable(self.D) else np.broadcast_to(self.D, (len(points), 2, 2))
        return checked_tensor(D, points)

    def at(self, points: np.ndarray, spacing: np.ndarray) -> "Values":
        """All that the solver needs to know at the points. The slopes are central differences of fourth order."""
        slopes = np.zeros((2, len(points), 2, 2))
        for axis, h in enumerate(spacing * 1e-2 if callable(self.D) else ()):
            step = h * np.eye(2)[axis]
            near = self.tensor(points + step) - self.tensor(points - step)
            far = self.tensor(points + 2 * step) - self.tensor(points - 2 * step)
            slopes[axis] = (8 * near - far) / (12 * h)
        drift = array("drift", self.drift(points.copy()))
        _checks.shape("drift", drift.shape, drift.shape == points.shape, f"{points.shape}", "gave")
        finite = np.isfinite(drift).all(axis=1)
        fault = f"drift has a NaN or an infinity at x = {points[int(np.argmin(finite))].tolist()}"
        _checks.require(finite.all(), fault)
        if self.convention == "ito":
            drift = drift - self.T * (slopes[0, :, :, 0] + slopes[1, :, :, 1])
        return Values(self.tensor(points), slopes, drift)


class Values(NamedTuple):
    """The fields at n points."""

    D: np.ndarray  # (n, 2, 2)
    slopes: np.ndarray  # of D along x and y, (2, n, 2, 2)
    drift: np.ndarray  # of the printed form that has the same flux: b - T div D (Ito), row by row, or b; (n, 2)

    def force(self) -> np.ndarray:
        """Inverse of D times the drift: minus grad Phi where there is a potential."""
        size = np.trace(self.D, axis1=1, axis2=2)[:, None]
        (a, b), (c, d) = np.moveaxis(self.D / size[:, None], 0, -1)
        x, y = (self.drift / size).T
        return np.stack([d * x - b * y, a * y - c * x], axis=1) / (a * d - b * c)[:, None]


def array(name: str, values: ArrayLike) -> np.ndarray:
    """Return a copy as floats, or raise if an imaginary part or a mask would be lost."""
    values = np.asanyarray(values.detach().cpu() if hasattr(values, "detach") else values)
    whole = not (np.iscomplexobj(values) or np.ma.is_masked(values))
    _checks.require(whole, f"{name} is complex or has masked entries: expected real numbers")
    return np.array(values, dtype=float)


def box(bounds, shape) -> tuple[tuple[tuple[float, float], ...], tuple[int, int]]:
    """Return bounds and shape as tuples, or say what is wrong with them."""
    box = tuple((float(low), float(high)) for low, high in bounds)
    proper = len(box) == 2 and all(np.isfinite(side).all() and side[0] < side[1] for side in box)
    _checks.argument("bounds", bounds, proper, "((x_low, x_high), (y_low, y_high)) with low < high")
    _checks.argument("shape", shape, len(shape) == 2, "two numbers of cells")
    for n in shape:
        _checks.count("shape", n, low=4)
    area = math.prod((high - low) / n for (low, high), n in zip(box, shape, strict=True))
    _checks.argument("bounds", bounds, 1e-280 < area < 1e280, "cells whose area float64 can hold")
    return box, (int(shape[0]), int(shape[1]))


def as_field(D) -> np.ndarray | Field:
    """Return a tensor field as it is, and a constant matrix as a copy."""
    if callable(D):
        return D
    constant = array("D", D)
    _checks.shape("D", constant.shape, constant.shape == (2, 2), "(2, 2), or a function of points (n, 2) to (n, 2, 2)")
    return constant


def checked_tensor(D: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ``D`` (n, 2, 2) if it is finite, symmetric and positive definite everywhere, or say where it is not."""
    if D.shape != (len(points), 2, 2):
        raise ValueError(f"D gave shape {D.shape} for {len(points)} points: expected {(len(points), 2, 2)}")
    finite = np.isfinite(D).all(axis=(1, 2))
    trace = D[:, 0, 0] + D[:, 1, 1]
    (a, b), (c, d) = np.moveaxis(D / np.where(trace > 0, trace, 1.0)[:, None, None], 0, -1)
    symmetric = np.abs(b - c) <= 1e-10 * np.maximum(np.abs(b), 1e-4)
    definite = (a * d - b * c > 1e-12) & (trace > 0)
    for good, fault in ((finite, "not finite"), (symmetric, "not symmetric"), (definite, "not positive definite")):
        if not good.all():
            at = int(np.argmin(good))
            raise ValueError(
                f"D is {fault} at x = {points[at].tolist()}, where it is {D[at].tolist()}: "
                "expected symmetric positive definite matrices; add a small multiple of the identity to a singular one"
            )
    return D


def check_smooth(values: Values, shape: tuple[int, int], spacing: np.ndarray) -> None:
    """Raise where D changes between cells two apart by more than Simpson's rule makes of its slopes: there it jumps."""
    for axis, h in enumerate(spacing):
        D, slope = (np.moveaxis(a.reshape(*shape, 2, 2), axis, 0) for a in (values.D, values.slopes[axis]))
        beyond = np.abs(D[2:] - D[:-2] - h / 3 * (slope[:-2] + 4 * slope[1:-1] + slope[2:])).max(axis=(2, 3))
        fault = f"D jumps along {'xy'[axis]}: Ito asks for a D(x) that is smooth over cells; use more, or smooth it"
        _checks.require((beyond <= JUMP * np.trace(D[1:-1], axis1=2, axis2=3)).all(), fault)


def check_drift(values: Values, T: float, spacing: np.ndarray) -> None:
    """Raise unless at least :data:`RESOLVED` cells resolve the drift."""
    peclet = (np.abs(values.drift) * spacing / np.diagonal(values.D, axis1=1, axis2=2) / T).max(axis=1)
    resolved = int((peclet <= PECLET).sum())
    if resolved < RESOLVED:
        raise ValueError(
            f"shape: the grid is too coarse for the drift: the cell Peclet number |b| h / (T D) is at most {PECLET} in "
            f"only {resolved} cells (smallest {peclet.min():.3g}): expected at least {RESOLVED} such cells; use more "
            "cells or narrower bounds"
        )


def checked_density(name: str, rho: ArrayLike, cell_area: float) -> np.ndarray:
    """Return a density as an array if it is finite, nowhere negative and integrates to 1."""
    rho = array(name, rho)
    _checks.positive("cell_area", cell_area)
    if not (np.isfinite(rho).all() and rho.min() >= 0):
        raise ValueError(f"{name} has a negative value, a NaN or an infinity: expected a density")
    mass = rho.sum() * cell_area
    if abs(mass - 1) > 1e-6:
        raise ValueError(f"{name} integrates to {mass:.6g}: expected 1; divide it by {name}.sum() * cell_area")
    return rho


def checked_times(times: ArrayLike) -> np.ndarray:
    """Return increasing times >= 0 as an array."""
    times = np.atleast_1d(array("times", times))
    if times.ndim != 1 or not np.isfinite(times).all() or (times < 0).any() or (np.diff(times) <= 0).any():
        raise ValueError(f"times = {times.tolist()}: expected increasing numbers >= 0")
    return times

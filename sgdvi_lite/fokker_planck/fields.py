"""Fields on a rectangle, and what the Fokker-Planck solver asks of them before any work is done."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks

Field = Callable[[np.ndarray], np.ndarray]

PECLET = 2.0  # a cell resolves the drift if its Peclet number is at most this
RESOLVED = 16  # at least so many cells must resolve the drift


def box(bounds, shape) -> tuple[tuple[tuple[float, float], ...], tuple[int, int]]:
    """Return bounds and shape as tuples, or say what is wrong with them."""
    box = tuple((float(low), float(high)) for low, high in bounds)
    proper = len(box) == 2 and all(np.isfinite(side).all() and side[0] < side[1] for side in box)
    _checks.argument("bounds", bounds, proper, "((x_low, x_high), (y_low, y_high)) with low < high")
    _checks.argument("shape", shape, len(shape) == 2, "two numbers of cells")
    for n in shape:
        _checks.count("shape", n, low=4)
    return box, tuple(shape)


def as_field(D) -> Field:
    """Return a tensor field as a function of points, whether it was given as one or as a constant matrix."""
    if callable(D):
        return lambda points: np.asarray(D(points), dtype=float)
    constant = np.asarray(D, dtype=float)
    _checks.shape("D", constant.shape, constant.shape == (2, 2), "(2, 2), or a function of points (n, 2) to (n, 2, 2)")
    return lambda points: np.broadcast_to(constant, (len(points), 2, 2))


def checked_tensor(D: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return ``D`` (n, 2, 2) if it is finite, symmetric and positive definite everywhere, or say where it is not."""
    if D.shape != (len(points), 2, 2):
        raise ValueError(f"D gave shape {D.shape} for {len(points)} points: expected {(len(points), 2, 2)}")
    finite = np.isfinite(D).all(axis=(1, 2))
    symmetric = np.isclose(D[:, 0, 1], D[:, 1, 0], rtol=1e-10, atol=1e-14)
    determinant = D[:, 0, 0] * D[:, 1, 1] - D[:, 0, 1] * D[:, 1, 0]
    trace = D[:, 0, 0] + D[:, 1, 1]
    definite = (determinant > 1e-12 * trace**2) & (trace > 0)
    for good, fault in ((finite, "not finite"), (symmetric, "not symmetric"), (definite, "not positive definite")):
        if not good.all():
            at = int(np.argmin(good))
            raise ValueError(
                f"D is {fault} at x = {points[at].tolist()}, where it is {D[at].tolist()}: "
                "expected symmetric positive definite matrices; add a small multiple of the identity to a singular one"
            )
    return D


def check_drift(drift: np.ndarray, D: np.ndarray, T: float, spacing: np.ndarray, points: np.ndarray) -> None:
    """Raise unless the drift is finite and at least :data:`RESOLVED` cells resolve it."""
    finite = np.isfinite(drift).all(axis=1)
    _checks.require(finite.all(), f"drift has a NaN or an infinity at x = {points[int(np.argmin(finite))].tolist()}")
    peclet = (np.abs(drift) * spacing / (T * np.diagonal(D, axis1=1, axis2=2))).max(axis=1)
    resolved = int((peclet <= PECLET).sum())
    if resolved < RESOLVED:
        raise ValueError(
            f"shape: the grid is too coarse for the drift: the cell Peclet number |b| h / (T D) is at most {PECLET} in "
            f"only {resolved} cells (smallest {peclet.min():.3g}): expected at least {RESOLVED} such cells; use more "
            "cells or narrower bounds"
        )


def checked_density(name: str, rho: ArrayLike, cell_area: float) -> np.ndarray:
    """Return a density as an array if it is finite, nowhere negative and integrates to 1."""
    rho = np.asarray(rho, dtype=float)
    _checks.positive("cell_area", cell_area)
    if not (np.isfinite(rho).all() and rho.min() >= 0):
        raise ValueError(f"{name} has a negative value, a NaN or an infinity: expected a density")
    mass = rho.sum() * cell_area
    if abs(mass - 1) > 1e-6:
        raise ValueError(f"{name} integrates to {mass:.6g}: expected 1; divide it by {name}.sum() * cell_area")
    return rho


def checked_times(times: ArrayLike) -> np.ndarray:
    """Return increasing times >= 0 as an array."""
    times = np.atleast_1d(np.asarray(times, dtype=float))
    if times.ndim != 1 or not np.isfinite(times).all() or times.min() < 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"times = {times.tolist()}: expected increasing numbers >= 0")
    return times

"""Whether a grid resolves the equation where the mass is: two numbers, which a density must keep small."""

import numpy as np

from sgdvi_lite import _checks
from sgdvi_lite.fokker_planck.links import Links
from sgdvi_lite.fokker_planck.stencil import bernoulli

SMEARED = 0.12  # variances are too large by about this part
NARROW = 0.2  # the standard deviation of a well is at least 0.75 cells: then masses are right to 1e-4
MORE = "use more cells, or narrower bounds"
FLAT = 1e-3  # a density that varies less from cell to cell cannot be blurred
STEEP = 3.0  # the logarithm of a density that rises more from cell to cell is not resolved itself


def check(name: str, links: Links, force: np.ndarray, rho: np.ndarray, spacing: np.ndarray) -> None:
    """Raise if ``rho`` (nx, ny) has its mass where the drift or a well of the potential is too sharp for the cells."""
    text = (
        f"{name}: the grid {rho.shape} is too coarse where the density is: {{}} {{:.2g}}: expected at most {{}}; {MORE}"
    )
    lost, narrow = smeared(links, rho.ravel()), unresolved(force, rho, spacing)
    _checks.require(lost <= SMEARED, text.format("the drift blurs it like more diffusion, by", lost, SMEARED))
    _checks.require(narrow <= NARROW, text.format("between cells it bulges by", narrow, NARROW))


def smeared(links: Links, rho: np.ndarray) -> float:
    """Share of the diffusion of a density that is not in the equation but in the fluxes on the links.

    Between two cells the density is taken for an exponential; there the flux is exact where no current flows.
    """
    a, b = np.maximum(rho[links.p], 1e-300), np.maximum(rho[links.q], 1e-300)
    rise = np.log(b / a)
    flat = np.abs(rise) < 1e-6
    between = np.where(flat, (a + b) / 2, (b - a) / np.where(flat, 1.0, rise))
    carried = a * bernoulli(-links.work) - b * bernoulli(links.work)
    error = links.rate * np.abs(carried - between * (links.work - rise))
    least = FLAT * (links.rate * (a + b)).sum()
    return float(error[np.abs(rise) < STEEP].sum() / max((links.rate * np.abs(b - a)).sum(), least))


def unresolved(force: np.ndarray, rho: np.ndarray, spacing: np.ndarray) -> float:
    """Part by which the density between two cells differs from an exponential, as the change of the force tells."""
    parts = []
    for axis, h in enumerate(spacing):
        f = np.moveaxis(force[..., axis], axis, 0)
        log_rho = np.log(np.maximum(np.moveaxis(rho, axis, 0), 1e-300))
        bulge = (f[:-1] - f[1:]) * h / 8
        log_middle = (log_rho[:-1] + log_rho[1:]) / 2 + bulge
        middle = np.exp(log_middle - log_middle.max())
        parts.append(float((middle * np.abs(np.expm1(-bulge))).sum() / middle.sum()))
    return max(parts)

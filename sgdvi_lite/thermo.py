"""Entropy, relative entropy, free energy and what they lose in time: on a grid, and in closed form for Gaussians.

Densities are arrays that integrate to 1: ``rho.sum() * cell_area == 1``. The temperature is ``T = 1/beta``; entropies
are in nats. Chapter 4 derives the identities that tie these functions together.
"""

import numpy as np
from numpy.typing import ArrayLike

from sgdvi_lite import _checks
from sgdvi_lite.fokker_planck import FokkerPlanck
from sgdvi_lite.fokker_planck.fields import checked_density


def entropy(rho: np.ndarray, cell_area: float) -> float:
    r"""Differential entropy :math:`H = -\int \rho \log \rho`, with 0 log 0 = 0.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import thermo
    >>> bool(thermo.entropy(np.full((2, 2), 0.25), cell_area=1.0) == np.log(4))
    True
    """
    rho = checked_density("rho", rho, cell_area)
    inside = rho[rho > 0]
    return float(-(inside * np.log(inside)).sum() * cell_area)


def kl_divergence(rho: np.ndarray, sigma: np.ndarray, cell_area: float) -> float:
    r"""Relative entropy :math:`\mathrm{KL}(\rho\,\|\,\sigma) = \int \rho \log(\rho/\sigma)`.

    It is infinite where sigma is zero and rho is not.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import thermo
    >>> bool(thermo.kl_divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5]), cell_area=1.0) == np.log(2))
    True
    """
    rho, sigma = checked_density("rho", rho, cell_area), checked_density("sigma", sigma, cell_area)
    _same_shape("sigma", sigma, rho)
    inside = rho > 0
    if (sigma[inside] == 0).any():
        return float("inf")
    return float((rho[inside] * np.log(rho[inside] / sigma[inside])).sum() * cell_area)


def free_energy(rho: np.ndarray, Phi: np.ndarray, T: float, cell_area: float) -> float:
    r"""Average energy minus T times entropy, :math:`\mathbb{E}_\rho[\Phi] - T\,H(\rho)`: (6) without its constant.

    It equals T KL(rho || rho_ss) - T log Z where ``rho_ss = exp(-Phi / T) / Z``.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import thermo
    >>> bool(thermo.free_energy(np.array([0.5, 0.5]), np.array([0.0, 2.0]), T=1.0, cell_area=1.0) == 1 - np.log(2))
    True
    """
    _checks.positive("T", T)
    rho = checked_density("rho", rho, cell_area)
    Phi = _same_shape("Phi", Phi, rho)
    return float((rho * Phi).sum() * cell_area) - T * entropy(rho, cell_area)


def current(fp: FokkerPlanck, rho: np.ndarray) -> np.ndarray:
    """Probability current J of a positive density at the cell centres, array ``(2, nx, ny)``, to second order.

    ``J = b rho - T div(D rho)`` (Ito), written as rho times :func:`velocity`.
    """
    return rho * velocity(fp, rho)


def velocity(fp: FokkerPlanck, rho: np.ndarray) -> np.ndarray:
    """Current velocity J / rho, array ``(2, nx, ny)``: the force j of equation (4) where rho is the steady state.

    Raises
    ------
    ValueError
        If the density has a value <= 0, where it is not defined.
    """
    slope = np.stack(np.gradient(np.log(_positive("rho", rho, fp)), *fp.spacing, edge_order=2))
    drift = fp.effective_drift.T.reshape(2, *fp.shape)
    return drift - fp.T * np.einsum("xyij,jxy->ixy", fp.tensor, slope)


def dissipation(fp: FokkerPlanck, rho: np.ndarray, rho_ss: np.ndarray) -> float:
    r"""Rate at which the free energy falls, :math:`\int \rho\,\nabla\mu\cdot D\nabla\mu`.

    Here :math:`\mu = T\log(\rho/\rho^{ss})`. This is -dF/dt along the equation (chapter 4), for both
    conventions and any D(x).
    """
    rho, rho_ss = _positive("rho", rho, fp), _positive("rho_ss", rho_ss, fp)
    mu = fp.T * (np.log(rho) - np.log(rho_ss))
    slope = np.stack(np.gradient(mu, *fp.spacing, edge_order=2))
    return float((rho * np.einsum("ixy,xyij,jxy->xy", slope, fp.tensor, slope)).sum() * fp.cell_area)


def entropy_production(fp: FokkerPlanck, rho: np.ndarray) -> float:
    r"""Total entropy production :math:`\frac1T\int \rho\,v\cdot D^{-1}v` per unit of time, v the current velocity.

    It is zero only without a current; at a steady state it is E[j . D^-1 j] / T.

    Notes
    -----
    The error falls as h^2 where there is a current; where there is none, the result is all error, and falls as h^4. So
    two grids give an error bar: from ``n`` and ``2 n`` cells a side, the error of the finer one is about a third of the
    difference, and without a current a fifteenth.
    """
    v = velocity(fp, rho)
    return float((rho * np.einsum("ixy,xyij,jxy->xy", v, np.linalg.inv(fp.tensor), v)).sum() * fp.cell_area) / fp.T


def gaussian_entropy(cov: np.ndarray) -> float:
    """Entropy of a Gaussian with covariance ``cov`` (d, d).

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import thermo
    >>> bool(np.isclose(thermo.gaussian_entropy(np.eye(2)), 1 + np.log(2 * np.pi)))
    True
    """
    cov = _covariance("cov", cov)
    return 0.5 * float(np.linalg.slogdet(2 * np.pi * np.e * cov)[1])


def gaussian_kl(mean: np.ndarray, cov: np.ndarray, mean_ss: np.ndarray, cov_ss: np.ndarray) -> float:
    """Relative entropy of one Gaussian with respect to another.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import thermo
    >>> thermo.gaussian_kl(np.array([2.0]), np.eye(1), np.zeros(1), np.eye(1))
    2.0
    """
    cov, cov_ss = _covariance("cov", cov), _covariance("cov_ss", cov_ss)
    cov_ss = _same_shape("cov_ss", cov_ss, cov)
    shift = _same_shape("mean", mean, cov[0]) - _same_shape("mean_ss", mean_ss, cov[0])
    ratio = np.linalg.solve(cov_ss, cov)
    logdet = np.linalg.slogdet(ratio)[1]
    return 0.5 * float(np.trace(ratio) - len(cov) - logdet + shift @ np.linalg.solve(cov_ss, shift))


def _positive(name: str, rho: np.ndarray, fp: FokkerPlanck) -> np.ndarray:
    rho = _same_shape(name, rho, fp.grid[0])
    if not rho.min() > 0:
        raise ValueError(f"{name} has the smallest value {rho.min()}: expected a density that is positive everywhere")
    return rho


def _same_shape(name: str, value: ArrayLike, like: np.ndarray) -> np.ndarray:
    value = _checks.array(name, value)
    _checks.shape(
        name, value.shape, value.shape == like.shape, f"{like.shape}, that of the grid or of the other arguments"
    )
    return value


def _covariance(name: str, cov: np.ndarray) -> np.ndarray:
    cov = _checks.array(name, cov, 2, "a symmetric matrix (d, d)")
    symmetric = cov.shape == cov.T.shape and np.allclose(cov, cov.T, rtol=1e-10)
    _checks.shape(name, cov.shape, symmetric, "a symmetric matrix (d, d)")
    smallest = np.linalg.eigvalsh(cov).min()
    _checks.eigenvalue(name, smallest, not smallest <= 0, "> 0; a singular Gaussian has no density")
    return cov

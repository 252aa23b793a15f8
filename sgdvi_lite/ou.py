"""The Ornstein-Uhlenbeck process: everything about a linear gradient with constant noise, in closed form.

``dx = -F x dt + sqrt(2 T D) dW`` is the equation (2) of the paper near a critical point, with ``F`` the Hessian. Its
equation (8) reads ``F = (D + Q) U``: the potential is ``Phi = x^T U x / 2``, the force ``j = -Q U x``. Chapter 7
derives every formula used here.
"""

import math
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov
from torch import Tensor

from sgdvi_lite import _checks

RESONANT = 1e-12
"""The sum of two eigenvalues counts as zero below this part of them and of what stands off the diagonal of ``F``."""

SINGULAR = 4 * torch.finfo(torch.float64).eps
"""Below this times d an eigenvalue of a matrix of correlations counts as zero: rounding might have made it."""

TERMS = 18
"""Terms of the Taylor series of an exponential whose argument has norm 1/2 at most: the next is below 1e-22."""


DTYPE, Values = torch.float64, Tensor | np.ndarray


class OrnsteinUhlenbeck:
    r"""The process :math:`dx = -F x\,dt + \sqrt{2TD}\,dW`, one or many at once.

    Parameters
    ----------
    F
        Matrix of the linear gradient, float64 ``(..., d, d)``, tensor or array; it need not be symmetric. Leading
        dimensions: a batch.
    D
        Diffusion matrix ``(..., d, d)`` of the same shape, symmetric positive semi-definite; it may be singular.
    T
        Temperature, > 0.

    Raises
    ------
    ValueError
        If the shapes differ, an entry is not finite, ``D`` is asymmetric or has a negative eigenvalue, ``T <= 0``, or
        two eigenvalues of ``F`` sum to zero (:data:`RESONANT`): then the Lyapunov equation has no solution, or many.
        Later, where a stationary law is asked for: if an eigenvalue of ``F`` has no positive real part. Where a density
        is asked for: if the noise does not reach every direction.

    Notes
    -----
    Results have the device and the leading dimensions of ``F``. Times may be numbers or vectors ``(k,)``; a vector adds
    a leading dimension. The process does not change: ``F``, ``D`` and all results are copies.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import OrnsteinUhlenbeck
    >>> F, D = torch.diag(torch.tensor([1.0, 3.0]).double()), torch.tensor([[1.0, 0.5], [0.5, 1.0]]).double()
    >>> ou = OrnsteinUhlenbeck(F, D, T=0.1)
    >>> ou.Q  # D_12 (l_1 - l_2) / (l_1 + l_2) above the diagonal
    tensor([[ 0.0000, -0.2500],
            [ 0.2500,  0.0000]], dtype=torch.float64)
    >>> torch.allclose((D + ou.Q) @ ou.U, F)
    True
    """

    def __init__(self, F: Values, D: Values, T: float):
        _checks.positive("T", T)
        F, D = (torch.as_tensor(M).detach().clone() for M in (F, D))
        _checks.shape("F", F.shape, F.ndim >= 2 and F.shape[-2] == F.shape[-1] >= 1, "square matrices (..., d, d)")
        _check_fit("F", F, F.shape, F.device)
        _check_fit("D", D, F.shape, F.device)
        _check_variances("D", D)
        self._F, self._D, self._T = F, D, float(T)
        self._rates = torch.linalg.eigvals(F)
        _check_pairs(self._rates, F)

    F = property(lambda self: self._F.clone(), doc="Matrix of the linear gradient, ``(..., d, d)``.")
    D = property(lambda self: self._D.clone(), doc="Diffusion matrix, ``(..., d, d)``.")
    T = property(lambda self: self._T, doc="Temperature.")
    U = property(lambda self: self._U.clone(), doc="Matrix of the potential: the inverse of S. Indefinite at a saddle.")

    @cached_property
    def _S(self) -> Tensor:
        """Solution of F S + S F^T = 2 D; the covariance at temperature 1 where the process is stable."""
        solve = np.vectorize(solve_continuous_lyapunov, signature="(d,d),(d,d)->(d,d)")
        S = torch.from_numpy(solve(self._F.cpu().numpy(), 2 * self._D.cpu().numpy())).to(self._F)
        return (S + S.mT) / 2

    @property
    def Q(self) -> Tensor:
        """Antisymmetric matrix of (8), ``(..., d, d)``: Q = F S - D. It exists for saddles too."""
        G = self._F @ self._S
        return (G - G.mT) / 2

    @cached_property
    def _U(self) -> Tensor:
        sizes, vectors, scale = _correlations(self._S)
        worst = sizes.abs().min(-1)
        lost = worst.values <= SINGULAR * sizes.shape[-1] * sizes.abs().amax(-1)
        if bool(lost.any()):
            direction = vectors[lost][0][:, worst.indices[lost][0]] / scale[lost][0]
            raise ValueError(
                f"D: no noise reaches the direction {_numbers(direction / direction.norm())}, so that the covariance "
                "is singular and there is no potential; restrict F and D to the directions that are reached, or add "
                "some multiple of I"
            )
        turned = vectors / scale.unsqueeze(-1)
        return (turned / sizes.unsqueeze(-2)) @ turned.mT

    @property
    def covariance(self) -> Tensor:
        """Stationary covariance ``T S``, ``(..., d, d)``; it may be singular."""
        self._require_stable()
        return self._T * self._S

    def mean(self, t: float | Values, mean0: Values) -> Tensor:
        """Mean at time ``t`` from the mean ``(..., d)`` at time 0: exp(-F t) mean0."""
        mean0 = self._start("mean0", mean0, self._F.shape[-1:])
        return (self._move(t)[0] @ mean0.unsqueeze(-1)).squeeze(-1)

    def cov(self, t: float | Values, cov0: Values) -> Tensor:
        """Covariance at time ``t`` from ``cov0`` ``(..., d, d)`` at time 0; also where there is no stationary law."""
        cov0 = self._start("cov0", cov0, self._F.shape[-2:])
        _check_variances("cov0", cov0)
        move, added = self._move(t)
        return move @ cov0 @ move.mT + added

    def free_energy(self, t: float | Values, mean0: Values, cov0: Values) -> Tensor:
        """The functional (5), T KL(rho(t) || rho_ss), of the Gaussian that starts with ``mean0`` and ``cov0``."""
        mean = self.mean(t, mean0)
        ratio = self._ratio(self.cov(t, cov0))
        energy = (mean * (self._U @ mean.unsqueeze(-1)).squeeze(-1)).sum(-1)
        excess = (ratio - 1 - torch.log(ratio)).sum(-1)
        return 0.5 * (energy + self._T * excess)

    def dissipation(self, t: float | Values, mean0: Values, cov0: Values) -> Tensor:
        """Rate -dF/dt at which :meth:`free_energy` falls: E[grad mu . D grad mu] (Theorem 4, chapter 4)."""
        cov = self.cov(t, cov0)
        self._ratio(cov)
        slope = self._U - self._T * torch.linalg.inv(cov)  # grad mu = slope (x - mean) + U mean
        push = self._U @ self.mean(t, mean0).unsqueeze(-1)
        spread = _trace(slope @ self._D @ slope @ cov)
        return spread + (push.mT @ self._D @ push).squeeze(-1).squeeze(-1)

    @property
    def entropy_production(self) -> Tensor:
        """Stationary entropy production E[j . D^-1 j] / T per unit of time, ``(...)``; it does not depend on T.

        It is infinite where ``D`` is singular and the force has a part outside its range.
        """
        self._require_stable()
        sizes, vectors, scale = _correlations(self._D)
        reached = sizes > SINGULAR * sizes.shape[-1] * sizes[..., -1:]
        Q = self.Q / scale.unsqueeze(-1)
        turned = vectors.mT @ Q
        outside = (turned * ~reached.unsqueeze(-1)).abs().amax((-1, -2)) > 1e-9 * Q.abs().amax((-1, -2))
        inverse = torch.where(reached, 1 / torch.where(reached, sizes, 1.0), 0.0)
        inside = _trace(turned.mT @ (inverse.unsqueeze(-1) * turned) @ self._U)
        return torch.where(outside, torch.inf, inside)

    @property
    def frequencies(self) -> Tensor:
        """Angular frequencies of x' = j(x) = -Q U x, ``(..., d // 2)``, largest first, per unit of time."""
        self._require_stable()
        L = torch.linalg.cholesky(self._U)
        return torch.linalg.svdvals(L.mT @ self.Q @ L)[..., : 2 * (self._F.shape[-1] // 2) : 2]

    @property
    def area_rate(self) -> Tensor:
        """Stochastic area E[x_i dx_j - x_j dx_i] / 2 per unit of time in the plane (i, j), ``(..., d, d)``: T Q."""
        self._require_stable()
        return self._T * self.Q

    def _start(self, name: str, value: Values, ends: torch.Size) -> Tensor:
        """The value as a tensor; raise unless its last dimensions, dtype and device fit and all entries are finite."""
        value = torch.as_tensor(value)
        _check_fit(name, value, (*value.shape[: -len(ends)], *ends), self._F.device)
        return value

    def _move(self, t: float | Values) -> tuple[Tensor, Tensor]:
        """The propagator exp(-F t), and the covariance that the noise adds until then.

        Both are Taylor series at the time ``t / 2**k``, doubled ``k`` times. Nothing cancels: covariances are added,
        and of the propagator its ``gap`` to I is kept, so that slow directions keep their digits beside fast ones.
        """
        t = torch.as_tensor(t, dtype=self._F.dtype, device=self._F.device)
        good = t.ndim <= 1 and bool((t >= 0).all() & torch.isfinite(t).all())
        _checks.argument("t", t.tolist(), good, "a time >= 0 or a vector of such times")
        k = max(math.frexp(self._F.abs().sum(-1).amax() * t.sum())[1] + 1, 0)  # the norm of F t is below 2**(k - 1)
        t = t.reshape(*t.shape, *[1] * self._F.ndim) / 2.0**k
        A, one = -self._F * t, torch.eye(self._F.shape[-1]).to(self._F)
        gap = power = A
        added = part = 2 * self._T * self._D * t
        for n in range(2, TERMS):
            power, part = A @ power / n, (A @ part + part @ A.mT) / n
            gap, added = gap + power, added + part
        for _ in range(k):
            added = added + (one + gap) @ added @ (one + gap).mT
            gap = 2 * gap + gap @ gap
        fault = "t: the moments at the latest are beyond float64, as where F is unstable: expected smaller times"
        _checks.require(torch.isfinite(gap).all() & torch.isfinite(added).all(), fault)
        return one + gap, (added + added.mT) / 2

    def _ratio(self, cov: Tensor) -> Tensor:
        """Eigenvalues of the covariance relative to the stationary one; raise where a density is missing."""
        self._require_stable()
        L = torch.linalg.cholesky(self._U)
        ratio = torch.linalg.eigvalsh(L.mT @ cov @ L) / self._T
        allowed = "> 0 relative to the stationary one; a singular Gaussian has no density"
        _checks.eigenvalue("cov0: the covariance at time t", ratio.min().item(), (ratio > 0).all(), allowed)
        return ratio

    def _require_stable(self) -> None:
        unstable = self._rates[self._rates.real <= 0]
        fault = f"F has the eigenvalues {_numbers(unstable)} without a positive real part: expected a stable F where a "
        remedy = "stationary law is asked for; at a saddle only Q, U, mean and cov exist"
        _checks.require(not len(unstable), fault + remedy)


def _check_fit(name: str, M: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise unless the shape, the dtype and the device fit and all entries are finite."""
    fault = f"{name} has shape {tuple(M.shape)}, {M.dtype} on {M.device}: expected {tuple(shape)}, {DTYPE} on {device}"
    _checks.require((tuple(M.shape), M.dtype, M.device) == (tuple(shape), DTYPE, device), fault)
    _checks.require(torch.isfinite(M).all(), f"{name} has a NaN or an infinity: expected finite entries")


def _check_variances(name: str, M: Tensor) -> None:
    """Raise unless matrices are symmetric and have no negative eigenvalue."""
    rounding, gap = 1e-10 * M.abs().amax((-1, -2)), (M - M.mT).abs().amax((-1, -2))
    fault = f"{name} is not symmetric: it differs from its transpose by {gap.max():.3g}"
    _checks.require((gap <= rounding).all(), fault)
    smallest = torch.linalg.eigvalsh(M)[..., 0]
    allowed = ">= 0, as it is a matrix of variances"
    _checks.eigenvalue(name, smallest.min().item(), (smallest >= -rounding).all(), allowed)


def _correlations(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a symmetric matrix in units that make its diagonal +-1, and these units."""
    scale = M.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    return *torch.linalg.eigh(M / scale.unsqueeze(-1) / scale.unsqueeze(-2)), scale


def _check_pairs(rates: Tensor, F: Tensor) -> None:
    """Raise where two eigenvalues, or twice the same one, sum to zero as far as rounding lets one see."""
    sums = rates.unsqueeze(-1) + rates.unsqueeze(-2)
    pair = torch.maximum(rates.abs().unsqueeze(-1), rates.abs().unsqueeze(-2))
    mixed = (F - torch.diag_embed(F.diagonal(dim1=-2, dim2=-1))).abs().sum(-1).amax(-1)  # 0: eigenvalues are exact
    resonant = (sums.abs() <= RESONANT * (pair + mixed[..., None, None])).nonzero()
    if len(resonant):
        *batch, i, j = resonant[0].tolist()
        fault = (
            f"F has the eigenvalues {_numbers(rates[*batch][[i, j]])}, which sum to zero: expected none such, also no "
        )
        remedy = (
            "zero; then F S + S F^T = 2 D has no solution, or many; change F in these directions, as weight decay does"
        )
        raise ValueError(fault + remedy)


def _numbers(values: Tensor) -> list:
    """A short vector for an error message; complex only where it must be."""
    if values.is_complex() and not values.imag.any():
        values = values.real
    return [complex(f"{v:.4g}") if isinstance(v, complex) else float(f"{v:.4g}") for v in values.tolist()]


def _trace(M: Tensor) -> Tensor:
    return M.diagonal(dim1=-2, dim2=-1).sum(-1)

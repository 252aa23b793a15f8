"""Null models with a law of motion: linear processes in discrete time, and SGD with momentum as one of them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_lyapunov

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series, deviations
from sgdvi_lite.series.null_models import normal, root_of, white_noise


class LinearProcess:
    r"""The stationary Gaussian process :math:`z_{k+1} = A z_k + \xi_k`, of which the first ``d`` coordinates are seen.

    It is the null model of correlated noise: AR(1), a sampled Ornstein-Uhlenbeck process, SGD near a minimum with or
    without momentum. All its laws are exact.

    Parameters
    ----------
    A
        Matrix ``(m, m)`` with all eigenvalues inside the unit circle.
    noise
        Covariance ``(m, m)`` of :math:`\xi`, symmetric positive semi-definite.
    d
        Coordinates that are seen, by default all.
    mean
        Of what is seen, ``(d,)``; 0 by default.

    Raises
    ------
    ValueError
        If shapes differ, an eigenvalue of ``A`` is not inside the unit circle, or ``noise`` is no covariance.

    References
    ----------
    Chapters 7 and 10.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> ar = series.LinearProcess([[0.5]], [[3.0]])
    >>> float(ar.covariance[0, 0]), float(ar.autocovariance(2)[0, 0])  # 3 / (1 - 0.5^2), times 0.5^2
    (4.0, 1.0)
    """

    def __init__(self, A: ArrayLike, noise: ArrayLike, d: int | None = None, mean: ArrayLike | None = None):
        self.A, self.noise = _square("A", A, noise, "(m, m)")
        self.d = _checks.count("d", len(self.A) if d is None else d, high=len(self.A))
        self.mean = np.zeros(self.d) if mean is None else _checks.array("mean", mean).copy()
        _checks.shape("mean", self.mean.shape, self.mean.shape == (self.d,), f"({self.d},)")
        self._factor = root_of("noise", self.noise)
        largest = np.abs(np.linalg.eigvals(self.A)).max()
        fault = f"A has an eigenvalue of modulus {largest:.6g}: expected all < 1, else there is no stationary law; "
        _checks.require(largest < 1, fault + "lower the learning rate if it comes from SGD")

    @cached_property
    def _state_covariance(self) -> np.ndarray:
        C = solve_discrete_lyapunov(self.A, self.noise)
        return (C + C.T) / 2

    @property
    def covariance(self) -> np.ndarray:
        """Stationary covariance of what is seen ``(d, d)``."""
        return self.autocovariance(0)

    def autocovariance(self, lag: int) -> np.ndarray:
        """``E[x_k x_{k + lag}^T]`` ``(d, d)``, as :func:`lagged_covariance` estimates it."""
        lag = _checks.count("lag", lag, low=0, remedy="that of a negative lag is the transpose")
        moved = self._state_covariance @ np.linalg.matrix_power(self.A, lag).T
        return moved[: self.d, : self.d]

    def area(self, lag: int = 1) -> np.ndarray:
        """Expectation of :func:`stochastic_area`, ``(d, d)``: the antisymmetric part of the autocovariance."""
        C = self.autocovariance(lag)
        return (C - C.T) / 2

    def current_velocity(self) -> np.ndarray:
        """Matrix ``(d, d)`` that maps a position to the velocity that :func:`velocity_field` estimates, per sample.

        Where the covariance is singular, positions are those that occur.
        """
        return -self.area() @ np.linalg.pinv(self.covariance, hermitian=True)

    def increment_spectrum(self, frequency: ArrayLike) -> np.ndarray:
        """Exact density of :func:`increment_spectrum` at frequencies ``(m,)`` in cycles a sample, ``(m, d)``."""
        turn = np.exp(2j * np.pi * _checks.array("frequency", frequency, 1, "(m,)"))
        H = np.linalg.inv(turn[:, None, None] * np.eye(len(self.A)) - self.A)[:, : self.d] @ self._factor
        return 2 * np.abs(turn - 1)[:, None] ** 2 * (np.abs(H) ** 2).sum(axis=2)

    def sample(self, n: int, *, generator: torch.Generator) -> np.ndarray:
        """A stretch ``(n, d)`` of the stationary process."""
        kicks = white_noise(n, self.noise, generator=generator)
        z = np.empty_like(kicks)
        z[0] = root_of("covariance", self._state_covariance) @ normal(1, len(self.A), generator)[0]
        for k in range(n - 1):
            z[k + 1] = self.A @ z[k] + kicks[k]
        return z[:, : self.d] + self.mean


def fit_linear(x: ArrayLike, *, reversible: bool = False) -> LinearProcess:
    r"""Fit the first-order linear process with the covariance and the lag-one covariance of a series (Yule-Walker).

    Parameters
    ----------
    x
        The series ``(n, d)``, or ``(n,)`` for AR(1).
    reversible
        Take the symmetric part of the lag-one covariance, so that :math:`A C(0) = C(0) A^\top`: a process with the
        same covariance and without a current.

    Raises
    ------
    ValueError
        If the series is not finite, has no more samples than dimensions, or its covariance is singular.

    References
    ----------
    Chapter 10.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series
    >>> turning = series.LinearProcess([[0.9, -0.1], [0.1, 0.9]], [[1.0, 0.0], [0.0, 1.0]])
    >>> x = turning.sample(50_000, generator=torch.Generator().manual_seed(0))
    >>> bool(abs(series.fit_linear(x).A - turning.A).max() < 0.01)
    True
    >>> bool(np.allclose(series.fit_linear(x, reversible=True).area(), 0))
    True
    """
    x = as_series("x", x, 4)
    x = x.reshape(len(x), -1)
    mean, x = x.mean(axis=0), deviations(x)
    C0, C1 = x.T @ x / len(x), x[1:].T @ x[:-1] / len(x)
    C1 = (C1 + C1.T) / 2 if reversible else C1
    good = len(x) > x.shape[1] and np.linalg.eigvalsh(C0)[0] > 1e-12 * np.trace(C0)
    fault = f"x has shape {x.shape} and a covariance that is singular: expected more samples than dimensions, and no "
    _checks.require(good, fault + "direction that stands still; project on fewer directions")
    A = np.linalg.solve(C0, C1.T).T
    noise = C0 - A @ C0 @ A.T
    return LinearProcess(A, (noise + noise.T) / 2, mean=mean)


def momentum_process(
    H: ArrayLike, noise: ArrayLike, lr: float, momentum: float, *, nesterov: bool = False
) -> LinearProcess:
    r"""SGD with momentum on the quadratic loss :math:`x^\top H x / 2` with constant noise: what momentum alone does.

    PyTorch's update, :math:`v' = \mu v + Hx + \xi`, :math:`x' = x - \eta v'`, or with Nesterov's momentum
    :math:`x' = x - \eta (Hx + \xi + \mu v')`, as a linear process in (x, v) of which x is seen. Without Nesterov's, in
    one dimension, x is AR(2): :math:`x_{k+1} = (1 + \mu - \eta H) x_k - \mu x_{k-1} - \eta\xi_k`. With ``momentum = 0``
    it is plain SGD.

    Parameters
    ----------
    H
        Hessian ``(d, d)``.
    noise
        Covariance of the gradient of a batch ``(d, d)``: ``minibatch_factor(N, b, ...) * D``, batches independent.
    lr, momentum, nesterov
        As in :class:`torch.optim.SGD`.

    Raises
    ------
    ValueError
        If the shapes differ, or the learning rate is too large for ``H``: there is no stationary law.

    References
    ----------
    Liu, Ziyin and Ueda, arXiv 2012.03636, solve it. Chapter 10.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> plain = series.momentum_process([[1.0]], [[1.0]], lr=0.1, momentum=0.0)
    >>> round(float(plain.covariance[0, 0]), 12) == round(0.1 / (2 - 0.1), 12)
    True
    """
    A, B, noise = _momentum_step(H, noise, lr, momentum, nesterov)
    return LinearProcess(A, B @ noise @ B.T, len(noise))


def epoch_process(
    H: ArrayLike, noise: ArrayLike, lr: float, momentum: float, steps: int, *, nesterov: bool = False
) -> LinearProcess:
    r"""The same SGD seen once an epoch of ``steps`` reshuffled batches, which together use every example once.

    Over an epoch :math:`z' = A^K z + \sum_i A^i B \xi_i`. The noises of an epoch sum to zero, so any two have the
    covariance :math:`-C/(K-1)` if each has C, and the sum has the covariance

    .. math:: \tfrac{K}{K-1} \Bigl(\sum_i P_i C P_i^\top - \tfrac1K P C P^\top\Bigr), \quad P_i = A^i B, \;
        P = \sum_i P_i.

    Of one direction of curvature h, with small steps and :math:`x = \eta K h / (1 - \mu)`, the variance is the part
    :math:`\tfrac{K}{K-1} \bigl(1 - \tanh(x/2) / (x/2)\bigr)` of that with independent batches: of slow directions
    about :math:`x^2 / 12`, of those that forget within an epoch nearly all.

    Parameters
    ----------
    H, noise, lr, momentum, nesterov
        As of :func:`momentum_process`; ``noise`` is that of one reshuffled batch, ``(N - b) / (b (N - 1)) D``.
    steps
        Batches in an epoch, ``K = N / b >= 2``.

    Raises
    ------
    ValueError
        As of :func:`momentum_process`, or if ``steps`` is below 2.

    References
    ----------
    Chapter 10.

    Examples
    --------
    >>> import numpy as np
    >>> from sgdvi_lite import series
    >>> K, x = 1000, 2.0  # one direction that nearly forgets an epoch
    >>> mode = [[1.0]], [[1.0]], x / K, 0.0
    >>> part = series.epoch_process(*mode, K).covariance / series.momentum_process(*mode).covariance
    >>> bool(abs(part[0, 0] / (K / (K - 1) * (1 - np.tanh(x / 2) / (x / 2))) - 1) < 0.01)
    True
    """
    K = _checks.count("steps", steps, low=2)
    A, B, noise = _momentum_step(H, noise, lr, momentum, nesterov)
    pushes = [B]
    for _ in range(K - 1):
        pushes.append(A @ pushes[-1])
    total = sum(pushes)
    kicks = sum(push @ noise @ push.T for push in pushes) - total @ noise @ total.T / K
    return LinearProcess(np.linalg.matrix_power(A, K), kicks * K / (K - 1), len(noise))


def _momentum_step(
    H: ArrayLike, noise: ArrayLike, lr: float, momentum: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A and B of a step ``z' = A z + B xi`` in z = (x, v), and the covariance of xi."""
    lr, momentum = _checks.positive("lr", lr), _checks.momentum(momentum, nesterov)
    H, noise = _square("H", H, noise, "(d, d)")
    I = np.eye(len(H))  # noqa: E741
    kick = lr * (1 + momentum) if nesterov else lr
    carry = lr * momentum**2 if nesterov else lr * momentum
    return np.block([[I - kick * H, -carry * I], [H, momentum * I]]), np.vstack([-kick * I, I]), noise


def _square(name: str, A: ArrayLike, noise: ArrayLike, form: str) -> tuple[np.ndarray, np.ndarray]:
    A, noise = (np.atleast_2d(_checks.array(*part)).copy() for part in ((name, A), ("noise", noise)))
    good = A.shape == noise.shape == (len(A), len(A))
    _checks.require(good, f"{name} has shape {A.shape}, noise {noise.shape}: expected {form} for both")
    return A, noise

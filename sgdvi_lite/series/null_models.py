"""Null models of a time series: noise, Brownian motion, linear processes in discrete time, surrogates of given data."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_lyapunov

from sgdvi_lite import _checks
from sgdvi_lite.series.estimates import as_series


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
        self.d = len(self.A) if d is None else d
        _checks.count("d", self.d, high=len(self.A))
        self.mean = np.zeros(self.d) if mean is None else np.asarray(mean, float)
        self._factor = _root("noise", self.noise)
        largest = np.abs(np.linalg.eigvals(self.A)).max()
        if not largest < 1:
            raise ValueError(
                f"A has an eigenvalue of modulus {largest:.6g}: expected all < 1, else there is no stationary law; "
                "lower the learning rate if it comes from SGD"
            )

    @cached_property
    def _state_covariance(self) -> np.ndarray:
        C = solve_discrete_lyapunov(self.A, self.noise)
        return (C + C.T) / 2

    @property
    def covariance(self) -> np.ndarray:
        """Stationary covariance of what is seen ``(d, d)``."""
        return self._state_covariance[: self.d, : self.d]

    def autocovariance(self, lag: int) -> np.ndarray:
        """``E[x_k x_{k + lag}^T]`` ``(d, d)``, as :func:`lagged_covariance` estimates it."""
        moved = self._state_covariance @ np.linalg.matrix_power(self.A, lag).T
        return moved[: self.d, : self.d]

    def area(self, lag: int = 1) -> np.ndarray:
        """Expectation of :func:`stochastic_area`, ``(d, d)``: the antisymmetric part of the autocovariance."""
        C = self.autocovariance(lag)
        return (C - C.T) / 2

    def current_velocity(self) -> np.ndarray:
        """Matrix ``(d, d)`` that maps a position to the velocity that :func:`velocity_field` estimates, per sample."""
        return -self.area() @ np.linalg.inv(self.covariance)

    def increment_spectrum(self, frequency: ArrayLike) -> np.ndarray:
        """Exact density of :func:`increment_spectrum` at frequencies ``(m,)`` in cycles a sample, ``(m, d)``."""
        turn = np.exp(2j * np.pi * np.asarray(frequency, float))
        H = np.linalg.inv(turn[:, None, None] * np.eye(len(self.A)) - self.A)[:, : self.d] @ self._factor
        return 2 * np.abs(turn - 1)[:, None] ** 2 * (np.abs(H) ** 2).sum(axis=2)

    def sample(self, n: int, *, generator: torch.Generator) -> np.ndarray:
        """A stretch ``(n, d)`` of the stationary process."""
        kicks = white_noise(n, self.noise, generator=generator)
        z = np.empty_like(kicks)
        z[0] = _root("covariance", self._state_covariance) @ _normal(1, len(self.A), generator)[0]
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
    mean = x.mean(axis=0)
    x = x - mean
    C0 = x.T @ x / len(x)
    C1 = x[1:].T @ x[:-1] / len(x)
    if reversible:
        C1 = (C1 + C1.T) / 2
    if len(x) <= x.shape[1] or not np.linalg.eigvalsh(C0)[0] > 1e-12 * np.trace(C0):
        raise ValueError(
            f"x has shape {x.shape} and a covariance that is singular: expected more samples than dimensions, and no "
            "direction that stands still; project on fewer directions"
        )
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
    _checks.positive("lr", lr)
    _checks.momentum(momentum, nesterov)
    H, noise = _square("H", H, noise, "(d, d)")
    I = np.eye(len(H))  # noqa: E741
    kick = lr * (1 + momentum) if nesterov else lr
    carry = lr * momentum**2 if nesterov else lr * momentum
    A = np.block([[I - kick * H, -carry * I], [H, momentum * I]])
    B = np.vstack([-kick * I, I])
    return LinearProcess(A, B @ noise @ B.T, len(H))


def white_noise(n: int, covariance: ArrayLike, *, generator: torch.Generator) -> np.ndarray:
    """Independent Gaussian vectors ``(n, d)`` with the covariance ``(d, d)``.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> series.white_noise(3, [[1.0, 0.0], [0.0, 4.0]], generator=torch.Generator().manual_seed(0)).shape
    (3, 2)
    """
    _checks.count("n", n)
    root = _root("covariance", np.asarray(covariance, float))
    return _normal(n, len(root), generator) @ root.T


def brownian(n: int, covariance: ArrayLike, *, generator: torch.Generator) -> np.ndarray:
    """Brownian motion ``(n, d)`` from 0, with the covariance ``(d, d)`` of an increment: a walk without a force.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import series
    >>> series.brownian(3, [[1.0]], generator=torch.Generator().manual_seed(0))[0].tolist()
    [0.0]
    """
    steps = white_noise(n, covariance, generator=generator)
    steps[0] = 0
    return np.cumsum(steps, axis=0)


def phase_surrogate(x: ArrayLike, *, generator: torch.Generator, together: bool = True) -> np.ndarray:
    """Give the Fourier modes of a series random phases: the same periodogram exactly, and all else Gaussian noise.

    Parameters
    ----------
    x
        The series ``(n,)`` or ``(n, c)``; better if its ends match, since the method takes it as periodic.
    generator
        CPU generator of the phases.
    together
        Turn all columns by the same phases: cross-spectra stay too, and with them every lagged covariance, circular
        stochastic areas included; the null is any linear Gaussian process, with its current. Otherwise columns are
        turned independently: the null is columns that know nothing of one another, without a current.

    Notes
    -----
    The halves of one surrogate are not independent. With ``together`` the circular area of the whole is that of ``x``:
    what one half has too much of, the other lacks, and a plane chosen because it turns most in one half is biased to
    the opposite sense in the other. Independent phases leave the area between columns free, and there is no such bias.

    References
    ----------
    Theiler et al., Physica D 58 (1992) 77; for several columns and for caveats, Schreiber and Schmitz, Physica D 142
    (2000) 346. Chapter 10.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from sgdvi_lite import series
    >>> x = np.sin(np.arange(100.0)) ** 3
    >>> y = series.phase_surrogate(x, generator=torch.Generator().manual_seed(0))
    >>> bool(np.allclose(np.abs(np.fft.rfft(x)), np.abs(np.fft.rfft(y)))), bool(abs(x - y).max() > 0.1)
    (True, True)
    """
    x = as_series("x", x, 4)
    modes = np.fft.rfft(x.reshape(len(x), -1), axis=0)
    shape = (len(modes), 1 if together else modes.shape[1])
    phases = 2 * np.pi * torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
    phases[0] = 0
    if len(x) % 2 == 0:
        phases[-1] = 0  # the mode of frequency 1/2 is real
    return np.fft.irfft(modes * np.exp(1j * phases), n=len(x), axis=0).reshape(x.shape)


def time_reversed(x: ArrayLike) -> np.ndarray:
    """The series ``(n, ...)`` backwards: every area and current changes its sign, every spectrum stays.

    Examples
    --------
    >>> from sgdvi_lite import series
    >>> series.time_reversed([1.0, 2.0, 3.0]).tolist()
    [3.0, 2.0, 1.0]
    """
    return as_series("x", x, 1)[::-1].copy()


def _square(name: str, A: ArrayLike, noise: ArrayLike, form: str) -> tuple[np.ndarray, np.ndarray]:
    A, noise = (np.atleast_2d(np.asarray(matrix, float)) for matrix in (A, noise))
    if not A.shape == noise.shape == (len(A), len(A)):
        raise ValueError(f"{name} has shape {A.shape}, noise {noise.shape}: expected {form} for both")
    return A, noise


def _normal(n: int, m: int, generator: torch.Generator) -> np.ndarray:
    return torch.randn(n, m, generator=generator, dtype=torch.float64).numpy()


def _root(name: str, covariance: np.ndarray) -> np.ndarray:
    """A square root of a covariance, which may be singular."""
    if covariance.ndim != 2 or not np.allclose(covariance, covariance.T, rtol=0, atol=1e-10 * np.abs(covariance).max()):
        raise ValueError(f"{name} is no symmetric matrix: expected a covariance (d, d)")
    sizes, vectors = np.linalg.eigh(covariance)
    if not sizes[0] >= -1e-10 * max(sizes[-1], 0):
        raise ValueError(f"{name} has the eigenvalue {sizes[0]:.3g}: expected all >= 0, as it is a covariance")
    return vectors * np.sqrt(np.maximum(sizes, 0))

"""Ranks and effective dimensions of a spectrum.

A covariance matrix of size ``d`` is described here by its eigenvalues alone. Only the non-zero ones need to be given:
``d`` says how many there are in all.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sgdvi_lite import _checks


def eigenvalues(matrix: Tensor) -> Float[Tensor, " n"]:
    """Eigenvalues of a symmetric positive semi-definite matrix (n, n), largest first; negative rounding becomes zero.

    Only the lower triangle is read.

    Raises
    ------
    ValueError
        If the matrix is not square, or has a NaN or an infinity.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import linalg
    >>> linalg.eigenvalues(torch.diag(torch.tensor([1.0, 3.0, 0.0])))
    tensor([3., 1., 0.])
    """
    _checks.rows("matrix", matrix, "(n, n)")
    _checks.shape("matrix", matrix.shape, matrix.shape[0] == matrix.shape[1], "(n, n)")
    try:
        values = torch.linalg.eigvalsh(matrix)
    except torch.linalg.LinAlgError:  # which happens in float32
        values = torch.linalg.eigvalsh(matrix.double()).to(matrix.dtype)
    return values.flip(0).clamp_min(0)


def rank_threshold(largest: float, d: int, eps: float) -> float:
    """The size below which an eigenvalue counts as zero: ``largest * d * eps``, as in ``numpy.linalg.matrix_rank``.

    It grows with the size of the matrix and with the precision of the arithmetic; chapter 9 shows what follows.
    """
    return largest * d * eps


def numerical_rank(spectrum: Float[Tensor, " n"], d: int, eps: float) -> int:
    """Number of eigenvalues above :func:`rank_threshold`.

    Parameters
    ----------
    spectrum
        Eigenvalues of a positive semi-definite matrix of size ``d``, in any order; zeros may be left out.
    d
        Size of the matrix.
    eps
        Machine epsilon of the arithmetic in which the matrix is thought to be given.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import linalg
    >>> spectrum = torch.tensor([1.0, 1e-3, 1e-9], dtype=torch.float64)
    >>> linalg.numerical_rank(spectrum, d=100, eps=1.2e-7), linalg.numerical_rank(spectrum, d=100, eps=2.2e-16)
    (2, 3)
    """
    _checks.positive("eps", eps)
    spectrum = _spectrum(spectrum)
    _checks.count("d", d, low=len(spectrum))
    return int((spectrum > rank_threshold(spectrum.max().item(), d, eps)).sum())


def stable_rank(spectrum: Float[Tensor, " n"]) -> float:
    """Trace over largest eigenvalue: at most the rank, and insensitive to small eigenvalues. Zero for D = 0.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import linalg
    >>> round(linalg.stable_rank(torch.tensor([2.0, 1.0, 1.0, 1e-9])), 6)
    2.0
    """
    spectrum = _spectrum(spectrum)
    largest = spectrum.max().item()
    return spectrum.sum().item() / largest if largest > 0 else 0.0


def participation_ratio(spectrum: Float[Tensor, " n"]) -> float:
    """Squared trace over squared Frobenius norm: how many equal eigenvalues would give the same. Zero for D = 0.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import linalg
    >>> linalg.participation_ratio(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    2.0
    """
    spectrum = _spectrum(spectrum)
    squares = spectrum.square().sum().item()
    return spectrum.sum().item() ** 2 / squares if squares > 0 else 0.0


def entropy_rank(spectrum: Float[Tensor, " n"]) -> float:
    """Exponential of the entropy of the normalised eigenvalues (Roy and Vetterli 2007). Zero for D = 0.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import linalg
    >>> round(linalg.entropy_rank(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)), 12)
    2.0
    """
    spectrum = _spectrum(spectrum)
    total = spectrum.sum().item()
    if total <= 0:
        return 0.0
    p = spectrum[spectrum > 0] / total
    return torch.exp(-(p * p.log()).sum()).item()


def mean_and_std(trace: float, frobenius: float, d: int) -> tuple[float, float]:
    """Mean and standard deviation of all ``d`` eigenvalues from the trace and the Frobenius norm alone.

    Examples
    --------
    >>> from sgdvi_lite import linalg
    >>> linalg.mean_and_std(trace=7.0, frobenius=5.0, d=2)  # eigenvalues 3 and 4
    (3.5, 0.5)
    """
    mean = trace / _checks.count("d", d)
    return mean, max(frobenius**2 / d - mean**2, 0.0) ** 0.5


def clipped_mean_and_std(spectrum: Float[Tensor, " n"], d: int, eps: float) -> tuple[float, float]:
    """Mean and standard deviation of all ``d`` eigenvalues, those below :func:`rank_threshold` raised to it.

    The captions of the paper print these: the authors' code clips the eigenvalues from below before it averages (see
    chapter 9). The mean is then little more than the threshold, ``lambda_max d eps``, whatever the matrix.

    Parameters
    ----------
    spectrum, d, eps
        As in :func:`numerical_rank`.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import linalg
    >>> linalg.clipped_mean_and_std(torch.tensor([8.0, 1.0]), d=4, eps=1 / 16)  # 8, 2, 2, 2
    (3.5, 2.598076211353316)
    """
    spectrum = _spectrum(spectrum).double()
    _checks.count("d", d, low=len(spectrum))
    level = rank_threshold(spectrum.max().item(), d, _checks.positive("eps", eps))
    clipped = torch.cat([spectrum.clamp_min(level), spectrum.new_full((d - len(spectrum),), level)])
    return clipped.mean().item(), clipped.std(correction=0).item()


def marchenko_pastur(N: int, d: int) -> Float64[Tensor, " n"]:
    """Expected spectrum of isotropic noise: the min(N, d) non-zero eigenvalues of the covariance of N gradients.

    They are the quantiles of the law of Marchenko and Pastur (1967) for ``N`` independent gradients whose ``d`` entries
    have variance 1, largest first, scaled so that their sum is ``d``, the trace. For large N and d a drawn spectrum is
    close to them.

    Examples
    --------
    >>> from sgdvi_lite import linalg
    >>> null = linalg.marchenko_pastur(N=400, d=100)
    >>> round(null[0].item(), 1), round(null[-1].item(), 1), round(null.sum().item())  # edges (1 +- 1/2)^2
    (2.2, 0.3, 100)
    """
    n = min(_checks.count("N", N), _checks.count("d", d))
    angle = (np.arange(20_000) + 0.5) * np.pi / 20_000  # substituted for the value: smooth at both edges
    value = 1 + d / N + 2 * (d / N) ** 0.5 * np.cos(angle)
    mass = np.cumsum(np.sin(angle) ** 2 / value)
    spectrum = np.interp((np.arange(n) + 0.5) / n, mass / mass[-1], value)
    return torch.from_numpy(spectrum * d / spectrum.sum())


def _spectrum(values: Tensor) -> Tensor:
    """Eigenvalues as float64; raise if there is none, or one is NaN, infinite or more negative than rounding makes."""
    spectrum = torch.from_numpy(_checks.array("spectrum", values, 1, "(n,) with n >= 1"))
    least = spectrum.min().item()
    _checks.eigenvalue("spectrum", least, least >= -1e-3 * spectrum.max().item(), ">= 0, but for rounding")
    return spectrum

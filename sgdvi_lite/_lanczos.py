"""Leading eigenvalues of a large positive semi-definite matrix from products with blocks, and how many there are.

Ritz values lie below eigenvalues, so those of a plain Lanczos run can be too few. Here a count comes with a
certificate: the part of the matrix that the Ritz vectors leave over lies clearly below the threshold, which follows
from the exact trace and Frobenius norm or from a second run with random starting vectors; and what couples the two
parts is too small to lift a Ritz value over the threshold, which follows from the inertia of a Schur complement.

References
----------
Haynsworth, Determination of the inertia of a partitioned Hermitian matrix, Linear Algebra Appl. 1 (1968), 73-81.
Wolkowicz and Styan, Bounds for eigenvalues using traces, Linear Algebra Appl. 29 (1980), 471-506.
Kuczynski and Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start,
SIAM J. Matrix Anal. Appl. 13 (1992), 1094-1122, Theorem 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

MARGIN = 0.7
"""Ritz vectors down to this fraction of the threshold are set aside, so that the rest lies clearly below it."""
CEILING = (1 + MARGIN) / 2
"""The random run has to show that the rest lies below this fraction of the threshold."""
TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-6}
"""Residual, in units of the threshold, at which a Ritz vector counts as found: its value is then off by far less."""
PROBES, STEPS, FAILURE = 32, 40, 1e-9
ROUNDING, SUMMATION = 3, 10
"""Allowance for the rounding of one computed eigenvalue, in units of the dtype's epsilon and of the largest, and of
sums of them. On a matrix of size 8,266 in float32 the eigenvalues near the threshold were off by up to 0.9."""
Matmul = Callable[[Tensor], Tensor]


class RoundingError(ArithmeticError):
    """A Ritz value is nearer to the threshold than the dtype can tell."""


class LimitError(RuntimeError):
    """The Krylov space has reached its limit before the count was certain; the message says how far it got."""


@dataclass(frozen=True)
class Certificate:
    """Eigenvalues above a threshold, and why there are no more.

    Attributes
    ----------
    values
        The eigenvalues above the threshold, largest first (Ritz values: each at most the eigenvalue).
    residuals
        Bound on the distance of each from an eigenvalue.
    threshold
        What they exceed.
    kind
        ``full`` (all eigenvalues were computed), ``deterministic`` (from trace and Frobenius norm), ``probabilistic``.
    failure_probability
        Bound on the probability that an eigenvalue was missed; 0 unless the kind is ``probabilistic``.
    products
        Number of vectors with which the matrix was multiplied.
    """

    values: Tensor
    residuals: Tensor
    threshold: float
    kind: str
    failure_probability: float
    products: int

    @property
    def count(self) -> int:
        """Number of eigenvalues above the threshold."""
        return len(self.values)


class Krylov:
    """Rayleigh-Ritz in a block Krylov space, orthogonalised in full.

    Parameters
    ----------
    matmul
        Multiplies the symmetric matrix with a block ``(d, m)``.
    start
        First block ``(d, m)``.
    limit
        Most basis vectors; memory for two arrays ``(d, limit)`` is taken at once.

    Attributes
    ----------
    next : Tensor
        The block that :meth:`extend` orthogonalises and adds: the matrix times the last one, or a fresh start.
    """

    def __init__(self, matmul: Matmul, start: Tensor, limit: int):
        self.matmul, self.limit, self.size = matmul, limit, 0
        self._Q, self._W = (start.new_empty(start.shape[0], limit) for _ in range(2))
        self.next = start

    @property
    def Q(self) -> Tensor:
        """Orthonormal basis (d, size)."""
        return self._Q[:, : self.size]

    @property
    def W(self) -> Tensor:
        """The matrix times the basis (d, size)."""
        return self._W[:, : self.size]

    def extend(self) -> bool:
        """Add one block; False if no room is left."""
        m = min(self.next.shape[1], self.limit - self.size)
        if m == 0:
            return False
        block = self.next[:, :m]
        for _ in range(2):
            block = torch.linalg.qr(block - self.Q @ (self.Q.T @ block))[0]
        new = slice(self.size, self.size + m)
        self._Q[:, new] = block
        self._W[:, new] = self.matmul(block)
        self.size += m
        self.next = self._W[:, new]
        return True

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, largest first, their residuals (d, size) and their vectors (d, size)."""
        H = self.Q.T @ self.W
        values, Y = torch.linalg.eigh((H + H.T) / 2)
        values, Y = values.flip(0), Y.flip(1)
        vectors = self.Q @ Y
        return values, self.W @ Y - vectors * values, vectors


def largest_bound(trace: float, square: float, n: int) -> float:
    """Upper bound on the largest of ``n`` non-negative numbers from their sum and their sum of squares."""
    mean = trace / n
    return mean + math.sqrt(max((n - 1) / n * (square - n * mean**2), 0.0))


def rounding(values: Tensor) -> float:
    """How far rounding may have moved an eigenvalue or a Ritz value; ``values``, largest first, give the scale."""
    return ROUNDING * torch.finfo(values.dtype).eps * values[0].item()


def most_above(values: Tensor, residuals: Tensor, threshold: float, ceiling: float) -> int:
    """Upper bound on the eigenvalues above ``threshold`` from Ritz values and residuals (d, k), if the rest is below.

    In a basis that begins with the Ritz vectors the matrix is ``[[L, E'], [E, S]]``, with ``E'E = residuals'
    residuals``. Where ``S <= ceiling < threshold``, the number of its eigenvalues above the threshold is that of ``L +
    E' (threshold - S)^{-1} E`` (Haynsworth 1968), hence at most that of ``L + E'E / (threshold - ceiling)``; and by
    interlacing it is at least that of ``L``.
    """
    lifted = torch.diag(values) + residuals.T @ residuals / (threshold - ceiling)
    return int((torch.linalg.eigvalsh(lifted) > threshold).sum())


def failure_probability(ratio: float, n: int, steps: int, probes: int) -> float:
    """Bound on P(largest eigenvalue >= threshold), given that a block Lanczos run found only ``ratio`` times it.

    Each of the ``probes`` random vectors fails with probability at most ``1.648 sqrt(n) exp(-sqrt(1 - ratio) (2 steps -
    1))``, whatever the spectrum, and the run falls short only if all of them do.
    """
    if ratio >= 1:
        return 1.0
    one = 1.648 * math.sqrt(n) * math.exp(-math.sqrt(1 - ratio) * (2 * steps - 1))
    return min(one, 1.0) ** probes


def leading(
    matmul: Matmul,
    like: Tensor,
    d: int,
    threshold: Callable[[Tensor], float | None],
    *,
    trace: float,
    frobenius: float | None,
    limit: int,
    generator: torch.Generator,
    block: int | None = None,
    progress: bool = False,
) -> Certificate:
    """Eigenvalues of a positive semi-definite matrix above a threshold, with a certificate that none is missing.

    Parameters
    ----------
    matmul
        Multiplies the matrix with ``(d, m)``, in the dtype of these.
    like
        A tensor of the dtype and device wanted. If float32 vectors cannot tell on which side of the threshold an
        eigenvalue lies, the search is done again in float64.
    threshold
        Gives the threshold from the Ritz values, largest first, or ``None`` while there are too few of them.
    trace, frobenius
        Exact trace and, if known, Frobenius norm of the matrix.
    limit
        Most vectors in the Krylov space.
    generator
        CPU generator of the starting vectors.
    block
        Vectors that are multiplied at once; by default as many as leave 16 steps, at most 64.

    Raises
    ------
    LimitError
        If ``limit`` vectors do not suffice.
    """
    if trace <= 0:
        return Certificate(like.new_zeros(0), like.new_zeros(0), 0.0, "deterministic", 0.0, 0)
    limit = min(limit, d)
    block = block or max(min(8, limit), min(64, limit // 16))
    arguments = (d, threshold, trace, frobenius, limit, generator, block, progress)
    try:
        return _search(matmul, like, *arguments)
    except RoundingError:
        return _search(matmul, like.double(), *arguments)


def _search(matmul, like, d, threshold, trace, frobenius, limit, generator, block, progress) -> Certificate:
    tolerance = TOLERANCE[like.dtype]
    draw = lambda m: torch.randn(d, m, generator=generator, dtype=like.dtype).to(like.device)  # noqa: E731
    krylov = Krylov(matmul, draw(block), limit)
    products, check_at = 0, block
    with tqdm(desc="Lanczos", unit="vector", total=limit, disable=not progress, leave=False) as bar:
        while krylov.extend():
            bar.update(krylov.size - bar.n)
            if krylov.size < min(check_at, limit):
                continue
            check_at = int(1.2 * krylov.size) + 1
            values, residuals, vectors = krylov.ritz()
            t = threshold(values)
            if t is None:
                continue
            norms = torch.linalg.vector_norm(residuals, dim=0)
            found = (norms <= tolerance * t) | (krylov.size == d)
            wanted = values > MARGIN * t
            if not found[wanted].all() or (wanted.all() and krylov.size < d):
                continue
            parts = values[found], residuals[:, found], vectors[:, found]
            kind, p, used = _certify(matmul, draw, *parts, t, trace, frobenius)
            products += used
            if p <= FAILURE:
                above = values > t
                return Certificate(values[above], norms[above], t, kind, p, krylov.size + products)
            if used:  # an eigenvalue was missed: start afresh beside what is found
                krylov.next = draw(block)
    raise LimitError(_how_far(krylov, threshold, tolerance))


def _certify(matmul, draw, values, residuals, V, t, trace, frobenius) -> tuple[str, float, int]:
    """Kind of certificate, failure probability, products used: are the eigenvalues above ``t`` those of ``V``?"""
    n, count = V.shape[0] - V.shape[1], int((values > t).sum())
    window = rounding(values)
    if ((values - t).abs() <= window).any() and values.dtype != torch.float64:
        raise RoundingError(f"a Ritz value is nearer to the threshold {t:.6g} than rounding errors, {window:.1g}")
    if n == 0:
        return "full", 0.0, 0
    low = t - window
    settled = lambda ceiling: ceiling < low and most_above(values, residuals, low, ceiling) == count  # noqa: E731
    if frobenius is not None and settled(_left_over(values, trace, frobenius, n)):
        return "deterministic", 0.0, 0
    if not settled(CEILING * t):
        return "undecided", 1.0, 0
    return "probabilistic", *_probe(matmul, draw, V, CEILING * t)


def _probe(matmul, draw, V: Tensor, ceiling: float) -> tuple[float, int]:
    """Bound on the probability that the part orthogonal to ``V`` exceeds ``ceiling`` (1 if it does), products used."""
    n = V.shape[0] - V.shape[1]
    deflate = lambda X: X - V @ (V.T @ X)  # noqa: E731
    probes = min(PROBES, n)
    run = Krylov(lambda X: deflate(matmul(deflate(X))), deflate(draw(probes)), min(n, probes * STEPS))
    p, steps = 1.0, 0
    while p > FAILURE and run.extend():
        steps += 1
        H = run.Q.T @ run.W
        ratio = torch.linalg.eigvalsh((H + H.T) / 2)[-1].item() / ceiling
        if not 0 <= ratio < 1:
            return 1.0, run.size
        p = 0.0 if run.size == n else failure_probability(ratio, n, steps, probes)
    return p, run.size


def _left_over(values: Tensor, trace: float, frobenius: float, n: int) -> float:
    """Bound on the largest eigenvalue of the part that is left, after allowance for the rounding of ``values``."""
    exact, slack = values.double(), SUMMATION * torch.finfo(values.dtype).eps
    rest = trace * (1 + slack) - exact.sum().item()
    square = frobenius**2 * (1 + slack) - exact.square().sum().item()
    return largest_bound(rest, square, n) if min(rest, square) >= 0 else math.inf


def _how_far(krylov: Krylov, threshold, tolerance: float) -> str:
    values, residuals, _ = krylov.ritz()
    t = threshold(values)
    settled = int((torch.linalg.vector_norm(residuals, dim=0) <= tolerance * t).sum()) if t else 0
    above = f"{int((values > t).sum())} Ritz values above the threshold {t:.3g}" if t else "no threshold yet"
    return (
        f"the Krylov space has {krylov.size} vectors, its limit is {krylov.limit}: {settled} eigenvalues have settled, "
        f"{above}, smallest Ritz value {values[-1].item():.3g}; the count is not certain. Allow more memory, ask for "
        "fewer eigenvalues or a larger eps, or use the back-end 'dense'"
    )

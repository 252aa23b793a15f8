"""How many eigenvalues of a positive semi-definite matrix lie above a threshold, and why there are no more.

Ritz values lie below eigenvalues, so a count of them can be too low. It is certain if the part of the matrix that the
Ritz vectors leave over lies clearly below the threshold, which follows from the exact trace and Frobenius norm or from
a second run with random starting vectors; and if what couples the two parts is too small to lift a Ritz value over the
threshold, which follows from the inertia of a Schur complement.

References
----------
Haynsworth, Determination of the inertia of a partitioned Hermitian matrix, Linear Algebra Appl. 1 (1968), 73-81.
Wolkowicz and Styan, Bounds for eigenvalues using traces, Linear Algebra Appl. 29 (1980), 471-506.
Kuczynski and Wozniakowski, Estimating the largest eigenvalue by the power and Lanczos algorithms with a random start,
SIAM J. Matrix Anal. Appl. 13 (1992), 1094-1122, Theorem 4.2.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Allowance for the rounding of one computed eigenvalue, in units of the dtype's epsilon and of the largest eigenvalue.
# On a matrix of size 8,266 in float32 those near a threshold far below the largest were off by up to 0.9.
ROUNDING = 3
# The same for sums of eigenvalues
SUMMATION = 10
TINY = 1e-150  # whose inverse times a square is finite


@dataclass(frozen=True)
class Certificate:
    """Eigenvalues above a threshold, and why there are no more.

    All is said of the matrix as it is stored, or given by float32 gradients. An eigenvalue that is nearer to the
    threshold than float64 can tell counts as it was computed.

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
        Bound on the probability that the certificate is wrong, all attempts at one that came before it included; 0
        unless the kind is ``probabilistic``.
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


def largest_bound(trace: float, square: float, n: int) -> float:
    """Upper bound on the largest of ``n`` non-negative numbers from their sum and their sum of squares."""
    mean = trace / n
    return mean + math.sqrt(max((n - 1) / n * (square - n * mean**2), 0.0))


def rounding(values: Tensor) -> float:
    """How far rounding may have moved an eigenvalue or a Ritz value; ``values``, largest first, give the scale."""
    return ROUNDING * torch.finfo(values.dtype).eps * values[0].item()


def ceiling(values: Tensor, coupling: Tensor, threshold: float) -> float:
    """Highest end of the rest with which there are no more eigenvalues above ``threshold`` than Ritz values (k,).

    In a basis that begins with the Ritz vectors the matrix is ``[[L, E'], [E, S]]``; ``coupling`` is ``E (m, k)``, up
    to a rotation from the left, such as all residuals. Where ``S <= ceiling < threshold``, the number of its
    eigenvalues above the threshold is that of ``L + E' (threshold - S)^{-1} E`` (Haynsworth 1968), hence at most that
    of ``L + E'E / (threshold - ceiling)``; and by interlacing it is at least that of ``L``. By the same theorem both
    are equal if no eigenvalue of ``E (threshold - L)^{-1} E'`` exceeds ``threshold - ceiling``.
    """
    gaps = threshold - values.double()
    gaps[gaps == 0] = TINY
    lifting = (coupling.double() / gaps) @ coupling.double().T
    return threshold - max(torch.linalg.eigvalsh(lifting)[-1].item(), 0.0)


def failure_probability(ratio: float, n: int, steps: int, probes: int) -> float:
    """Bound on P(largest eigenvalue >= threshold), given that a block Lanczos run found only ``ratio`` times it.

    Each of the ``probes`` random vectors fails with probability at most ``1.648 sqrt(n) exp(-sqrt(1 - ratio) (2 steps -
    1))``, whatever the spectrum, and the run falls short only if all of them do.
    """
    one = 1.648 * math.sqrt(n) * math.exp(-math.sqrt(max(1 - ratio, 0.0)) * (2 * steps - 1))
    return min(one, 1.0) ** probes


def of_any_attempt(p: float, attempt: int) -> float:
    """Bound on the probability that any of a search's random runs was wrong, from that of the latest one.

    How many there will be is not known beforehand. So the failure of number ``a = 1, 2, ...`` is allowed the fraction
    ``1 / (a (a + 1))`` of the whole, and these add up to 1: whatever came before, all that end with at most ``P`` here
    are wrong with probability at most ``P`` together.
    """
    return min(p * attempt * (attempt + 1), 1.0)


def left_over(values: Tensor, trace: float, frobenius: float, n: int) -> float:
    """Bound on the largest eigenvalue of the part that is left, after allowance for the rounding of ``values``."""
    exact, slack = values.double(), SUMMATION * torch.finfo(values.dtype).eps
    square = frobenius**2 * (1 + slack) - exact.square().sum().item()
    if square < 0:
        return math.inf
    rest = max(trace * (1 - slack) - exact.sum().item(), math.sqrt(square))  # the bound falls as the trace grows
    return largest_bound(rest, square, n)

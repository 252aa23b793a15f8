"""What the back-ends of a diffusion matrix have in common: what each supplies, and what follows from a stored matrix.

A product is computed in the dtype of the vectors: float64 vectors see what is stored in float32 without its rounding.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from sgdvi_lite._storage.folder import NOTHING, Checkpoints
from sgdvi_lite.diffusion.ranks import Ranks
from sgdvi_lite.gradients.source import Source

# Columns or examples in one block of a product of which half a triangle is computed.
BLOCK = 1024


def norm(matrix: Tensor) -> float:
    """Frobenius norm, added up in float64 (in float32 torch loses four digits)."""
    return math.sqrt(sum(row.double().square().sum().item() for row in matrix.split(BLOCK)))


def add_half(S: Tensor, C: Tensor) -> None:
    """Add the upper half of ``C^T C`` to ``S``, block by block."""
    for j in range(0, len(S), BLOCK):
        S[j : j + BLOCK, j:].addmm_(C[:, j : j + BLOCK].T, C[:, j:])


def mirror(S: Tensor) -> Tensor:
    """Copy the upper half of ``S`` to the lower one."""
    for j in range(0, len(S), BLOCK):
        S[j + BLOCK :, j : j + BLOCK] = S[j : j + BLOCK, j + BLOCK :].T
    return S


@dataclass(frozen=True)
class Gradients:
    """Per-example gradients spread over ranks, and where what is done with them is kept."""

    source: Source
    ranks: Ranks
    progress: bool = False
    states: Checkpoints = NOTHING


@dataclass(frozen=True, eq=False)
class Backend:
    """The matrix ``D`` in one form, immutable once built.

    A back-end supplies ``bytes_needed(source, N)``, ``build(gradients)``, the products ``matmul(V)`` with vectors (d,)
    or (d, m) and ``root_matmul(Z)`` of noise (noise, m) with some ``R`` for which ``R R^T = D``, ``dense()``,
    ``trace`` and ``frobenius_norm``.

    Attributes
    ----------
    name : str
        As users call it.
    file : str
        With what the names of its kept Krylov spaces begin.
    stored : bool
        Whether a matrix is stored from which all eigenvalues can be computed.
    d : int
        Size of ``D``.
    like : Tensor
        Has the dtype and device of ``D``.
    noise : int
        Size of the noise from which a sample is made.
    remedy : str
        What helps if it does not fit into the memory.
    """

    d: int
    like: Tensor
    noise: int
    stored = False
    remedy = "lower chunk"


@dataclass(frozen=True, eq=False)
class Stored(Backend):
    """A back-end that stores a symmetric ``matrix`` with the non-zero eigenvalues of ``D``."""

    matrix: Tensor
    stored = True
    remedy = "use backend='recomputed' or float32, or raise memory if there is more"

    @cached_property
    def trace(self) -> float:
        """Sum of the diagonal, in float64."""
        return self.matrix.diagonal().double().sum().item()

    @cached_property
    def frobenius_norm(self) -> float:
        """Frobenius norm, in float64."""
        return norm(self.matrix)

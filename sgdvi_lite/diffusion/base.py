"""What the back-ends of a diffusion matrix have in common: what each supplies, and what follows from a stored matrix.

A product is computed in the dtype of the vectors: float64 vectors see what is stored in float32 without its rounding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from sgdvi_lite import _checks
from sgdvi_lite._storage.folder import NOTHING, Checkpoints
from sgdvi_lite.diffusion.ranks import Ranks
from sgdvi_lite.gradients.source import Source

# Columns or examples in one block of a product of which half a triangle is computed.
BLOCK = 1024
# Up to this ratio of the mean's square to the variance the mean is taken off as it is: two digits are lost.
LARGE_MEAN = 100.0
SAMPLE = 64  # rows that tell how large their mean is
Chunk = TypeVar("Chunk")


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


def origin(G: Tensor) -> Tensor:
    """What is taken off rows (n, d) before all else: zero, or their mean where they hardly differ from it.

    A difference of two numbers that are close is exact (Sterbenz), so what is left has all its digits, while the
    rounding of a mean may be larger than what the rows differ by. The mean of rows that are all the same is that row,
    bit by bit, since the rounding of its first value is a mean as well.
    """
    some = G[:SAMPLE]
    mean = some.mean(0)
    rest = some - mean
    near = norm(mean[None]) ** 2 * len(some) > LARGE_MEAN * norm(rest) ** 2
    return mean + rest.mean(0) if near else torch.zeros_like(mean)


def largest(G: Tensor) -> float:
    """Size of the largest entry."""
    return torch.linalg.vector_norm(G, ord=math.inf).item()


@dataclass(frozen=True)
class Gradients:
    """Per-example gradients spread over ranks, and where what is done with them is kept."""

    source: Source
    ranks: Ranks
    progress: bool = False
    states: Checkpoints = NOTHING

    def passed(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks of this rank; a fault in any rank's is raised on all of them, when all have come to the end."""
        fault = None
        try:
            yield from chunks
        except Exception as error:
            fault = error
        self.ranks.share(fault)

    def shifted(self, out: Tensor, state: dict, first: int = 0) -> Iterator[Tensor]:
        """Rows from ``first`` on, less an origin, in ``out``; the ``state`` keeps it and the largest entry."""
        for G in self.source.chunks(self.progress, out, first):
            self.check_size("are up to", largest(G))
            if "origin" not in state:
                state["origin"] = torch.zeros_like(G[0]) if first else origin(G)
            if state["origin"].any():
                G -= state["origin"]
            state["largest"] = max(state.get("largest", 0.0), largest(G))
            yield G

    def common_origin(self, state: dict) -> tuple[Tensor, Tensor]:
        """That of the first rank, and how far this rank's is away; after a check of all ranks' entries."""
        self.check_size("less their mean are at most", max(self.ranks.collect(state.get("largest", 0.0))))
        own = state.get("origin", self.source.like.new_zeros(self.source.d))  # kept states had none at first
        common = self.ranks.of_first(own)
        return common, own - common

    def check_size(self, what: str, size: float) -> None:
        """Raise if the largest entry has a square that leaves the range of the dtype, or all have."""
        info, numbers = torch.finfo(self.source.like.dtype), self.source.d * self.ranks.total
        double = torch.finfo(torch.float64)  # in which the squares of the matrix's entries are added up
        least = max(math.sqrt(info.tiny / info.eps), double.tiny**0.25)
        most = min(math.sqrt(info.max / numbers), (double.max / numbers**2) ** 0.25)
        _checks.require(
            size <= most and (size >= least or size == 0 or what == "are up to"),
            f"gradients: the largest entries {what} {size:.3g}: expected 0, or {least:.1g} to {most:.1g}, whose "
            f"squares, and theirs, neither vanish nor overflow in {info.dtype}; multiply the loss by a power of two, "
            "or compute in float64",
        )


@dataclass(frozen=True, eq=False)
class Backend:
    """The matrix ``D`` in one form, which does not change once it is built; what follows from it is kept.

    A back-end supplies ``bytes_needed(source, N)``, ``build(gradients)``, the products ``matmul(V)`` with vectors (d,)
    or (d, m) and ``root_matmul(Z)`` of noise (noise, m) with some ``R`` for which ``R R^T = D``, the ``trace``, and a
    symmetric ``matrix`` with the non-zero eigenvalues of ``D``: itself, or its own ``dense()`` and ``frobenius_norm``.

    Attributes
    ----------
    name : str
        As users call it.
    file : str
        With what the names of its kept Krylov spaces begin.
    stored : bool
        Whether there is a matrix, or will be, from which all eigenvalues can be computed.
    formed : bool
        Whether that matrix is there already.
    block : int
        Vectors with which it is best multiplied at once.
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
    formed = False
    block = 16
    remedy = "lower chunk"

    def cheapest_matmul(self, V: Tensor) -> Tensor:
        """The product by what is there at present; how it rounds may depend on that, which ``matmul`` does not."""
        return self.matmul(V)

    @cached_property
    def frobenius_norm(self) -> float:
        """Frobenius norm, in float64; the ``matrix`` is formed."""
        return norm(self.matrix)

    def dense(self) -> Tensor:
        """A copy of the matrix."""
        return self.matrix.clone()

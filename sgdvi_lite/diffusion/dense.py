"""The back-end ``dense``: the diffusion matrix itself, from one pass over the gradients.

Where the gradients of all examples fit beside it they are kept, and multiplied with; the matrix is formed only when all
its eigenvalues, its norm or itself are asked for.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite.diffusion.base import BLOCK, Backend, Gradients, add_half, mirror
from sgdvi_lite.diffusion.kept import Kept
from sgdvi_lite.gradients.source import Source


def stored_product(matrix: Tensor, V: Tensor) -> Tensor:
    """Product with vectors that may have another dtype: then block by block, so that no copy of the matrix is made."""
    if V.dtype == matrix.dtype:
        return matrix @ V
    return torch.cat([rows.to(V.dtype) @ V for rows in matrix.split(BLOCK)])


@dataclass(frozen=True, eq=False)
class Dense(Backend):
    """The matrix itself, (d, d)."""

    matrix: Tensor
    name = file = "dense"
    stored = formed = True
    remedy = "use backend='recomputed' or float32, or raise memory if there is more"

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        """The matrix and one chunk of gradients, with what it takes to compute it."""
        return (source.d**2 + source.chunk * source.d) * source.like.element_size() + source.working_bytes

    @classmethod
    def build(cls, gradients: Gradients) -> "Dense":
        """Streamed covariance, updated pairwise so that no large numbers cancel (Chan, Golub and LeVeque)."""
        source, ranks, states = gradients.source, gradients.ranks, gradients.states
        d, like = source.d, source.like
        state = states.load("dense") or {"seen": 0, "mean": like.new_zeros(d), "scatter": like.new_zeros(d, d)}
        mean, scatter = state["mean"], state["scatter"]  # updated in place
        buffer = like.new_empty(source.chunk + 1, d)
        for G in gradients.passed(gradients.shifted(buffer[:-1], state, state["seen"])):
            n, seen, chunk_mean = len(G), state["seen"], G.mean(0)
            buffer[n] = (chunk_mean - mean) * math.sqrt(seen * n / (seen + n))
            G -= chunk_mean
            add_half(scatter, buffer[: n + 1])
            mean += (chunk_mean - mean) * (n / (seen + n))
            state["seen"] += n
            states.save("dense", lambda: state)
        mean += gradients.common_origin(state)[1]
        centre = ranks.sum(mean * (state["seen"] / ranks.total))
        add_half(scatter, (mean - centre)[None] * math.sqrt(state["seen"]))
        return cls(d, like, d, mirror(ranks.sum(scatter).div_(ranks.total)))

    @cached_property
    def trace(self) -> float:
        """Sum of the diagonal, in float64."""
        return self.matrix.diagonal().double().sum().item()

    def matmul(self, V: Tensor) -> Tensor:
        """Product ``D V``."""
        return stored_product(self.matrix, V)

    @cached_property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp_min(0).sqrt()

    def root_matmul(self, Z: Tensor) -> Tensor:
        """Product of noise (d, m) with the square root from the eigenvectors."""
        return self._root @ Z


class DenseOfKept(Kept):
    """The gradients of all examples, and the matrix itself once it is asked for."""

    name = file = "dense"

    @classmethod
    def bytes_needed(cls, source: Source, N: int) -> float:
        """The gradients and the matrix."""
        return cls.bytes_kept(source, N) + source.d**2 * source.like.element_size()

    @cached_property
    def matrix(self) -> Tensor:
        """The matrix ``D``, (d, d)."""
        return self.covariance()

    def cheapest_matmul(self, V: Tensor) -> Tensor:
        """The product with the matrix where it is formed, else with the gradients."""
        return stored_product(self.matrix, V) if self.formed else self.matmul(V)

"""The back-end ``dense``: the diffusion matrix itself, from one pass over the gradients."""

import math
from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite.diffusion.base import BLOCK, Gradients, Stored, add_half, mirror
from sgdvi_lite.gradients.source import Source


class Dense(Stored):
    """The matrix itself, (d, d)."""

    name = file = "dense"

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        """The matrix and one chunk of gradients."""
        return (source.d**2 + source.chunk * source.d) * source.like.element_size()

    @classmethod
    def build(cls, gradients: Gradients) -> "Dense":
        """Streamed covariance, updated pairwise so that no large numbers cancel (Chan, Golub and LeVeque)."""
        source, ranks, states = gradients.source, gradients.ranks, gradients.states
        d, like = source.d, source.like
        state = states.load("dense") or {"seen": 0, "mean": like.new_zeros(d), "scatter": like.new_zeros(d, d)}
        mean, scatter = state["mean"], state["scatter"]  # updated in place
        buffer = like.new_empty(source.chunk + 1, d)
        for G in source.chunks(gradients.progress, buffer[:-1], state["seen"]):
            n, seen, chunk_mean = len(G), state["seen"], G.mean(0)
            buffer[n] = (chunk_mean - mean) * math.sqrt(seen * n / (seen + n))
            G -= chunk_mean
            add_half(scatter, buffer[: n + 1])
            mean += (chunk_mean - mean) * (n / (seen + n))
            state["seen"] += n
            states.save("dense", lambda: state)
        centre = ranks.sum(mean * (state["seen"] / ranks.total))
        add_half(scatter, (mean - centre)[None] * math.sqrt(state["seen"]))
        return cls(d, like, d, mirror(ranks.sum(scatter).div_(ranks.total)))

    def matmul(self, V: Tensor) -> Tensor:
        """Product ``D V``; in another dtype block by block, so that no copy of the matrix is made."""
        if V.dtype == self.matrix.dtype:
            return self.matrix @ V
        return torch.cat([rows.to(V.dtype) @ V for rows in self.matrix.split(BLOCK)])

    @cached_property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp_min(0).sqrt()

    def root_matmul(self, Z: Tensor) -> Tensor:
        """Product of noise (d, m) with the square root from the eigenvectors."""
        return self._root @ Z

    def dense(self) -> Tensor:
        """A copy of the matrix."""
        return self.matrix.clone()

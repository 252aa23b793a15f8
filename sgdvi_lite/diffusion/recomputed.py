"""The back-end ``recomputed``: no matrix at all, the gradients are computed anew, chunk by chunk, for every product."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite._storage.folder import NOTHING
from sgdvi_lite.diffusion.base import BLOCK, Backend, Gradients, norm
from sgdvi_lite.diffusion.dense import Dense
from sgdvi_lite.gradients.source import Source


@dataclass(frozen=True, eq=False)
class Recomputed(Backend):
    """The mean gradient and the trace; all else is a pass over the centred gradients, written into ``buffer``."""

    gradients: Gradients
    buffer: Tensor
    mean: Tensor
    trace: float
    name = "recomputed"
    file = "lanczos"  # its name when the first folders were made

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        """A few chunks of gradients."""
        return 4 * source.chunk * source.d * source.like.element_size()

    @classmethod
    def build(cls, gradients: Gradients) -> "Recomputed":
        """Two passes: the mean, then the trace."""
        source, ranks, states = gradients.source, gradients.ranks, gradients.states
        buffer = source.like.new_empty(source.chunk, source.d)

        def average(name: str, total: Callable[[Tensor], Tensor]) -> Tensor:
            """Of all examples, from the totals of chunks, unless it is kept."""
            state = states.load(name)
            if state is None:
                state = {name: ranks.sum(sum(map(total, source.chunks(gradients.progress, buffer))) / ranks.total)}
                states.save(name, lambda: state, done=True)
            return state[name]

        mean = average("mean", lambda G: G.sum(0))
        trace = average("trace", lambda G: G.sub_(mean).double().square().sum())
        return cls(source.d, source.like, ranks.total, gradients, buffer, mean, trace.item())

    def _centred(self) -> Iterator[Tensor]:
        return (G.sub_(self.mean) for G in self.gradients.source.chunks(self.gradients.progress, self.buffer))

    def matmul(self, V: Tensor) -> Tensor:
        """Product ``D V`` by one pass."""
        out = torch.zeros_like(V)
        for G in self._centred():
            C = G.to(V.dtype)
            out += C.T @ (C @ V)
        return self.gradients.ranks.sum(out).div_(self.gradients.ranks.total)

    def root_matmul(self, Z: Tensor) -> Tensor:
        """Product ``C^T Z / sqrt(N)`` of the centred gradients with noise (N, m)."""
        ranks = self.gradients.ranks
        out, i = Z.new_zeros(self.d, Z.shape[1]), ranks.first
        for C in self._centred():
            out += C.T @ Z[i : i + len(C)]
            i += len(C)
        return ranks.sum(out).div_(math.sqrt(ranks.total))

    @cached_property
    def frobenius_norm(self) -> float:
        """Exact, from one pass for each block of columns; nothing larger than the block is stored."""
        ranks, states = self.gradients.ranks, self.gradients.states
        state = states.load("frobenius") or {"total": 0.0, "column": 0}
        width = min(self.d, 2 * BLOCK)
        for j in range(state["column"], self.d, width):
            S = self.like.new_zeros(min(width, self.d - j), self.d - j)
            for C in self._centred():
                S.addmm_(C[:, j : j + width].T, C[:, j:])
            S = ranks.sum(S).div_(ranks.total)
            state["total"] += 2 * norm(S) ** 2 - norm(S[:, : len(S)]) ** 2
            state["column"] = j + width
            states.save("frobenius", lambda: state, done=True)
        return math.sqrt(state["total"])

    def dense(self) -> Tensor:
        """The matrix as the back-end ``dense`` computes it."""
        return Dense.build(replace(self.gradients, states=NOTHING)).matrix

"""The back-end ``recomputed``: no matrix at all, the gradients are computed anew, chunk by chunk, for every product."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite import _checks
from sgdvi_lite._storage.folder import NOTHING
from sgdvi_lite.diffusion.base import BLOCK, Backend, Gradients, norm
from sgdvi_lite.diffusion.dense import Dense
from sgdvi_lite.gradients.source import Source

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # by their bytes


@dataclass(frozen=True, eq=False)
class Recomputed(Backend):
    """The mean gradient and the trace; all else is a pass over the centred gradients, written into ``buffer``."""

    gradients: Gradients
    buffer: Tensor
    origin: Tensor
    mean: Tensor
    trace: float
    marks: list[Tensor]
    name = "recomputed"
    file = "lanczos"  # its name when the first folders were made
    block = 64  # a pass costs hardly more than for fewer

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        """A few chunks of gradients, some of them in float64, and what it takes to compute one."""
        item = source.like.element_size()
        return max(4 * item, item + 16) * source.chunk * source.d + source.working_bytes

    @classmethod
    def build(cls, gradients: Gradients) -> "Recomputed":
        """Two passes: the mean, then the trace."""
        source, ranks, states = gradients.source, gradients.ranks, gradients.states
        buffer = source.like.new_empty(source.chunk, source.d)
        marks = list(map(mark, source.inputs))
        state = states.load("mean")
        if state is None:
            state = {}
            total = sum(G.sum(0) for G in gradients.passed(gradients.shifted(buffer, state)))
            origin, off = gradients.common_origin(state)
            state = {"mean": ranks.sum((total + off * source.N) / ranks.total), "origin": origin}
            states.save("mean", lambda: state, done=True)
        mean = state["mean"]
        origin = state.get("origin", torch.zeros_like(mean))  # kept states had none at first
        made = cls(source.d, source.like, ranks.total, gradients, buffer, origin, mean, math.nan, marks)
        state = states.load("trace")
        if state is None:
            squares = sum(G.double().square().sum() for G in made._centred())
            state = {"trace": ranks.sum(squares / ranks.total)}
            states.save("trace", lambda: state, done=True)
        return replace(made, trace=state["trace"].item())

    def _centred(self) -> Iterator[Tensor]:
        return self.gradients.passed(self._recomputed())

    def _recomputed(self) -> Iterator[Tensor]:
        source = self.gradients.source
        now = list(map(mark, source.inputs))
        _checks.require(
            all(map(torch.equal, now, self.marks)),
            "gradients: what they are computed from was changed in place after D was built: expected it to stay as it "
            "was; build D anew, or from a copy",
        )
        for G in source.chunks(self.gradients.progress, self.buffer):
            yield (G.sub_(self.origin) if self.origin.any() else G).sub_(self.mean)

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


def mark(tensor: Tensor) -> Tensor:
    """A number for each row, exact sums of its bits with odd weights, so that a change in a row is seen."""
    bits = tensor.contiguous().view(-1).view(INTEGERS.get(tensor.element_size(), torch.int64)).view(len(tensor), -1)
    weights = torch.arange(1, 2 * bits.shape[1], 2, device=bits.device).to(bits.dtype)
    return torch.cat([(rows * weights).sum(1, dtype=bits.dtype) for rows in bits.split(BLOCK)])

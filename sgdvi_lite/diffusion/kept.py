"""What the back-ends do that keep the gradients of all examples, those of linear layers as factors.

``D = C^T C`` with the centred gradients ``C (N, d)`` divided by sqrt(N). Rows are centred, which is exact. Outer
products cannot be: their mean is taken off the products instead, unless it is so large that digits would be lost; then
the rows are formed and centred block by block, wherever they are needed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from operator import mul

import torch
from torch import Tensor

from sgdvi_lite.diffusion.base import BLOCK, LARGE_MEAN, Backend, Gradients, add_half, mirror, origin
from sgdvi_lite.diffusion.ranks import Ranks
from sgdvi_lite.gradients.layers import Outer, Part, Rows, rows, widths
from sgdvi_lite.gradients.source import Source

NUMBERS = 2**23  # in a block of rows that are formed


@dataclass(frozen=True, eq=False)
class Kept(Backend):
    """Gradients of all examples, as parts that lose no digits; a ``matrix`` is formed from them when it is asked for.

    Attributes
    ----------
    parts : list of Part
        Rows among them are centred.
    trace : float
        Sum of the diagonal of ``D``.
    centre : tuple of Tensor
        What is taken off rows that are formed, one after the other; nothing where the parts are used as they are.
    """

    parts: list[Part]
    trace: float = math.nan
    centre: tuple[Tensor, ...] = ()
    stored = True
    remedy = "use backend='recomputed' or float32, or raise memory if there is more"

    @staticmethod
    def bytes_kept(source: Source, N: int) -> float:
        """The gradients, twice while they are put together, two blocks of rows, and what a chunk takes to compute."""
        formed = 2 * source.d * min(N, rows_formed(source.d))
        return (2 * sum(source.widths) * N + formed) * source.like.element_size() + source.working_bytes

    @classmethod
    def build(cls, gradients: Gradients) -> "Kept":
        """One pass. All gradients are needed at once: they are not kept in a folder, a pass makes them anew."""
        source, ranks = gradients.source, gradients.ranks
        chunks = gradients.passed(source.parts(gradients.progress))
        parts = [_join(pieces, ranks) for pieces in zip(*chunks, strict=True)]
        gradients.check_size("are up to", max(map(_largest, parts)))
        made = cls(source.d, source.like, ranks.total, [_centred(part) for part in parts])
        square = made.mean(torch.float64).square().sum().item()
        trace = made._mean_square() - square
        if square > LARGE_MEAN * trace and any(isinstance(part, Outer) for part in parts):
            zero = source.like.new_zeros(source.d)
            first = replace(made, centre=(zero,)).mean()
            start = first + replace(made, centre=(first,)).mean()  # rows that are all the same bit by bit, as in base
            made = replace(made, centre=(start, replace(made, centre=(start,)).mean()))
            trace = made._mean_square()
        size = max(_largest(part) for parts in made.blocks(source.like.dtype) for part in parts)
        gradients.check_size("less their mean are at most", size)
        return replace(made, trace=max(trace, 0.0))

    @property
    def formed(self) -> bool:
        """Whether the matrix has been asked for."""
        return "matrix" in vars(self)

    @property
    def N(self) -> int:
        """Number of examples."""
        return len(self.parts[0][0])

    def take(self, block: slice, dtype: torch.dtype) -> list[Part]:
        """Parts of some examples: as they are, or as rows that are formed and centred."""
        parts = [type(part)(*(tensor[block] for tensor in part)) for part in self.parts]
        if self.centre:
            formed = rows(parts)
            for shift in self.centre:
                formed -= shift
            parts = [Rows(formed)]
        return [type(part)(*(tensor.to(dtype) for tensor in part)) for part in parts]

    def blocks(self, dtype: torch.dtype, size: int = BLOCK) -> Iterator[list[Part]]:
        """Parts of all examples, some at a time."""
        size = min(size, rows_formed(self.d)) if self.centre else size
        return (self.take(slice(i, i + size), dtype) for i in range(0, self.N, size))

    def mean(self, dtype: torch.dtype | None = None) -> Tensor:
        """Mean (d,) of the parts, added up in float64."""
        ones = self.like.new_full((self.N, 1), 1 / self.N, dtype=torch.float64)
        return self._transposed(ones)[:, 0].to(dtype or self.like.dtype)

    def _mean_square(self) -> float:
        """Mean squared norm of the parts together."""
        blocks = self.blocks(torch.float64)
        return sum(_product([t.square().sum(1) for t in part]).sum().item() for b in blocks for part in b) / self.N

    def matmul(self, V: Tensor) -> Tensor:
        """Product ``C^T (C V)``."""
        matrix = V if V.ndim == 2 else V[:, None]
        U = torch.cat([_sum_of_products(parts, matrix.split(widths(parts))) for parts in self.blocks(V.dtype)])
        return self._transposed(U - U.mean(0)).div_(len(U)).view(V.shape)

    def _transposed(self, U: Tensor) -> Tensor:
        out, i = U.new_zeros(self.d, U.shape[1]), 0
        for parts in self.blocks(U.dtype):
            n = len(parts[0][0])
            out += torch.cat([part.transposed_matmul(U[i : i + n]) for part in parts])
            i += n
        return out

    def root_matmul(self, Z: Tensor) -> Tensor:
        """Product ``C^T Z`` with noise (N, m)."""
        return self._transposed(Z - Z.mean(0)).div_(math.sqrt(len(Z)))

    def covariance(self) -> Tensor:
        """Sum of the outer products of the centred gradients, divided by N."""
        mean = self.mean()
        S = self.like.new_zeros(self.d, self.d)
        for parts in self.blocks(S.dtype, rows_formed(self.d)):
            add_half(S, rows(parts) - mean)
        return mirror(S.div_(self.N))


def rows_formed(d: int) -> int:
    """Examples whose gradients are formed at a time."""
    return max(1, min(BLOCK, NUMBERS // d))


def _centred(part: Part) -> Part:
    if isinstance(part, Rows):
        for shift in (origin, lambda G: G.mean(0)):
            part.rows.sub_(shift(part.rows))
    return part


def _join(pieces: tuple[Part, ...], ranks: Ranks) -> Part:
    """One part of the examples of all chunks and ranks."""
    return type(pieces[0])(*(ranks.gather(torch.cat(tensors)) for tensors in zip(*pieces, strict=True)))


def _product(tensors: list[Tensor]) -> Tensor:
    return reduce(mul, tensors)


def _largest(part: Part) -> float:
    """Size of the largest entry of the gradients that a part stands for."""
    return _product([torch.linalg.vector_norm(t, ord=math.inf, dim=1).double() for t in part]).max().item()


def _sum_of_products(parts: list[Part], blocks: tuple[Tensor, ...]) -> Tensor:
    return sum(part.matmul(block) for part, block in zip(parts, blocks, strict=True))

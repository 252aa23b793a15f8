"""The back-end ``gram``: the gradients, those of linear layers as factors, and their inner products.

``D = C^T C`` with the centred gradients ``C (N, d)`` divided by sqrt(N), and ``C C^T (N, N)`` has the same non-zero
eigenvalues: it is small where N < d. Rows are centred, which is exact. Outer products cannot be: their mean is taken
off the inner products instead, unless it is so large that digits would be lost; then the rows are formed after all.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sgdvi_lite.diffusion.base import BLOCK, Gradients, Stored, add_half, mirror
from sgdvi_lite.diffusion.ranks import Ranks
from sgdvi_lite.gradients.layers import Outer, Part, Rows, rows, widths
from sgdvi_lite.gradients.source import Source

# Outer products are kept up to this ratio of the mean gradient's square to the variance: two digits are lost.
LARGE_MEAN = 100.0


@dataclass(frozen=True, eq=False)
class Gram(Stored):
    """Gradients of all examples, as parts that lose no digits, and the centred ones' inner products divided by N."""

    parts: list[Part]
    name = file = "gram"

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        """The gradients and their inner products, and as much again for the work."""
        return (2 * sum(source.widths) + 2 * N) * N * source.like.element_size()

    @classmethod
    def build(cls, gradients: Gradients) -> "Gram":
        """All gradients are needed at once: they are not kept, and one pass makes them anew."""
        source, chunks = gradients.source, gradients.source.parts(gradients.progress)
        parts = [_join(pieces, gradients.ranks) for pieces in zip(*chunks, strict=True)]
        K = _inner_products(parts)
        square_of_mean = K.mean().item()
        K -= K.mean(0)
        K -= K.mean(1)[:, None]
        if square_of_mean > LARGE_MEAN * K.diagonal().mean().item() and any(isinstance(part, Outer) for part in parts):
            parts = [_centred(Rows(rows(parts)))]
            K = _inner_products(parts)
        return cls(source.d, source.like, len(K), K.div_(len(K)), parts)

    def _blocks(self, dtype: torch.dtype) -> Iterator[list[Part]]:
        for i in range(0, len(self.matrix), BLOCK):
            yield [_take(part, slice(i, i + BLOCK), dtype) for part in self.parts]

    def matmul(self, V: Tensor) -> Tensor:
        """Product ``C^T (C V)``."""
        split = (V if V.ndim == 2 else V[:, None]).split(widths(self.parts))
        U = torch.cat([sum(p.matmul(v) for p, v in zip(parts, split, strict=True)) for parts in self._blocks(V.dtype)])
        return self._transposed(U - U.mean(0)).div_(len(U)).view(V.shape)

    def _transposed(self, U: Tensor) -> Tensor:
        out = U.new_zeros(self.d, U.shape[1])
        for rows_of_U, parts in zip(U.split(BLOCK), self._blocks(U.dtype), strict=True):
            out += torch.cat([part.transposed_matmul(rows_of_U) for part in parts])
        return out

    def root_matmul(self, Z: Tensor) -> Tensor:
        """Product ``C^T Z`` with noise (N, m)."""
        return self._transposed(Z - Z.mean(0)).div_(math.sqrt(len(Z)))

    def dense(self) -> Tensor:
        """Sum of the outer products of the centred gradients, divided by N."""
        N = len(self.matrix)
        mean = self._transposed(self.like.new_full((N, 1), 1 / N))[:, 0]
        S = self.like.new_zeros(self.d, self.d)
        for parts in self._blocks(S.dtype):
            add_half(S, rows(parts) - mean)
        return mirror(S.div_(N))


def _inner_products(parts: list[Part], size: int = 2 * BLOCK) -> Tensor:
    N = len(parts[0][0])
    K = parts[0][0].new_zeros(N, N)
    work = K.new_empty(2, min(N, size), min(N, size))  # made once: new memory costs more than the products
    for i in range(0, N, size):
        for j in range(i, N, size):
            one, other = slice(i, i + size), slice(j, j + size)
            for part in parts:
                block = K[one, other]
                _take(part, one).add_gram(_take(part, other), block, work[:, : len(block), : block.shape[1]])
            if j > i:
                K[other, one] = K[one, other].T
    return K


def _centred(part: Part) -> Part:
    return Rows(part.rows - part.rows.mean(0)) if isinstance(part, Rows) else part


def _take(part: Part, block: slice, dtype: torch.dtype | None = None) -> Part:
    return type(part)(*(tensor[block].to(dtype or tensor.dtype) for tensor in part))


def _join(pieces: tuple[Part, ...], ranks: Ranks) -> Part:
    """One part of the examples of all chunks and ranks, centred if that is possible."""
    return _centred(type(pieces[0])(*(ranks.gather(torch.cat(tensors)) for tensors in zip(*pieces, strict=True))))

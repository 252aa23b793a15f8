"""The back-end ``gram``: the gradients of all examples and their inner products.

``C C^T (N, N)`` has the same non-zero eigenvalues as ``D = C^T C``: it is small where N < d.
"""

from functools import cached_property

from torch import Tensor

from sgdvi_lite.diffusion.base import BLOCK
from sgdvi_lite.diffusion.kept import Kept, rows_formed
from sgdvi_lite.gradients.source import Source


class Gram(Kept):
    """Gradients of all examples, and the centred ones' inner products divided by N."""

    name = file = "gram"

    @classmethod
    def bytes_needed(cls, source: Source, N: int) -> float:
        """The gradients and their inner products, and as much again for the work."""
        return cls.bytes_kept(source, N) + 2 * N**2 * source.like.element_size()

    @cached_property
    def matrix(self) -> Tensor:
        """Inner products (N, N) of the centred gradients, divided by N."""
        K = _inner_products(self)
        if not self.centre:
            K -= K.mean(0)
            K -= K.mean(1)[:, None]
        return K.div_(self.N)

    def dense(self) -> Tensor:
        """The matrix ``D`` as a new array."""
        return self.covariance()


def _inner_products(kept: Kept) -> Tensor:
    N, size = kept.N, 2 * (rows_formed(kept.d) if kept.centre else BLOCK)
    K = kept.like.new_zeros(N, N)
    work = K.new_empty(2, min(N, size), min(N, size))  # made once: new memory costs more than the products
    for i in range(0, N, size):
        for j in range(i, N, size):
            one, other = slice(i, i + size), slice(j, j + size)
            for part, others in zip(kept.take(one, K.dtype), kept.take(other, K.dtype), strict=True):
                block = K[one, other]
                part.add_gram(others, block, work[:, : len(block), : block.shape[1]])
            if j > i:
                K[other, one] = K[one, other].T
    return K

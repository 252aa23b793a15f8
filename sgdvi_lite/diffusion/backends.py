"""How a diffusion matrix is stored: products, trace, Frobenius norm, eigenvalues and a square root for each way.

A product is computed in the dtype of the vectors: float64 vectors see what is stored in float32 without its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite import linalg
from sgdvi_lite.diffusion.keeping import NOTHING, Keeping
from sgdvi_lite.diffusion.ranks import Group
from sgdvi_lite.gradients import Network, layers
from sgdvi_lite.gradients.layers import Outer, Part, Rows

BLOCK = 1024
"""Columns or examples in one block of a product of which half a triangle is computed."""


class Stored:
    """Given gradients (N, d), in the form that the back-ends read."""

    how = "given"

    def __init__(self, gradients: Tensor):
        (self.N, self.d), self.like = gradients.shape, gradients.new_empty(0)
        self.chunk, self._gradients = min(self.N, 4 * BLOCK), gradients

    def parts(self, progress: bool = False, first: int = 0) -> Iterator[list[Part]]:
        """The gradients, in pieces, as they are."""
        return ([Rows(rows)] for rows in self._gradients[first:].split(self.chunk))

    def chunks(self, progress: bool = False, out: Tensor | None = None, first: int = 0) -> Iterator[Tensor]:
        """Copies of the pieces; the gradients themselves are not modified."""
        pieces = self.parts(progress, first)
        return (layers.rows(part, None if out is None else out[: len(part[0].rows)]) for part in pieces)


Source = Network | Stored


def _norm(matrix: Tensor) -> float:
    """Frobenius norm, added up in float64 (in float32 torch loses four digits)."""
    return math.sqrt(sum(row.double().square().sum().item() for row in matrix.split(BLOCK)))


def _add_half(S: Tensor, C: Tensor) -> None:
    """Add the upper half of ``C^T C`` to ``S``, block by block."""
    for j in range(0, len(S), BLOCK):
        S[j : j + BLOCK, j:].addmm_(C[:, j : j + BLOCK].T, C[:, j:])


def _mirror(S: Tensor) -> Tensor:
    """Copy the upper half of ``S`` to the lower one."""
    for j in range(0, len(S), BLOCK):
        S[j + BLOCK :, j : j + BLOCK] = S[j : j + BLOCK, j + BLOCK :].T
    return S


class Dense:
    """The matrix itself, (d, d)."""

    name = "dense"

    def __init__(self, matrix: Tensor):
        self.matrix = self.like = matrix
        self.d = self.noise_size = len(matrix)

    @classmethod
    def build(cls, source: Source, group: Group, progress: bool = False, kept: Keeping = NOTHING) -> Dense:
        """Streamed covariance, updated pairwise so that no large numbers cancel (Chan, Golub and LeVeque)."""
        d, zeros = source.d, source.like.new_zeros
        state = kept.load("dense") or {"seen": 0, "mean": zeros(d), "scatter": zeros(d, d)}
        seen, mean, scatter = state["seen"], state["mean"], state["scatter"]
        buffer = source.like.new_empty(source.chunk + 1, d)
        for G in source.chunks(progress, buffer[:-1], seen):
            n, part_mean = len(G), G.mean(0)
            buffer[n] = (part_mean - mean) * math.sqrt(seen * n / (seen + n))
            G -= part_mean
            _add_half(scatter, buffer[: n + 1])
            mean += (part_mean - mean) * (n / (seen + n))
            seen += n
            now = {"seen": seen, "mean": mean, "scatter": scatter}
            kept.save("dense", lambda now=now: now)
        centre = group.sum(mean * (seen / group.total)) if group.size > 1 else mean
        _add_half(scatter, (mean - centre)[None] * math.sqrt(seen))
        return cls(_mirror(group.sum(scatter).div_(group.total)))

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        return (source.d**2 + source.chunk * source.d) * source.like.element_size()

    def matmul(self, V: Tensor) -> Tensor:
        if V.dtype == self.matrix.dtype:
            return self.matrix @ V
        return torch.cat([rows.to(V.dtype) @ V for rows in self.matrix.split(BLOCK)])

    def dense(self) -> Tensor:
        return self.matrix.clone()

    @cached_property
    def trace(self) -> float:
        return self.matrix.diagonal().double().sum().item()

    @cached_property
    def frobenius_norm(self) -> float:
        return _norm(self.matrix)

    def eigenvalues(self, dtype: torch.dtype | None = None) -> Tensor:
        return linalg.eigenvalues(self.matrix.to(dtype))

    @cached_property
    def _root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp_min(0).sqrt()

    def root_matmul(self, Z: Tensor) -> Tensor:
        return self._root @ Z


class Gram:
    """Gradients of all examples, those of linear layers as factors, and their (N, N) inner products: small where N < d.

    ``D = C^T C`` with the centred gradients ``C (N, d)`` divided by sqrt(N). Rows are centred, which is exact. Outer
    products cannot be: their mean is taken off the inner products instead, unless it is so large that digits would be
    lost; then the rows are formed after all.
    """

    name = "gram"
    LOSS = 100.0

    def __init__(self, parts: list[Part], N: int):
        self.N = self.noise_size = N
        self.like = parts[0].tensors()[0]
        self.d = sum(part.width for part in parts)
        self.parts = [Rows(p.rows - p.rows.mean(0)) if isinstance(p, Rows) else p for p in parts]

    @classmethod
    def build(cls, source: Source, group: Group, progress: bool = False, kept: Keeping = NOTHING) -> Gram:
        """All gradients are needed at once: they are not kept, and one pass makes them anew."""
        chunks = list(source.parts(progress))
        parts = [_join([chunk[k] for chunk in chunks], group) for k in range(len(chunks[0]))]
        return cls(parts, len(parts[0].tensors()[0]))

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        width = sum(t.shape[1] for part in next(iter(source.parts())) for t in part.tensors())
        return (2 * width + 2 * N) * N * source.like.element_size()

    @cached_property
    def gram(self) -> Tensor:
        """Inner products of the centred gradients, divided by N."""
        K = self._inner_products()
        of_mean = K.mean().item()
        K -= K.mean(0)
        K -= K.mean(1)[:, None]
        if of_mean > self.LOSS * K.diagonal().mean().item() and any(isinstance(p, Outer) for p in self.parts):
            rows = layers.rows(self.parts)
            self.parts = [Rows(rows - rows.mean(0))]
            K = self._inner_products()
        return K.div_(self.N)

    def _inner_products(self) -> Tensor:
        K = self.like.new_zeros(self.N, self.N)
        size = 2 * BLOCK
        for i in range(0, self.N, size):
            for j in range(i, self.N, size):
                block = K[i : i + size, j : j + size]
                for part in self.parts:
                    _take(part, i, size).add_gram(_take(part, j, size), block)
                if j > i:
                    K[j : j + size, i : i + size] = block.T
        return K

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, list[Part]]]:
        self.gram  # noqa: B018  after this the parts are those that lose no digits
        for i in range(0, self.N, BLOCK):
            yield i, [_take(part, i, BLOCK, dtype) for part in self.parts]

    def matmul(self, V: Tensor) -> Tensor:
        columns = V if V.ndim == 2 else V[:, None]
        U = torch.cat([_apply(parts, columns) for _, parts in self._blocks(V.dtype)])
        return self._transposed(U - U.mean(0)).div_(self.N).view(V.shape)

    def _transposed(self, U: Tensor) -> Tensor:
        out = U.new_zeros(self.d, U.shape[1])
        for i, parts in self._blocks(U.dtype):
            out += torch.cat([part.transposed_matmul(U[i : i + BLOCK]) for part in parts])
        return out

    def dense(self) -> Tensor:
        mean = self._transposed(self.like.new_full((self.N, 1), 1 / self.N))[:, 0]
        S = self.like.new_zeros(self.d, self.d)
        for _, parts in self._blocks(S.dtype):
            _add_half(S, layers.rows(parts) - mean)
        return _mirror(S.div_(self.N))

    @cached_property
    def trace(self) -> float:
        return self.gram.diagonal().double().sum().item()

    @cached_property
    def frobenius_norm(self) -> float:
        return _norm(self.gram)

    def eigenvalues(self, dtype: torch.dtype | None = None) -> Tensor:
        return linalg.eigenvalues(self.gram.to(dtype))

    def root_matmul(self, Z: Tensor) -> Tensor:
        return self._transposed(Z - Z.mean(0)).div_(math.sqrt(self.N))


def _take(part: Part, start: int, size: int, dtype: torch.dtype | None = None) -> Part:
    return type(part)(*(t[start : start + size].to(dtype or t.dtype) for t in part.tensors()))


def _join(parts: list[Part], group: Group) -> Part:
    return type(parts[0])(*(group.gather(torch.cat(ts)) for ts in zip(*(p.tensors() for p in parts), strict=True)))


def _apply(parts: list[Part], V: Tensor) -> Tensor:
    blocks = V.split([part.width for part in parts])
    return sum(part.matmul(block) for part, block in zip(parts, blocks, strict=True))


class Recomputed:
    """No matrix at all: the gradients are computed anew, chunk by chunk, for every product."""

    name = "lanczos"

    def __init__(self, source: Source, group: Group, progress: bool = False, kept: Keeping = NOTHING):
        self.source, self.group, self.progress, self.kept = source, group, progress, kept
        self.d, self.like = source.d, source.like
        self.N = self.noise_size = group.total
        self._buffer = source.like.new_empty(source.chunk, source.d)
        self.mean = self._once("mean", lambda: sum(G.sum(0) for G in source.chunks(progress, self._buffer)))
        self.trace = self._once("trace", lambda: sum(G.double().square().sum() for G in self._centred())).item()

    def _once(self, name: str, total: Callable[[], Tensor]) -> Tensor:
        """A total over all examples divided by N, computed unless it is kept."""
        state = self.kept.load(name)
        if state is None:
            state = {name: self.group.sum(total() / self.N)}
            self.kept.save(name, lambda: state, done=True)
        return state[name]

    @classmethod
    def build(cls, source: Source, group: Group, progress: bool = False, kept: Keeping = NOTHING) -> Recomputed:
        """Two passes: the mean, then the trace."""
        return cls(source, group, progress, kept)

    @staticmethod
    def bytes_needed(source: Source, N: int) -> float:
        return 4 * source.chunk * source.d * source.like.element_size()

    def _centred(self) -> Iterator[Tensor]:
        for G in self.source.chunks(self.progress, self._buffer):
            yield G.sub_(self.mean)

    def matmul(self, V: Tensor) -> Tensor:
        out = torch.zeros_like(V)
        for C in (rows.to(V.dtype) for rows in self._centred()):
            out += C.T @ (C @ V)
        return self.group.sum(out).div_(self.N)

    def dense(self) -> Tensor:
        return Dense.build(self.source, self.group, self.progress).matrix

    @cached_property
    def frobenius_norm(self) -> float:
        """Exact, from one pass for each block of columns; nothing larger than the block is stored."""
        width = max(1, min(self.d, 2 * BLOCK))
        state = self.kept.load("frobenius") or {"total": 0.0, "column": 0}
        total = state["total"]
        for j in range(state["column"], self.d, width):
            S = self.like.new_zeros(min(width, self.d - j), self.d - j)
            for C in self._centred():
                S.addmm_(C[:, j : j + width].T, C[:, j:])
            S = self.group.sum(S).div_(self.N)
            total += 2 * _norm(S) ** 2 - _norm(S[:, : len(S)]) ** 2
            now = {"total": total, "column": j + width}
            self.kept.save("frobenius", lambda now=now: now, done=True)
        return math.sqrt(total)

    def root_matmul(self, Z: Tensor) -> Tensor:
        out, i = Z.new_zeros(self.d, Z.shape[1]), self.group.first
        for C in self._centred():
            out += C.T @ Z[i : i + len(C)]
            i += len(C)
        return self.group.sum(out).div_(math.sqrt(self.N))


Backend = Dense | Gram | Recomputed
BACKENDS: dict[str, type[Backend]] = {"dense": Dense, "gram": Gram, "lanczos": Recomputed}

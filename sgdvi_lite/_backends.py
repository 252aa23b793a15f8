"""How a diffusion matrix is stored: products, trace, Frobenius norm, eigenvalues and a square root for each way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite import linalg


@dataclass(frozen=True)
class Dense:
    """The matrix itself, (d, d)."""

    matrix: Tensor
    name = "dense"

    @classmethod
    def from_chunks(cls, parts: Iterable[Tensor], N: int) -> Dense:
        """Streamed covariance, updated pairwise so that no large numbers cancel (Chan, Golub and LeVeque)."""
        seen, mean, scatter = 0, None, None
        for G in parts:
            n, part_mean = len(G), G.mean(0)
            centred = G - part_mean
            if scatter is None:
                mean, scatter = part_mean, centred.T @ centred
            else:
                shift = part_mean - mean
                scatter.addmm_(centred.T, centred).addr_(shift, shift, alpha=seen * n / (seen + n))
                mean = mean + shift * (n / (seen + n))
            seen += n
        return cls(scatter.div_(N))

    @property
    def like(self) -> Tensor:
        return self.matrix

    def matmul(self, V: Tensor) -> Tensor:
        return self.matrix @ V

    def dense(self) -> Tensor:
        return self.matrix.clone()

    def trace(self) -> float:
        return self.matrix.trace().item()

    def frobenius_norm(self) -> float:
        return torch.linalg.matrix_norm(self.matrix).item()

    def eigenvalues(self) -> Tensor:
        return linalg.eigenvalues(self.matrix)

    def square_root(self) -> Tensor:
        values, vectors = torch.linalg.eigh(self.matrix)
        return vectors * values.clamp_min(0).sqrt()


@dataclass(frozen=True)
class Gram:
    """Centred gradients divided by sqrt(N), C (N, d) with D = C^T C: small where N < d."""

    C: Tensor
    name = "gram"

    @classmethod
    def from_chunks(cls, parts: Iterable[Tensor], N: int) -> Gram:
        G = torch.cat(list(parts))
        return cls((G - G.mean(0)) / N**0.5)

    @property
    def like(self) -> Tensor:
        return self.C

    @cached_property
    def gram(self) -> Tensor:
        return self.C @ self.C.T

    def matmul(self, V: Tensor) -> Tensor:
        return self.C.T @ (self.C @ V)

    def dense(self) -> Tensor:
        return self.C.T @ self.C

    def trace(self) -> float:
        return self.C.square().sum().item()

    def frobenius_norm(self) -> float:
        return torch.linalg.matrix_norm(self.gram).item()

    def eigenvalues(self) -> Tensor:
        return linalg.eigenvalues(self.gram)

    def square_root(self) -> Tensor:
        return self.C.T


def choose(backend: str, N: int, d: int) -> type[Dense] | type[Gram]:
    """The class of that name; ``auto`` takes the smaller matrix, (N, N) or (d, d)."""
    if backend == "auto":
        return Gram if N < d else Dense
    return {"dense": Dense, "gram": Gram}[backend]

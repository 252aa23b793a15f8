"""A block Krylov space of a large symmetric matrix, orthogonalised in full, and what it tells of the eigenvalues."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Most projections in a row of one block: each leaves less of the basis in it, or the block has nothing to add.
PASSES = 8
Matmul = Callable[[Tensor], Tensor]


class Ritz(NamedTuple):
    """What a Krylov space tells of a matrix's eigenvalues."""

    values: Tensor  # Ritz values (k,), largest first
    residuals: Tensor  # the matrix times the vectors, less the values times the vectors (d, k)
    vectors: Tensor  # orthonormal Ritz vectors (d, k)


class Krylov:
    """Rayleigh-Ritz in a block Krylov space, orthogonalised in full.

    Parameters
    ----------
    matmul
        Multiplies the symmetric matrix with a block ``(d, m)``.
    start
        First block ``(d, m)``.
    limit
        Most basis vectors; memory for two arrays ``(d, limit)`` is taken at once.
    beside
        Orthonormal columns ``(d, k)`` to which the space is kept orthogonal; none by default.

    Attributes
    ----------
    size : int
        Number of basis vectors.
    Q, W : Tensor
        Orthonormal basis, and the matrix times the basis (d, size).
    next : Tensor
        The block that :meth:`extend` orthogonalises and adds: the matrix times the last one, or a fresh start.
    """

    def __init__(self, matmul: Matmul, start: Tensor, limit: int, beside: Tensor | None = None):
        self.matmul, self.limit, self.next = matmul, limit, start
        self.beside = start.new_empty(start.shape[0], 0) if beside is None else beside
        self._Q, self._W = (start.new_empty(start.shape[0], limit) for _ in range(2))
        self._resize(0)

    def _resize(self, size: int) -> None:
        self.size = size
        self.Q, self.W = self._Q[:, :size], self._W[:, :size]

    def extend(self) -> bool:
        """Add one block; False if no room is left."""
        m = min(self.next.shape[1], self.limit - self.size)
        if m == 0:
            return False
        block = self._orthonormal(self.next[:, :m])
        self.next = self.matmul(block)
        self._resize(self.size + m)
        self.Q[:, -m:], self.W[:, -m:] = block, self.next
        return True

    def _orthonormal(self, block: Tensor) -> Tensor:
        """Orthonormal columns, orthogonal to the basis, from a block that may be of any rank.

        A projection is exact up to rounding if it takes little away; so it is repeated until it does. Where a block has
        nothing to add to the basis, random numbers take its place.
        """
        for _ in range(2):
            block = torch.linalg.qr(block)[0]
            for _ in range(PASSES):
                overlaps = [(side, side.T @ block) for side in (self.Q, self.beside)]
                block = torch.linalg.qr(block - sum(side @ c for side, c in overlaps))[0]
                if sum(c.square().sum().item() for _, c in overlaps) <= 0.25:
                    return block
            generator = torch.Generator().manual_seed(self.size)
            block = torch.randn(block.shape, generator=generator, dtype=block.dtype).to(block.device)
        raise ArithmeticError(f"the {self.size} basis vectors of the Krylov space cannot be kept orthogonal")

    def state(self) -> dict[str, Tensor]:
        """What :meth:`restore` needs to go on in the same way, in the memory of the CPU."""
        return {name: getattr(self, name).to("cpu", copy=True) for name in ("Q", "W", "next")}

    def restore(self, state: dict[str, Tensor] | None) -> bool:
        """Go on from a :meth:`state`; False if there is none, or no room for it."""
        if state is None or state["Q"].shape[1] > self.limit:
            return False
        self._resize(state["Q"].shape[1])
        self.Q[:], self.W[:], self.next = state["Q"], state["W"], state["next"].to(self._Q.device)
        return True

    def projected(self) -> Tensor:
        """The matrix in the basis (size, size), made symmetric."""
        H = self.Q.T @ self.W
        return (H + H.T) / 2

    def decomposed(self) -> tuple[Tensor, Tensor]:
        """Ritz values (size,), largest first, and the Ritz vectors (size, size) in the basis."""
        values, Y = torch.linalg.eigh(self.projected())
        return values.flip(0), Y.flip(1)

    def estimated_residuals(self, Y: Tensor) -> Tensor:
        """Norms of the residuals of ``Y (size, k)``, cheaply: from the last block, if all others came one from another.

        All that the matrix makes of the basis and that lies outside is then what it makes of the last block.
        """
        outside = self.next - self.Q @ (self.Q.T @ self.next)
        return torch.linalg.vector_norm(outside @ Y[-self.next.shape[1] :], dim=0)

    def ritz(self, values: Tensor, Y: Tensor) -> Ritz:
        """Ritz vectors and how far they are from eigenvectors, from what :meth:`decomposed` gave or some of it."""
        vectors = self.Q @ Y
        return Ritz(values, self.W @ Y - vectors * values, vectors)

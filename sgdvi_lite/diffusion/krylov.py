"""A block Krylov space of a large symmetric matrix, orthogonalised in full, and what it tells of the eigenvalues."""

from collections.abc import Callable

import torch
from torch import Tensor

# Most projections in a row of one block: each leaves less of the basis in it, or the block has nothing to add.
PASSES = 8
Matmul = Callable[[Tensor], Tensor]


class Krylov:
    """Rayleigh-Ritz in a block Krylov space, orthogonalised in full.

    Parameters
    ----------
    matmul
        Multiplies the symmetric matrix with a block ``(d, m)``.
    start
        First block ``(d, m)``.
    limit
        Most basis vectors; memory for two arrays ``(d, limit)`` and one ``(limit, limit)`` is taken at once.
    beside
        Orthonormal columns ``(d, k)`` to which the space is kept orthogonal; none by default.

    Attributes
    ----------
    size : int
        Number of basis vectors.
    Q, W, H : Tensor
        Orthonormal basis, the matrix times the basis (d, size), and the matrix in the basis (size, size).
    next : Tensor
        The block that :meth:`extend` orthogonalises and adds: the matrix times the last one, of ``last`` vectors, and
        others that go along; or a fresh start.
    """

    def __init__(self, matmul: Matmul, start: Tensor, limit: int, beside: Tensor | None = None):
        self.matmul, self.limit, self.next, self.last = matmul, limit, start, 0
        self.beside = start.new_empty(start.shape[0], 0) if beside is None else beside
        self._Q, self._W = (start.new_empty(limit, start.shape[0]).T for _ in range(2))  # columns in one piece
        self._H = start.new_zeros(limit, limit)
        self._resize(0)

    def _resize(self, size: int) -> None:
        self.size = size
        self.Q, self.W, self.H = self._Q[:, :size], self._W[:, :size], self._H[:size, :size]

    def widen(self, block: Tensor) -> None:
        """Let further vectors ``(d, m)`` go along with the next block."""
        self.next = torch.cat([self.next, block], dim=1)

    @property
    def room(self) -> int:
        """Columns of the next block: all, or as many as there can be; 0 if these do not fit the limit."""
        m = min(self.next.shape[1], self._Q.shape[0] - self.beside.shape[1] - self.size)
        return m if self.size + m <= self.limit else 0

    def extend(self) -> bool:
        """Add one block; False if there is no room."""
        m = self.room
        if m == 0:
            return False
        block = self._orthonormal(self.next[:, :m])
        self.next, self.last = self.matmul(block), m
        self._resize(self.size + m)
        self.Q[:, -m:], self.W[:, -m:] = block, self.next
        inside = self.Q.T @ self.next
        self.H[:, -m:], self.H[-m:] = inside, inside.T
        return True

    def _orthonormal(self, block: Tensor) -> Tensor:
        """Orthonormal columns, orthogonal to the basis, from a block that may be of any rank.

        A projection is exact up to rounding if it takes little away; so it is repeated until it does. Nearly all is
        taken away beforehand, along the last two blocks, which is cheap. Where a vector has nothing to add to the
        basis, random numbers as small as rounding errors do.
        """
        last = self.Q[:, -2 * block.shape[1] :]
        block = rest = block - last @ (last.T @ block)
        for _ in range(2):
            block = torch.linalg.qr(block)[0]
            for _ in range(PASSES):
                overlaps = [(side, side.T @ block) for side in (self.Q, self.beside)]
                block = torch.linalg.qr(block - sum(side @ c for side, c in overlaps))[0]
                if sum(c.square().sum().item() for _, c in overlaps) <= 0.25:
                    return block
            generator = torch.Generator().manual_seed(self.size)
            noise = torch.randn(block.shape, generator=generator, dtype=block.dtype).to(block.device)
            block = rest + noise * (torch.finfo(block.dtype).eps * rest.abs().max().item() or 1.0)
        raise ArithmeticError(f"the {self.size} basis vectors of the Krylov space cannot be kept orthogonal")

    def state(self) -> dict[str, Tensor | int]:
        """What :meth:`restore` needs to go on in the same way, in the memory of the CPU."""
        tensors = {name: getattr(self, name).to("cpu", copy=True) for name in ("Q", "W", "H", "next")}
        return tensors | {"last": self.last}

    def restore(self, state: dict[str, Tensor | int] | None) -> bool:
        """Go on from a :meth:`state`; False if there is none, or no room for it."""
        if state is None or "last" not in state or len(state["H"]) > self.limit:  # at first there was neither
            return False
        self._resize(len(state["H"]))
        self.Q[:], self.W[:], self.H[:] = (state[name] for name in ("Q", "W", "H"))
        self.next, self.last = state["next"].to(self._Q.device), state["last"]
        return True

    def decomposed(self) -> tuple[Tensor, Tensor]:
        """Ritz values (size,), largest first, and the Ritz vectors (size, size) in the basis."""
        values, Y = torch.linalg.eigh(self.H)
        return values.flip(0), Y.flip(1)

    def coupling(self, Y: Tensor) -> Tensor:
        """What the matrix makes of the Ritz vectors ``Y (size, k)`` outside the space, in a basis (m, k) of that.

        All that it makes of the space and that lies outside is what it makes of the last block, since all others came
        one from another. The norm of each column is that of a residual.
        """
        made = self.next[:, : self.last]
        return torch.linalg.qr(made - self.Q @ (self.Q.T @ made))[1] @ Y[-self.last :]

    def residuals(self, values: Tensor, Y: Tensor) -> Tensor:
        """Norms of the residuals of Ritz vectors ``Y (size, k)``, from the products with all of the basis."""
        return torch.linalg.vector_norm(self.W @ Y - (self.Q @ Y) * values, dim=0)

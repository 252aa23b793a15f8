"""Leading eigenvalues of a large positive semi-definite matrix from products with blocks, with certificates.

A block Krylov space grows until the Ritz values above the threshold have settled and a certificate says that no
eigenvalue is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import NOTHING, Checkpoints
from sgdvi_lite.diffusion.certificates import Certificate, failure_probability, left_over, most_above, rounding

# Ritz vectors down to this fraction of the threshold are set aside, so that the rest lies clearly below it.
MARGIN = 0.7
CEILING = (1 + MARGIN) / 2  # the random run has to show that the rest lies below this fraction of the threshold
# Residual, in units of the threshold, at which a Ritz vector counts as settled: its value is then off by far less.
TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-6}
PROBES = 32  # random vectors of the second run: one alone would take many more steps
STEPS = 40  # most steps of the second run; each of them may be the last
FAILURE = 1e-9  # highest probability of failure of a certificate
# Most projections in a row of one block: each leaves less of the basis in it, or the block has nothing to add.
PASSES = 8
GROWTH = 1.2  # by which the Krylov space grows between two attempts: one costs as much as many products
Matmul = Callable[[Tensor], Tensor]
Threshold = Callable[[Tensor], float | None]


class RoundingError(ArithmeticError):
    """A Ritz value is nearer to the threshold than the dtype can tell."""


class LimitError(RuntimeError):
    """The Krylov space has reached its limit before the count was certain; the message says how far it got."""


class Ritz(NamedTuple):
    """What a Krylov space tells of a matrix's eigenvalues."""

    values: Tensor  # Ritz values (size,), largest first
    residuals: Tensor  # the matrix times the vectors, less the values times the vectors (d, size)
    vectors: Tensor  # orthonormal Ritz vectors (d, size)


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
        """What :meth:`restore` needs to go on in the same way."""
        return {"Q": self.Q.clone(), "W": self.W.clone(), "next": self.next}

    def restore(self, state: dict[str, Tensor] | None) -> bool:
        """Go on from a :meth:`state`; False if there is none, or no room for it."""
        if state is None or state["Q"].shape[1] > self.limit:
            return False
        self._resize(state["Q"].shape[1])
        self.Q[:], self.W[:], self.next = state["Q"], state["W"], state["next"]
        return True

    def projected(self) -> Tensor:
        """The matrix in the basis (size, size), made symmetric."""
        H = self.Q.T @ self.W
        return (H + H.T) / 2

    def ritz(self) -> Ritz:
        """Ritz values and vectors, and how far these are from eigenvectors."""
        values, Y = (part.flip(-1) for part in torch.linalg.eigh(self.projected()))
        vectors = self.Q @ Y
        return Ritz(values, self.W @ Y - vectors * values, vectors)


@dataclass(frozen=True)
class Problem:
    """Which eigenvalues of which matrix: those above a threshold, of a positive semi-definite matrix.

    Attributes
    ----------
    matmul
        Multiplies the matrix with ``(d, m)``, in the dtype of these.
    d
        Size of the matrix.
    like
        A tensor of the dtype and device wanted.
    threshold
        Gives the threshold from the Ritz values, largest first, or ``None`` while there are too few of them.
    trace, frobenius
        Exact trace and, if known, Frobenius norm of the matrix.
    """

    matmul: Matmul
    d: int
    like: Tensor
    threshold: Threshold
    trace: float
    frobenius: float | None = None


@dataclass
class Search:
    """The eigenvalues of a problem, with a certificate that none is missing, from a block Krylov space that grows.

    Parameters
    ----------
    problem
        If vectors of its dtype float32 cannot tell on which side of the threshold an eigenvalue lies, the search is
        done again in float64.
    limit
        Most vectors in the Krylov space.
    generator
        CPU generator of the starting vectors.
    block
        Vectors that are multiplied at once; by default as many as leave 16 steps, at most 64.
    progress
        Whether to show a progress bar.
    states, name
        Where the Krylov space is kept, and under which name; a search goes on from what it finds there.
    """

    problem: Problem
    limit: int
    generator: torch.Generator
    block: int | None = None
    progress: bool = False
    states: Checkpoints = NOTHING
    name: str = "krylov"

    def __post_init__(self):
        self.limit = min(self.limit, self.problem.d)
        self.block = self.block or max(min(8, self.limit), min(64, self.limit // 16))
        self.file = f"{self.name}-{str(self.problem.like.dtype)[6:]}"

    def run(self) -> Certificate:
        """Search.

        Raises
        ------
        LimitError
            If ``limit`` vectors do not suffice.
        """
        like = self.problem.like
        if self.problem.trace <= 0:
            return Certificate(like.new_zeros(0), like.new_zeros(0), 0.0, "deterministic", 0.0, 0)
        try:
            return self._grow()
        except RoundingError:
            return replace(self, problem=replace(self.problem, like=like.double()))._grow()

    def _grow(self) -> Certificate:
        self.krylov = Krylov(self.problem.matmul, self._draw(self.block), self.limit)
        self.products, self.check_at = 0, self.block
        self._resume()
        with tqdm(desc="Lanczos", unit="vector", total=self.limit, disable=not self.progress, leave=False) as bar:
            while True:
                bar.update(self.krylov.size - bar.n)
                self.states.save(self.file, self._state)
                if self.krylov.size >= min(self.check_at, self.limit):
                    self.check_at = int(GROWTH * self.krylov.size) + 1
                    certificate = self.attempt()
                    if certificate is not None:
                        return certificate
                if not self.krylov.extend():
                    raise LimitError(self._how_far())

    def _draw(self, m: int) -> Tensor:
        like = self.problem.like
        return torch.randn(self.problem.d, m, generator=self.generator, dtype=like.dtype).to(like.device)

    def _state(self) -> dict[str, object]:
        counts = {"products": self.products, "check_at": self.check_at}
        return self.krylov.state() | counts | {"generator": self.generator.get_state()}

    def _resume(self) -> None:
        state = self.states.load(self.file)
        if self.krylov.restore(state):
            self.products, self.check_at = state["products"], state["check_at"]
            self.generator.set_state(state["generator"].cpu())
            if self.krylov.next.shape[1] < self.block:  # cut to what was the limit then
                self.krylov.next = self._draw(self.block)

    def attempt(self) -> Certificate | None:
        """The eigenvalues above the threshold if the Krylov space suffices to certify them."""
        ritz = self.krylov.ritz()
        t = self.problem.threshold(ritz.values)
        if t is None:
            return None
        norms = torch.linalg.vector_norm(ritz.residuals, dim=0)
        complete = self.krylov.size == self.problem.d
        dtype = ritz.values.dtype
        least = 100 * torch.finfo(dtype).eps * ritz.values[0].item()  # rounding errors, if the threshold is very low
        settled = (norms <= max(TOLERANCE[dtype] * t, least)) | complete
        wanted = ritz.values > MARGIN * t
        if not complete and (not settled[wanted].all() or wanted.all() or not wanted.any()):
            return None
        kind, p, products = self.certify(Ritz(*(part[..., settled] for part in ritz)), t)
        self.products += products
        if p <= FAILURE:
            above = ritz.values > t
            return Certificate(ritz.values[above], norms[above], t, kind, p, self.krylov.size + self.products)
        if products:  # an eigenvalue was missed: start afresh beside what is known
            self.krylov.next = self._draw(self.block)
        return None

    def certify(self, ritz: Ritz, t: float) -> tuple[str, float, int]:
        """Kind of certificate, failure probability, products: are the eigenvalues above ``t`` those of ``ritz``?"""
        values, residuals, V = ritz
        n, count = V.shape[0] - V.shape[1], int((values > t).sum())
        window = rounding(values) if values.dtype == torch.float32 else 0.0
        low = t - window
        if window and (((values - t).abs() <= window).any() or CEILING * t >= low):
            raise RoundingError(f"a Ritz value is nearer to the threshold {t:.6g} than rounding errors, {window:.1g}")

        def settled(ceiling: float) -> bool:
            return ceiling < low and most_above(values, residuals, low, ceiling) == count

        if n == 0:
            return "full", 0.0, 0
        norm = self.problem.frobenius
        if norm is not None and settled(left_over(values, self.problem.trace, norm, n)):
            return "deterministic", 0.0, 0
        if not settled(CEILING * t):
            return "undecided", 1.0, 0
        return "probabilistic", *self.probe(V, CEILING * t)

    def probe(self, V: Tensor, ceiling: float) -> tuple[float, int]:
        """Bound on the probability that the part orthogonal to ``V`` exceeds ``ceiling`` (1 if it does), products."""
        n = V.shape[0] - V.shape[1]
        probes = min(PROBES, n)
        krylov = Krylov(self.problem.matmul, self._draw(probes), min(n, probes * STEPS), beside=V)
        file, mark = f"{self.file}-probe", digest(V)
        state = self.states.load(file)
        if state and state["of"] == mark:
            krylov.restore(state)
        del state  # as large as the space
        p, more = 1.0, krylov.size > 0 or krylov.extend()
        while more:
            self.states.save(file, lambda: krylov.state() | {"of": mark})
            ratio = torch.linalg.eigvalsh(krylov.projected())[-1].item() / ceiling
            if not 0 <= ratio < 1:
                return 1.0, krylov.size
            one = failure_probability(ratio, n, krylov.size // probes, probes)
            p = 0.0 if krylov.size == n else min(1.0, STEPS * one)  # whichever of the steps is the last
            more = p > FAILURE and krylov.extend()
        return p, krylov.size

    def _how_far(self) -> str:
        values, residuals, _ = self.krylov.ritz()
        t = self.problem.threshold(values) or 0.0
        above = f"{int((values > t).sum())} Ritz values above the threshold {t:.3g}" if t else "no threshold yet"
        settled = int((torch.linalg.vector_norm(residuals, dim=0) < TOLERANCE[values.dtype] * t).sum())
        return (
            f"the Krylov space has {self.krylov.size} vectors, its limit is {self.limit}: {settled} eigenvalues have "
            f"settled, {above}, smallest Ritz value {values[-1].item():.3g}; the count is not certain. Allow more "
            "memory, ask for fewer eigenvalues or a larger eps, or use the back-end 'dense'"
        )

"""Leading eigenvalues of a large positive semi-definite matrix from products with blocks, with certificates.

A block Krylov space grows until the Ritz values above the threshold have settled and a certificate says that no
eigenvalue is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite._storage.files import digest
from sgdvi_lite.diffusion.certificates import Certificate, failure_probability, left_over, most_above, rounding
from sgdvi_lite.diffusion.keeping import NOTHING, Keeping

MARGIN = 0.7
"""Ritz vectors down to this fraction of the threshold are set aside, so that the rest lies clearly below it."""
CEILING = (1 + MARGIN) / 2
"""The random run has to show that the rest lies below this fraction of the threshold."""
TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-6}
"""Residual, in units of the threshold, at which a Ritz vector counts as found: its value is then off by far less."""
PROBES, STEPS, FAILURE, PASSES = 32, 40, 1e-9, 8
Matmul = Callable[[Tensor], Tensor]


class RoundingError(ArithmeticError):
    """A Ritz value is nearer to the threshold than the dtype can tell."""


class LimitError(RuntimeError):
    """The Krylov space has reached its limit before the count was certain; the message says how far it got."""


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
    next : Tensor
        The block that :meth:`extend` orthogonalises and adds: the matrix times the last one, or a fresh start.
    """

    def __init__(self, matmul: Matmul, start: Tensor, limit: int, beside: Tensor | None = None):
        self.matmul, self.limit, self.size = matmul, limit, 0
        self.beside = start.new_empty(start.shape[0], 0) if beside is None else beside
        self._Q, self._W = (start.new_empty(start.shape[0], limit) for _ in range(2))
        self.next = start

    @property
    def Q(self) -> Tensor:
        """Orthonormal basis (d, size)."""
        return self._Q[:, : self.size]

    @property
    def W(self) -> Tensor:
        """The matrix times the basis (d, size)."""
        return self._W[:, : self.size]

    def extend(self) -> bool:
        """Add one block; False if no room is left."""
        m = min(self.next.shape[1], self.limit - self.size)
        if m == 0:
            return False
        block = self._orthonormal(self.next[:, :m])
        new = slice(self.size, self.size + m)
        self.next = self.matmul(block)
        self._Q[:, new], self._W[:, new] = block, self.next
        self.size += m
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

    def restore(self, state: dict[str, Tensor]) -> bool:
        """Go on from a :meth:`state`; False if there is no room for it."""
        if state["Q"].shape[1] > self.limit:
            return False
        self.size = state["Q"].shape[1]
        self._Q[:, : self.size], self._W[:, : self.size] = state["Q"], state["W"]
        self.next = state["next"]
        return True

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values, largest first, their residuals (d, size) and their vectors (d, size)."""
        H = self.Q.T @ self.W
        values, Y = torch.linalg.eigh((H + H.T) / 2)
        values, Y = values.flip(0), Y.flip(1)
        vectors = self.Q @ Y
        return values, self.W @ Y - vectors * values, vectors


def leading(
    matmul: Matmul,
    like: Tensor,
    d: int,
    threshold: Callable[[Tensor], float | None],
    *,
    trace: float,
    frobenius: float | None,
    limit: int,
    generator: torch.Generator,
    block: int | None = None,
    progress: bool = False,
    kept: Keeping = NOTHING,
    name: str = "krylov",
) -> Certificate:
    """Eigenvalues of a positive semi-definite matrix above a threshold, with a certificate that none is missing.

    Parameters
    ----------
    matmul
        Multiplies the matrix with ``(d, m)``, in the dtype of these.
    like
        A tensor of the dtype and device wanted. If float32 vectors cannot tell on which side of the threshold an
        eigenvalue lies, the search is done again in float64.
    threshold
        Gives the threshold from the Ritz values, largest first, or ``None`` while there are too few of them.
    trace, frobenius
        Exact trace and, if known, Frobenius norm of the matrix.
    limit
        Most vectors in the Krylov space.
    generator
        CPU generator of the starting vectors.
    block
        Vectors that are multiplied at once; by default as many as leave 16 steps, at most 64.
    kept, name
        Where the Krylov space is kept, and under which name; a search goes on from what it finds there.

    Raises
    ------
    LimitError
        If ``limit`` vectors do not suffice.
    """
    if trace <= 0:
        return Certificate(like.new_zeros(0), like.new_zeros(0), 0.0, "deterministic", 0.0, 0)
    limit = min(limit, d)
    block = block or max(min(8, limit), min(64, limit // 16))
    arguments = (d, threshold, trace, frobenius, limit, generator, block, progress, kept, name)
    try:
        return _search(matmul, like, *arguments)
    except RoundingError:
        return _search(matmul, like.double(), *arguments)


def _search(matmul, like, d, threshold, trace, frobenius, limit, generator, block, progress, kept, name) -> Certificate:
    draw = lambda m: torch.randn(d, m, generator=generator, dtype=like.dtype).to(like.device)  # noqa: E731
    krylov, products, check_at = Krylov(matmul, draw(block), limit), 0, block
    name = f"{name}-{str(like.dtype)[6:]}"
    before = kept.load(name)
    if before and krylov.restore(before):
        products, check_at = before["products"], before["check_at"]
        generator.set_state(before["generator"].cpu())
        if krylov.next.shape[1] < block:  # cut to what was the limit then
            krylov.next = draw(block)
    del before
    with tqdm(desc="Lanczos", unit="vector", total=limit, disable=not progress, leave=False) as bar:
        more = True
        while more:
            bar.update(krylov.size - bar.n)
            now = {"products": products, "check_at": check_at, "generator": generator.get_state()}
            kept.save(name, lambda now=now: krylov.state() | now)
            if krylov.size >= min(check_at, limit):
                check_at = int(1.2 * krylov.size) + 1
                found, used = _attempt(krylov, draw, block, threshold, trace, frobenius, kept, name)
                products += used
                if found:
                    return replace(found, products=krylov.size + products)
            more = krylov.extend()
    raise LimitError(_how_far(krylov, threshold, TOLERANCE[like.dtype]))


def _attempt(krylov, draw, block, threshold, trace, frobenius, kept, name) -> tuple[Certificate | None, int]:
    """The eigenvalues above the threshold if the Krylov space suffices to certify them, and the products used."""
    values, residuals, vectors = krylov.ritz()
    t = threshold(values)
    if t is None:
        return None, 0
    norms, complete = torch.linalg.vector_norm(residuals, dim=0), krylov.size == len(vectors)
    least = 100 * torch.finfo(values.dtype).eps * values[0].item()  # rounding errors, if the threshold is very low
    found = (norms <= max(TOLERANCE[values.dtype] * t, least)) | complete
    wanted = values > MARGIN * t
    if not complete and (not found[wanted].all() or wanted.all() or not wanted.any()):
        return None, 0
    parts = values[found], residuals[:, found], vectors[:, found]
    kind, p, used = _certify(krylov.matmul, draw, *parts, t, trace, frobenius, kept, name)
    if p <= FAILURE:
        above = values > t
        return Certificate(values[above], norms[above], t, kind, p, used), used
    if used:  # an eigenvalue was missed: start afresh beside what is found
        krylov.next = draw(block)
    return None, used


def _certify(matmul, draw, values, residuals, V, t, trace, frobenius, kept, name) -> tuple[str, float, int]:
    """Kind of certificate, failure probability, products used: are the eigenvalues above ``t`` those of ``V``?"""
    n, count = V.shape[0] - V.shape[1], int((values > t).sum())
    window = rounding(values) if values.dtype == torch.float32 else 0.0
    low = t - window
    if window and (((values - t).abs() <= window).any() or CEILING * t >= low):
        raise RoundingError(f"a Ritz value is nearer to the threshold {t:.6g} than rounding errors, {window:.1g}")
    if n == 0:
        return "full", 0.0, 0
    settled = lambda ceiling: ceiling < low and most_above(values, residuals, low, ceiling) == count  # noqa: E731
    if frobenius is not None and settled(left_over(values, trace, frobenius, n)):
        return "deterministic", 0.0, 0
    if not settled(CEILING * t):
        return "undecided", 1.0, 0
    return "probabilistic", *_probe(matmul, draw, V, CEILING * t, kept, f"{name}-probe")


def _probe(matmul, draw, V: Tensor, ceiling: float, kept: Keeping, name: str) -> tuple[float, int]:
    """Bound on the probability that the part orthogonal to ``V`` exceeds ``ceiling`` (1 if it does), products used."""
    n = V.shape[0] - V.shape[1]
    probes = min(PROBES, n)
    run = Krylov(matmul, draw(probes), min(n, probes * STEPS), beside=V)
    before, of = kept.load(name), digest(V)
    if before and before["of"] == of:
        run.restore(before)
    del before
    p, more = 1.0, run.size > 0 or run.extend()
    while more:
        kept.save(name, lambda: run.state() | {"of": of})
        H = run.Q.T @ run.W
        ratio = torch.linalg.eigvalsh((H + H.T) / 2)[-1].item() / ceiling
        if not 0 <= ratio < 1:
            return 1.0, run.size
        one = failure_probability(ratio, n, run.size // probes, probes)
        p = 0.0 if run.size == n else min(1.0, STEPS * one)  # whichever of the steps is the last
        more = p > FAILURE and run.extend()
    return p, run.size


def _how_far(krylov: Krylov, threshold, tolerance: float) -> str:
    values, residuals, _ = krylov.ritz()
    t = threshold(values)
    settled = int((torch.linalg.vector_norm(residuals, dim=0) <= tolerance * t).sum()) if t else 0
    above = f"{int((values > t).sum())} Ritz values above the threshold {t:.3g}" if t else "no threshold yet"
    return (
        f"the Krylov space has {krylov.size} vectors, its limit is {krylov.limit}: {settled} eigenvalues have settled, "
        f"{above}, smallest Ritz value {values[-1].item():.3g}; the count is not certain. Allow more memory, ask for "
        "fewer eigenvalues or a larger eps, or use the back-end 'dense'"
    )

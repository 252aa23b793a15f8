"""Leading eigenvalues of a large positive semi-definite matrix from products with blocks, with certificates.

A block Krylov space grows until the Ritz values above the threshold have settled and a certificate says that no
eigenvalue is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import NOTHING, Checkpoints
from sgdvi_lite.diffusion.certificates import (
    Certificate,
    ceiling,
    failure_probability,
    left_over,
    of_any_attempt,
    rounding,
)
from sgdvi_lite.diffusion.krylov import Krylov, Matmul

# Where the rest has to be allowed to end before it is shown to end there, in units of the threshold: the higher, the
# easier for the random run that has to show it, and the larger the space.
CEILING = 0.85
# Residual, in units of the threshold, at which a Ritz vector counts as settled: its value is then off by far less.
TOLERANCE = {torch.float32: 2e-2, torch.float64: 1e-6}
PROBES = 4  # least random vectors of the random run: one alone would take many more steps
STEPS = 40  # most steps of the random run; each of them may be the last
FAILURE = 1e-9  # highest probability of failure of a certificate
# By how much the Krylov space grows from one attempt to the next: at most the first, where most Ritz values have yet to
# settle, and at least the second, as one attempt costs as much as many products.
GROWTH = 0.2
FINE = 0.02
Threshold = Callable[[Tensor], float | None]


class RoundingError(ArithmeticError):
    """A Ritz value is nearer to the threshold than the dtype can tell."""


class LimitError(RuntimeError):
    """The Krylov space has reached its limit before the count was certain; the message says how far it got."""


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


@dataclass(frozen=True)
class Search:
    """The eigenvalues of a problem, with a certificate that none is missing, from a block Krylov space that grows.

    Parameters
    ----------
    problem
        If vectors of its dtype float32 cannot tell on which side of the threshold an eigenvalue lies, the search is
        done again in float64.
    limit
        Most vectors in the Krylov space; the size of the matrix is enough.
    generator
        CPU generator of the starting vectors.
    block
        Vectors that are multiplied at once, but for those of a certificate: the fewer, the fewer products are needed,
        and the more steps. Fewer are taken where the limit does not leave 16 steps.
    progress
        Whether to show a progress bar.
    states, name
        Where the Krylov space is kept, and under which name; a search goes on from what it finds there.
    """

    problem: Problem
    limit: int
    generator: torch.Generator
    block: int = 16
    progress: bool = False
    states: Checkpoints = NOTHING
    name: str = "krylov"

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
        run = Run(self)
        try:
            return run.grow()
        except RoundingError:
            search, spent = replace(self, problem=replace(self.problem, like=like.double())), run.spent
        del run  # its space makes room for the next one
        return Run(search, spent).grow()

    def draw(self, columns: int) -> Tensor:
        """Random vectors (d, columns)."""
        like = self.problem.like
        return torch.randn(self.problem.d, columns, generator=self.generator, dtype=like.dtype).to(like.device)


class Run:
    """A search under way.

    Attributes
    ----------
    krylov : Krylov
        The space, which grows.
    check_at : int
        Its size at the next attempt.
    before : int
        Products that went neither into the space nor into what it began with: those of random runs, and of a search in
        another dtype.
    attempts : int
        Random runs so far; each may have been wrong.
    """

    def __init__(self, search: Search, spent: tuple[int, int] = (0, 0)):
        self.search, self.problem = search, search.problem
        self.limit = min(search.limit, self.problem.d)
        self.file = f"{search.name}-{str(self.problem.like.dtype)[6:]}"
        width = max(min(8, self.limit), min(search.block, self.limit // 16))
        self.krylov = Krylov(self.problem.matmul, search.draw(width), self.limit)
        self.before, self.attempts = spent
        self.check_at = width

    @property
    def spent(self) -> tuple[int, int]:
        """Products and random runs so far."""
        return self.before + self.krylov.size, self.attempts

    def grow(self) -> Certificate:
        """Let the space grow until an attempt gives a certificate."""
        self._resume()
        search, krylov = self.search, self.krylov
        with tqdm(desc="Lanczos", unit="vector", total=self.limit, disable=not search.progress, leave=False) as bar:
            while True:
                bar.update(krylov.size - bar.n)
                search.states.save(self.file, self._state)
                if krylov.size >= self.check_at or not krylov.room:
                    certificate = self.attempt()
                    if certificate is not None:
                        return certificate
                if not krylov.extend():
                    raise LimitError(self._how_far())

    def _state(self) -> dict[str, object]:
        counts = {"products": self.before, "check_at": self.check_at, "attempts": self.attempts}
        return self.krylov.state() | counts | {"generator": self.search.generator.get_state()}

    def _resume(self) -> None:
        state, width = self.search.states.load(self.file), self.krylov.next.shape[1]
        if self.krylov.restore(state):
            self.before, self.check_at = state["products"], state["check_at"]
            self.attempts = state.get("attempts", 0)  # which they did not count at first
            self.search.generator.set_state(state["generator"].cpu())
            if self.krylov.next.shape[1] < width:  # the limit left less then
                self.krylov.widen(self.search.draw(width - self.krylov.next.shape[1]))

    def attempt(self) -> Certificate | None:
        """The eigenvalues above the threshold if the Krylov space suffices to certify them."""
        values, Y = self.krylov.decomposed()
        t = self.problem.threshold(values)
        if t is None:
            self.check_at = int((1 + GROWTH) * self.krylov.size) + 1
            return None
        above, coupling = values > t, self.krylov.coupling(Y)
        # the second are rounding errors, if the threshold is very low
        tolerance = max(TOLERANCE[values.dtype] * t, 100 * torch.finfo(values.dtype).eps * values[0].item())
        unsettled = int((torch.linalg.vector_norm(coupling[:, above], dim=0) > tolerance).sum())
        growth = min(GROWTH, FINE + unsettled / max(int(above.sum()), 1))
        self.check_at = int((1 + growth) * self.krylov.size) + 1
        if unsettled and self.krylov.size < self.problem.d:
            return None
        kind, p = self.certify(values, coupling, t)
        if p > FAILURE:
            return None
        norms = self.krylov.residuals(values[above], Y[:, above])
        if kind != "full" and (norms > 2 * tolerance).any():
            return None
        return Certificate(values[above], norms, t, kind, p, self.spent[0])

    def _rest(self, values: Tensor) -> float:
        """Bound on what is left beside the Ritz values, if the Frobenius norm is known."""
        n, norm = self.problem.d - len(values), self.problem.frobenius
        return float("inf") if norm is None or n == 0 else left_over(values, self.problem.trace, norm, n)

    def certify(self, values: Tensor, coupling: Tensor, t: float) -> tuple[str, float]:
        """Kind of certificate and failure probability: are the Ritz values above ``t`` all of the eigenvalues there?"""
        window = rounding(values) if values.dtype == torch.float32 else 0.0
        top, full = ceiling(values, coupling, t - window), self.krylov.size == self.problem.d
        deterministic = self._rest(values) <= top
        sure = full or deterministic or top >= CEILING * t
        near = sure and ((values - t).abs() <= window).any()
        if window and (near or window >= (1 - CEILING) * t):
            raise RoundingError(f"a Ritz value is nearer to the threshold {t:.6g} than rounding errors, {window:.1g}")
        if full or deterministic:
            return "full" if full else "deterministic", 0.0
        return ("probabilistic", self.probe(self.krylov.Q, top)) if sure else ("undecided", 1.0)

    def probe(self, V: Tensor, top: float) -> float:
        """Bound on the probability that the part orthogonal to ``V`` exceeds ``top``, 1 if it seems to.

        The bound holds for whichever step is the last, and for all random runs of this search together.
        """
        self.attempts += 1
        n = V.shape[0] - V.shape[1]
        probes = min(max(PROBES, self.search.block // 4), n)
        krylov = Krylov(self.problem.matmul, self.search.draw(probes), min(n, probes * STEPS), beside=V)
        file, mark = f"{self.file}-probe", digest(V)
        state = self.search.states.load(file)
        if state and state["of"] == mark:
            krylov.restore(state)
        del state  # as large as the space
        p, more = 1.0, krylov.size > 0 or krylov.extend()
        while more:
            self.search.states.save(file, lambda: krylov.state() | {"of": mark})
            ratio = max(torch.linalg.eigvalsh(krylov.H)[-1].item() / top, 0.0)
            # the ratio only grows: where the last step could not do either, the main space has to grow instead
            bounds = [failure_probability(ratio, n, k, probes) for k in (krylov.size // probes, STEPS)]
            p, hope = (of_any_attempt(STEPS * bound, self.attempts) for bound in bounds)
            if krylov.size == n:
                p = hope = float(ratio >= 1)
            more = p > FAILURE >= hope and krylov.extend()
        self.before += krylov.size
        if ratio >= 1:  # an eigenvalue was missed: what is drawn afresh goes along with what is under way
            self.krylov.widen(self.search.draw(probes))
        return p

    def _how_far(self) -> str:
        values, Y = self.krylov.decomposed()
        t = self.problem.threshold(values) or 0.0
        above = f"{int((values > t).sum())} Ritz values above the threshold {t:.3g}" if t else "no threshold yet"
        norms = torch.linalg.vector_norm(self.krylov.coupling(Y), dim=0)
        settled = int((norms < TOLERANCE[values.dtype] * t).sum())
        return (
            f"the Krylov space has {self.krylov.size} vectors, its limit is {self.limit}: {settled} eigenvalues have "
            f"settled, {above}, smallest Ritz value {values[-1].item():.3g}; the count is not certain. Allow more "
            "memory, ask for fewer eigenvalues or a larger eps, or use the back-end 'dense'"
        )

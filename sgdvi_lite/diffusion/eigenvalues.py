"""Eigenvalues of a diffusion matrix by the cheapest way that answers the question: all at once, or the leading ones."""

from dataclasses import replace

import torch
from torch import Tensor

from sgdvi_lite import linalg
from sgdvi_lite._storage.folder import Checkpoints
from sgdvi_lite.diffusion.base import Backend
from sgdvi_lite.diffusion.certificates import Certificate, rounding
from sgdvi_lite.diffusion.lanczos import LimitError, Problem, Search, Threshold
from sgdvi_lite.diffusion.plan import FULL, Plan, computing, require


class Eigenvalues:
    """Eigenvalues of one back-end; what was computed is remembered, and ``plan`` says how the last ones were."""

    def __init__(self, backend: Backend, plan: Plan, progress: bool, states: Checkpoints):
        self.backend, self.plan, self.progress, self.states = backend, plan, progress, states
        self.n = min(plan.N, plan.d)
        self._all: Tensor | None = None
        self._certificates: dict[str, Certificate] = {}

    def all(self) -> Tensor:
        """Eigenvalues that may be non-zero: the largest min(N, d)."""
        if self._all is None:
            item = self.backend.like.element_size()
            self._require("all eigenvalues", 2 * item)
            with computing("ask for the largest k"):
                self._all = linalg.eigenvalues(self.backend.matrix)[: self.n]
        self.plan = replace(self.plan, solver="at once", certificate=None)
        return self._all

    def _require(self, what: str, bytes_an_entry: int) -> None:
        needed = bytes_an_entry * self.n**2
        require(f"{what} of a matrix of size {self.n:,}", needed, self.plan.limit, "ask for the largest k")

    def largest(self, k: int) -> Tensor:
        """The ``k`` largest; those beyond the largest min(N, d) are zero."""
        floor = linalg.rank_threshold(1.0, self.plan.d, torch.finfo(self.backend.like.dtype).eps)

        def threshold(values: Tensor) -> float | None:
            """Just below the k-th Ritz value; rounding errors are not worth the search and count as zero."""
            return max(0.999 * values[k - 1].item(), floor * values[0].item()) if len(values) >= k else None

        question = next((q for q, c in self._certificates.items() if c.count >= k), f"k={k}")
        certificate = self._leading(question, threshold, k)
        known = self.all() if certificate is None else certificate.values.to(self.backend.like.dtype)
        return torch.cat([known[:k], known.new_zeros(k - len(known[:k]))])

    def above(self, eps: float) -> Certificate:
        """Those above the rank's threshold, with the reason why there are no more."""

        def threshold(values: Tensor) -> float:
            return linalg.rank_threshold(values[0].item(), self.plan.d, eps)

        certificate = self._leading(f"eps={eps}", threshold)
        if certificate is not None:
            return certificate
        values = self.all()
        if ((values - threshold(values)).abs() <= rounding(values)).any() and values.dtype == torch.float32:
            self._require("one lies as near to the threshold as rounding errors: all eigenvalues in float64", 20)
            with computing("ask for another eps"):
                values = linalg.eigenvalues(self.backend.matrix.double())[: self.n]
        t = threshold(values)
        values = values[values > t]
        return Certificate(values, torch.zeros_like(values), t, "full", 0.0, 0)

    def _all_at_once(self, k: int) -> bool:
        """Whether all eigenvalues cost less than the ``k`` largest."""
        return self.backend.stored and (self.n <= FULL or self._all is not None or k > self.n // 10)

    def _leading(self, question: str, threshold: Threshold, k: int = 0) -> Certificate | None:
        """Those above the threshold by block Lanczos; ``None`` where all of a stored matrix are the cheaper answer."""
        if question not in self._certificates:
            if self._all_at_once(k):
                return None
            try:
                with computing("ask for fewer eigenvalues"):
                    self._certificates[question] = self._search(question, threshold).run()
            except LimitError:
                if self.backend.stored:
                    return None
                raise
        self.plan = replace(self.plan, solver="block Lanczos", certificate=self._certificates[question])
        return self.plan.certificate

    def _search(self, question: str, threshold: Threshold) -> Search:
        backend, d = self.backend, self.backend.d
        norm = backend.frobenius_norm if backend.formed else None
        problem = Problem(backend.cheapest_matmul, d, backend.like, threshold, backend.trace, norm)
        room = int(self.plan.limit / (6 * d * 8))  # in float64
        limit = max(min(room, self.n // 4 if backend.stored else d), 1)  # of a stored matrix not more than pays
        generator = torch.Generator().manual_seed(0)
        name = f"{backend.file}-{question}"
        return Search(problem, limit, generator, backend.block, self.progress, self.states, name)

"""Eigenvalues of a diffusion matrix by the cheapest way that answers the question: all at once, or the leading ones."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from sgdvi_lite import linalg
from sgdvi_lite.diffusion import lanczos, plan
from sgdvi_lite.diffusion.backends import Backend
from sgdvi_lite.diffusion.certificates import Certificate, rounding
from sgdvi_lite.diffusion.keeping import Keeping

FULL = 2000
"""Up to this size all eigenvalues are computed at once, whatever is asked."""


class Spectra:
    """Eigenvalues of one back-end; results are kept, and ``how`` says in words how the last ones were found."""

    def __init__(self, backend: Backend, N: int, memory: int, progress: bool, kept: Keeping):
        self.backend, self.memory, self.progress, self.kept = backend, memory, progress, kept
        self.d, self.n = backend.d, min(N, backend.d)
        self.how = ""
        self._certificates: dict[tuple, Certificate] = {}

    @cached_property
    def all(self) -> Tensor:
        """Eigenvalues that may be non-zero: the largest min(N, d)."""
        needed = 2 * self.n**2 * self.backend.like.element_size()
        plan.require(f"all eigenvalues of a matrix of size {self.n:,}", needed, self.memory, "ask for the largest k")
        self.how = "; all eigenvalues at once"
        return self.backend.eigenvalues()[: self.n]

    def largest(self, k: int) -> Tensor:
        """The ``k`` largest."""
        enough = next((found.values for found in self._certificates.values() if found.count >= k), None)
        if self._all_at_once(k):
            enough = self.all
        elif enough is None:
            enough = self._first(k)
        known = enough[:k]
        return torch.cat([known, known.new_zeros(k - len(known))])

    def _first(self, k: int) -> Tensor:
        """At least the ``k`` largest by block Lanczos; all, if that does not end and the matrix is stored."""
        try:
            return self._leading(("k", k), self._kth(k)).values
        except lanczos.LimitError:
            if self.backend.name == "lanczos":
                raise
            return self.all

    def _kth(self, k: int):
        """A threshold just below the k-th Ritz value; rounding errors are not worth the search and count as zero."""
        floor = linalg.rank_threshold(1.0, self.d, torch.finfo(self.backend.like.dtype).eps)

        def threshold(values: Tensor) -> float | None:
            return max(0.999 * values[k - 1].item(), floor * values[0].item()) if len(values) >= k else None

        return threshold

    def above(self, eps: float) -> Certificate:
        """Those above the rank's threshold, with the reason why there are no more."""
        if not self._all_at_once():
            try:
                of = lambda values: linalg.rank_threshold(values[0].item(), self.d, eps)  # noqa: E731
                return self._leading(("eps", eps), of)
            except lanczos.LimitError:
                if self.backend.name == "lanczos":
                    raise
        values = self.all
        threshold = linalg.rank_threshold(values[0].item(), self.d, eps)
        if ((values - threshold).abs() <= rounding(values)).any() and values.dtype == torch.float32:
            values = self.backend.eigenvalues(torch.float64)[: self.n]
            threshold = linalg.rank_threshold(values[0].item(), self.d, eps)
        values = values[values > threshold]
        return Certificate(values, torch.zeros_like(values), threshold, "full", 0.0, 0)

    def _all_at_once(self, k: int = 0) -> bool:
        stored = self.backend.name != "lanczos"
        return stored and (self.n <= FULL or "all" in self.__dict__ or k > self.n // 10)

    def _limit(self) -> int:
        """Most Krylov vectors: what fits the memory in float64, and for a stored matrix not more than pays."""
        room = int(self.memory / (6 * self.d * 8))
        return max(min(room, self.d if self.backend.name == "lanczos" else self.n // 4), 1)

    def _leading(self, key: tuple, threshold) -> Certificate:
        if key not in self._certificates:
            self._certificates[key] = lanczos.leading(
                self.backend.matmul,
                self.backend.like,
                self.d,
                threshold,
                trace=self.backend.trace,
                frobenius=None if self.backend.name == "lanczos" else self.backend.frobenius_norm,
                limit=self._limit(),
                generator=torch.Generator().manual_seed(0),
                progress=self.progress,
                kept=self.kept,
                name=f"{self.backend.name}-{key[0]}={key[1]}",
            )
        found = self._certificates[key]
        self.how = f"; eigenvalues by block Lanczos, {found.kind} certificate, {found.products} products"
        return found

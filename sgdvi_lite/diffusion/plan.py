"""Memory foreseen before the work, the back-end that fits into it, and what was done, in words."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psutil
import torch

from sgdvi_lite.diffusion.base import Backend
from sgdvi_lite.diffusion.certificates import Certificate
from sgdvi_lite.diffusion.dense import Dense, DenseOfKept
from sgdvi_lite.diffusion.gram import Gram
from sgdvi_lite.diffusion.recomputed import Recomputed
from sgdvi_lite.gradients import conditions
from sgdvi_lite.gradients.source import Source

BACKENDS: dict[str, type[Backend]] = {kind.name: kind for kind in (Dense, Gram, Recomputed)}
ALIASES = {"lanczos": Recomputed.name}  # names that were those of back-ends before
FRACTION = 0.8  # part of the free memory that is used by default
FULL = 2000  # up to this size all eigenvalues are computed at once, whatever is asked


@dataclass(frozen=True)
class Plan:
    """What was chosen for a diffusion matrix, and why; as text it is the matrix's ``how``.

    Attributes
    ----------
    N, d : int
        Numbers of examples and of weights.
    asked : bool
        Whether the back-end was asked for; else it was chosen.
    best, needed
        Name of the back-end asked for, or that would be chosen if memory were no matter, and the bytes it needs.
    limit : int
        Bytes that may be used.
    backend : str
        Name of the back-end in use: ``best``, or if it was not asked for and does not fit ``recomputed``.
    kind : type
        Its class: of ``dense`` there are two, one of which keeps the gradients and forms the matrix when it is needed.
    gradients : str
        How the gradients are computed.
    solver : str
        How the last eigenvalues were computed: ``at once``, ``block Lanczos``, or empty if none were yet.
    certificate : Certificate or None
        What block Lanczos gave.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import DiffusionMatrix
    >>> D = DiffusionMatrix.from_gradients(torch.eye(3))
    >>> D.plan.backend, D.plan.asked, D.plan.needed
    ('dense', False, 72)
    >>> str(D.plan)
    'dense, N = 3 >= d = 3, 72 bytes; gradients given'
    """

    N: int
    d: int
    asked: bool
    best: str
    needed: float
    limit: int
    backend: str
    gradients: str
    kind: type[Backend]
    solver: str = ""
    certificate: Certificate | None = None

    def __str__(self) -> str:
        why = "as asked" if self.asked else f"N = {self.N:,} {'<' if self.N < self.d else '>='} d = {self.d:,}"
        memory = size(self.needed) + (" with the gradients" if self.kind is DenseOfKept else "")
        if self.backend != self.best:
            memory = f"{self.best} needs {memory}, and {size(self.limit)} may be used"
        text = f"{self.backend}, {why}, {memory}; gradients {self.gradients}"
        if self.certificate:
            kind, products = self.certificate.kind, self.certificate.products
            return f"{text}; eigenvalues by {self.solver}, {kind} certificate, {products} products"
        return f"{text}; all eigenvalues {self.solver}" if self.solver else text


def choose(name: str, source: Source, N: int, limit: int, keep: bool) -> Plan:
    """The back-end of that name, or for ``auto`` the best one that fits into ``limit`` bytes.

    For a large matrix ``dense`` is told to ``keep`` the gradients if it may and they fit as well.
    """
    d, asked = source.d, name != "auto"
    best = name if asked else "gram" if N < d else "dense"
    kind = BACKENDS[best]
    if best == "dense" and keep and min(N, d) > FULL and DenseOfKept.bytes_needed(source, N) <= limit:
        kind = DenseOfKept
    needed = kind.bytes_needed(source, N)
    if not asked and needed > limit:
        kind = Recomputed
    what = f"backend {kind.name!r} with N = {N:,} and d = {d:,}"
    require(what, kind.bytes_needed(source, N), limit, kind.remedy)
    return Plan(N, d, asked, best, needed, limit, kind.name, source.how, kind)


def require(what: str, needed: float, limit: int, remedy: str) -> None:
    """Raise unless ``needed`` bytes fit ``limit``."""
    if needed > limit:
        raise MemoryError(f"{what} needs {size(needed)}, and {size(limit)} may be used: {remedy}")


def available(device: torch.device) -> int:
    """Bytes that may be used on a device: most of what is free now."""
    if device.type != "cuda":
        return int(FRACTION * psutil.virtual_memory().available)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, and free again
    return int(FRACTION * (torch.cuda.mem_get_info(device)[0] + cached))


def computing(remedy: str) -> AbstractContextManager[None]:
    """Full precision; and a device's lack of memory is an error that says what helps."""
    return conditions.computing(f"{remedy}, or give memory= a lower bound", "the diffusion matrix")


def size(number: float) -> str:
    """A number of bytes for people.

    Examples
    --------
    >>> from sgdvi_lite.diffusion import plan
    >>> plan.size(2_911_000_000), plan.size(1300)
    ('2.91 GB', '1.3 kB')
    """
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(int(math.log10(max(number, 1)) // 3), len(units) - 1)
    return f"{number / 1000**power:.3g} {units[power]}"

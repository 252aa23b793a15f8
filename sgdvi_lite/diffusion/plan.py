"""Memory foreseen before the work, and the back-end of a diffusion matrix that fits into it."""

from __future__ import annotations

import math

import psutil
import torch

from sgdvi_lite.diffusion.backends import BACKENDS, Backend, Source

FRACTION = 0.8
"""Part of the free memory that is used by default."""


def available(device: torch.device) -> int:
    """Bytes that may be used on a device: most of what is free now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(FRACTION * free)


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


def require(what: str, needed: float, limit: int, remedy: str) -> None:
    """Raise unless ``needed`` bytes fit ``limit``."""
    if needed > limit:
        raise MemoryError(f"{what} needs {size(needed)}, and {size(limit)} may be used: {remedy}")


def choose(name: str, source: Source, N: int, limit: int) -> tuple[type[Backend], str]:
    """The back-end of that name, or the best one that fits into ``limit`` bytes, and a sentence that says why."""
    d = source.d
    best = "gram" if N < d else "dense"
    chosen = best if name == "auto" else name
    needed = BACKENDS[chosen].bytes_needed(source, N)
    if name == "auto" and needed > limit:
        chosen, lacking = "lanczos", f"{best} needs {size(needed)}, and {size(limit)} may be used"
        needed = BACKENDS[chosen].bytes_needed(source, N)
    else:
        lacking = f"{size(needed)}"
    remedy = (
        "lower chunk" if chosen == "lanczos" else "use backend='lanczos' or float32, or raise memory if there is more"
    )
    require(f"backend {chosen!r} with N = {N:,} and d = {d:,}", needed, limit, remedy)
    why = f"N = {N:,} {'<' if N < d else '>='} d = {d:,}" if name == "auto" else "as asked"
    return BACKENDS[chosen], f"{chosen}, {why}, {lacking}; gradients {source.how}"

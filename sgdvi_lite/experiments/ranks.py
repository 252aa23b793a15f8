"""Several processes, started by torchrun: the first one trains, writes and prints, and all of them compute ``D``.

``torchrun --nproc-per-node=2 -m sgdvi_lite run spectrum`` starts two on the CPU, which speak by gloo. With ``--device
cuda`` they speak by NCCL, and each takes the GPU of its number, by ``torch.cuda.set_device`` of ``LOCAL_RANK``.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from sgdvi_lite import _checks
from sgdvi_lite.gradients.examples import each


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun has started, if it has, until the end of the block."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    _checks.argument("device", repr(device), device in ("cpu", "cuda"), "cpu or cuda: torchrun gives each its own")
    if device == "cuda":
        own = f"cuda:{os.environ['LOCAL_RANK']}"
        _checks.device(own)
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def group() -> distributed.ProcessGroup | None:
    """All processes, or ``None`` for one alone."""
    return distributed.group.WORLD if distributed.is_initialized() else None


def place() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def of_first(make: Callable[[], dict]) -> dict:
    """What the first process makes, on all of them, or the end if it fails; tensors travel by way of the CPU."""
    if group() is None:
        return make()
    sent = [each(lambda part: part.cpu() if isinstance(part, Tensor) else part, make())] if place()[0] == 0 else [None]
    try:
        distributed.broadcast_object_list(sent)
    except RuntimeError as error:
        raise SystemExit(2) from error  # the process that has failed says why
    return sent[0]

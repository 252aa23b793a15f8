"""Examples spread over the ranks of a process group: sums and gatherings, which for one process alone do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def together(group: dist.ProcessGroup | None, make: Callable[[], T]) -> T:
    """What ``make`` gives on this rank; if it raises on any, all ranks raise, so that none waits for another."""
    try:
        made, fault = make(), None
    except Exception as error:
        made, fault = None, error
    Ranks(group, 0).share(fault)
    return made


class Ranks:
    """The ranks of a ``torch.distributed`` process group, ``n`` examples on this one; one process alone for ``None``.

    Attributes
    ----------
    size : int
        Number of ranks.
    counts : list of int
        Examples on each rank.
    total, first : int
        Number of examples on all ranks, and on those before this one.
    """

    def __init__(self, group: dist.ProcessGroup | None, n: int):
        self.group = group
        self.size, rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
        self.counts = self.collect(n)
        self.total, self.first = sum(self.counts), sum(self.counts[:rank])

    def collect(self, value: object) -> list:
        """The values of all ranks, on each of them."""
        values = [value] * self.size
        if self.group is not None:
            dist.all_gather_object(values, value, group=self.group)
        return values

    def share(self, fault: Exception | None) -> None:
        """Raise this rank's fault, or if another has one an error that tells it."""
        texts = self.collect(None if fault is None else f"{type(fault).__name__}: {fault}")
        if fault is not None:
            raise fault
        for rank, text in enumerate(texts):
            if text:
                raise RuntimeError(f"rank {rank} of the group has failed: {text}")

    def agree(self, **values: object) -> None:
        """Raise on every rank unless each of the named values is the same on all of them."""
        for name, value in values.items():
            texts = list(map(str, self.collect(value)))
            if len(set(texts)) > 1:
                raise ValueError(
                    f"{name} differs between the ranks of the group: {', '.join(texts)} on ranks 0 to {self.size - 1}; "
                    "expected the same: give every rank the same network, dtype and back-end"
                )

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.group is not None:
            tensor = tensor.contiguous()
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def of_first(self, tensor: Tensor) -> Tensor:
        """That of rank 0, on each rank."""
        return tensor if self.group is None else self.sum(tensor if self.first == 0 else torch.zeros_like(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows (n, ...) of all ranks, one below the other, on each rank."""
        if self.group is None:
            return tensor
        padded = tensor.new_zeros(max(self.counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([rows[:n] for rows, n in zip(parts, self.counts, strict=True)])

"""Examples spread over the ranks of a process group: sums and gatherings, or nothing at all for one process."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class Alone:
    """One process that holds all ``n`` examples."""

    size, first = 1, 0

    def __init__(self, n: int):
        self.total = n

    def smallest(self, value: int) -> int:
        """The value itself."""
        return value

    def agree(self, **_: object) -> None:
        """Nothing to compare."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


class Ranks:
    """The ranks of a ``torch.distributed`` process group, ``n`` examples on this one.

    Attributes
    ----------
    size : int
        Number of ranks.
    counts : list of int
        Examples on each rank.
    total, first : int
        Number of examples on all ranks, and on those before this one.
    """

    def __init__(self, group: dist.ProcessGroup, n: int):
        self.group, self.size = group, dist.get_world_size(group)
        self.counts = self._all(n)
        self.total, self.first = sum(self.counts), sum(self.counts[: dist.get_rank(group)])

    def _all(self, value: object) -> list:
        found: list = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def smallest(self, value: int) -> int:
        """The smallest of the values of all ranks."""
        return min(self._all(value))

    def agree(self, **values: object) -> None:
        """Raise on every rank unless each of the named values is the same on all of them."""
        for name, found in ((name, self._all(value)) for name, value in values.items()):
            if len(set(map(str, found))) > 1:
                raise ValueError(
                    f"{name} differs between the ranks of the group: {', '.join(map(str, found))} on ranks 0 to "
                    f"{self.size - 1}; expected the same: give every rank the same network, dtype and back-end"
                )

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        tensor = tensor.contiguous()
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows (n, ...) of all ranks, one below the other, on each rank."""
        padded = tensor.new_zeros(max(self.counts), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in self.counts]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([rows[:n] for rows, n in zip(found, self.counts, strict=True)])


Group = Alone | Ranks


def over(group: dist.ProcessGroup | None, n: int) -> Group:
    """The ranks of ``group``, or one process alone if it is ``None``."""
    return Alone(n) if group is None else Ranks(group, n)

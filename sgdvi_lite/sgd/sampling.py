"""How the indices of mini-batches are drawn: on the CPU, so that every device sees the same data in the same order."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from sgdvi_lite import _checks

SAMPLINGS = ("with", "without", "reshuffled")
Whole = int | np.integer
Real = float | np.floating


def number(value: object) -> object:
    """A number of NumPy or PyTorch as one of Python; all else as it is."""
    return value.item() if hasattr(value, "item") else value


def batches(N: Whole, b: Whole, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of the ``N // b`` mini-batches of one epoch.

    Parameters
    ----------
    N, b
        Number of examples and batch size.
    sampling
        ``with``: each index uniform and independent. ``without``: each batch a fresh subset. ``reshuffled``: one
        permutation cut into batches; where ``b`` does not divide ``N`` the rest of it is left out of this epoch.
    generator
        A CPU generator.

    Raises
    ------
    ValueError
        If ``sampling`` is unknown, ``b < 1`` or ``b > N``, or the generator draws on another device.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import sgd
    >>> drawn = torch.cat(list(sgd.batches(6, 2, "reshuffled", torch.Generator().manual_seed(0))))
    >>> sorted(drawn.tolist())
    [0, 1, 2, 3, 4, 5]
    """
    check(N, b, sampling, "b")
    check_generator(generator)
    return iter(epoch(int(N), int(b), sampling, generator))


def check(N: Whole, b: Whole, sampling: str, name: str = "batch_size") -> None:
    """Raise unless batches can be drawn so."""
    _checks.one_of("sampling", sampling, SAMPLINGS)
    _checks.count("N", N)
    _checks.count(name, b, high=int(N), remedy="an epoch has N // b batches")


def check_generator(generator: torch.Generator) -> None:
    """Raise unless a generator draws on the CPU, in the same order for every device."""
    good = isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    _checks.argument("generator", generator, good, "a torch.Generator() on the CPU")


def epoch(N: int, b: int, sampling: str, generator: torch.Generator) -> Tensor:
    """The batches of one epoch at once, ``(N // b, b)``."""
    n = N // b
    if sampling == "with":
        return torch.randint(N, (n, b), generator=generator)
    if sampling == "without":
        return torch.stack([torch.randperm(N, generator=generator)[:b] for _ in range(n)])
    return torch.randperm(N, generator=generator)[: n * b].view(n, b)


def replica_batches(n: int, N: int, b: int, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices ``(n, b)`` of one step after the other, without end."""
    while True:
        if sampling == "with":
            yield torch.randint(N, (n, b), generator=generator)
            continue
        order = torch.rand(n, N, generator=generator, dtype=torch.float64).argsort(dim=1)
        for k in range(N // b if sampling == "reshuffled" else 1):
            yield order[:, k * b : (k + 1) * b]

"""Examples in tensors, or in dicts, tuples and lists of tensors, each with a row for each example."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from sgdvi_lite import _checks

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
Examples = Tensor | np.ndarray | Mapping | tuple | list | None
"""Inputs or targets: an array, or a dict, tuple or list of them, however deep; ``None`` stands for nothing."""


def each(f: Callable[[Tensor], object], tree: object):
    """The same dict, tuple or list with ``f`` of each of its tensors.

    Examples
    --------
    >>> from sgdvi_lite.gradients import examples
    >>> examples.each(lambda t: 2 * t, {"one": torch.tensor(1), "others": (torch.tensor(2), None)})
    {'one': tensor(2), 'others': (tensor(4), None)}
    """
    if isinstance(tree, Mapping):
        new = copy.copy(tree)
        for name, part in tree.items():
            new[name] = each(f, part)
        return new
    if isinstance(tree, tuple | list):
        parts = [each(f, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree if tree is None else f(tree)


def take(tree: Examples, rows: slice | Tensor) -> Examples:
    """A copy with some of the examples only: a network may change its input in place."""
    return each(lambda tensor: tensor[rows].clone(), tree)


def dims(tree: Examples):
    """The same with 0, the dimension of the examples, for each tensor: what :func:`torch.func.vmap` goes over."""
    return each(lambda tensor: 0, tree)


def leaves(tree: Examples) -> list[Tensor]:
    """The tensors, in order."""
    found: list[Tensor] = []
    each(lambda tensor: found.append(tensor) or tensor, tree)
    return found


def tensors(name: str, value: Examples) -> Examples:
    """The same in tensors that keep no graph; numpy arrays are copied.

    Raises
    ------
    TypeError
        If there is anything else in it.
    """

    def tensor(array) -> Tensor:
        if not isinstance(array, Tensor | np.ndarray) or (isinstance(array, Tensor) and array.layout != torch.strided):
            kind = f"{name} holds {array!r:.40}, of {type(array)}"
            raise TypeError(f"{kind}: expected dense tensors or numpy arrays, or dicts, tuples, lists of them")
        if not isinstance(array, Tensor):
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        return array.clone() if array.is_inference() else array.detach()

    return each(tensor, value)


def count(x: Examples, y: Examples) -> int:
    """Number of examples.

    Raises
    ------
    ValueError
        If it is zero, or not the same in all tensors.
    """
    inputs, others = leaves(x), leaves(y)
    _checks.require(inputs, "x holds no tensor: expected at least one, with a row for each example")
    for tensor in inputs + others:
        _checks.shape("x or y", tensor.shape, tensor.ndim, "a row for each example, in a tensor of dimension >= 1")
    for tensor in inputs[1:]:
        _checks.same_length("x", inputs[0], "x, further on,", tensor)
    for tensor in others or inputs[:1]:
        _checks.same_length("x", inputs[0], "y", tensor)
    return len(inputs[0])


def integers(tree: Examples) -> list[Tensor]:
    """The tensors of integers in it: tokens, labels or counts."""
    return [t for t in leaves(tree) if t.dtype in INTEGERS]

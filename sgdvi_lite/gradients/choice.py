"""Which way the gradients of a network are computed: the fastest that agrees with the loop on a sample of examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sgdvi_lite import _checks
from sgdvi_lite.gradients.conditions import Peak
from sgdvi_lite.gradients.layers import layer_by_layer, rows
from sgdvi_lite.gradients.problem import Problem, in_short
from sgdvi_lite.gradients.ways import Judge, Way, by_vmap

SAMPLE = 8  # examples by which a way is judged, at least
LARGEST_SAMPLE = 64  # at most: so many while the gradient of some parameter is zero in all of them


class Choice(NamedTuple):
    """A way to compute gradients, and what was learnt of it.

    Attributes
    ----------
    way, how
        The way, in words with the reason why no faster one is taken.
    widths
        As those of a source.
    fixed, growing
        Bytes that a chunk takes, whatever its size and for each of its examples.
    judge
        Who compares it with the loop, or ``None`` for the loop itself.
    """

    way: Way
    how: str
    widths: tuple[int, ...]
    fixed: int
    growing: int
    judge: Judge | None


def choose(problem: Problem, loop: Way, single: bool) -> Choice:
    """The fastest way that can be trusted; the loop, if chunks of a ``single`` example are asked for."""
    indices, exact, judge = _sample(problem, loop)
    reason = "each chunk is one example" if single else _doubt(problem, exact)
    if reason is None:
        try:
            return _judged(layer_by_layer, problem, judge, exact, indices)._replace(how="layer by layer")
        except Doubt as doubt:
            reason = str(doubt)
        try:
            return _judged(by_vmap, problem, judge, exact, indices)._replace(how=f"vmap, since {reason}")
        except Doubt as doubt:
            reason = f"{reason}; vmap: {doubt}"
    with Peak() as memory:
        loop(*problem.take(slice(0, 1)))
    d = exact.shape[1]
    return Choice(loop, f"one by one, since {reason}", (d,), memory.bytes, d * exact.element_size(), None)


class Doubt(Exception):
    """Why a way cannot be used."""


def _judged(make: Callable[..., Way], problem: Problem, judge: Judge, exact: Tensor, indices: list[int]) -> Choice:
    """The way, if it agrees with the loop on these examples."""
    x, y = problem.take(torch.tensor(indices))
    try:
        way = make(problem.model, problem.loss)
        with Peak() as memory:
            parts = way(x, y)
        found = rows(parts)
    except torch.OutOfMemoryError:
        raise
    except Exception as fault:  # the loop had none: it is not the network's, but of what this way asks of a network
        raise Doubt(in_short(fault)) from fault
    finally:
        problem.state.restore()
    if not judge.agree(found, exact, x, y):
        raise Doubt(f"{len(exact)} examples contradict it")
    widths = tuple(tensor.shape[1] for part in parts for tensor in part)
    return Choice(way, "", widths, 0, -(-memory.bytes // len(exact)), judge)


def _sample(problem: Problem, loop: Way) -> tuple[list[int], Tensor, Judge]:
    """Examples, their gradients by the loop, and who judges by them.

    The examples are the first, those with the least and largest integers, and others at random; more, as long as the
    gradient of some parameter is zero in all of them.
    """
    extremes = problem.extremes()
    depends = [problem.try_one(k) for k in extremes]
    others = torch.randperm(problem.N, generator=torch.Generator().manual_seed(0))[:LARGEST_SAMPLE].tolist()
    order, exact = list(dict.fromkeys(extremes + others)), None
    for size in (SAMPLE, 2 * SAMPLE, 4 * SAMPLE, LARGEST_SAMPLE):
        seen = 0 if exact is None else len(exact)
        if seen == len(order) or (seen and judge.scale.all()):
            break
        new = loop(*problem.take(torch.tensor(order[seen:size])))[0].rows
        for k, row in zip(order[seen:size], new, strict=True):
            _checks.finite("gradients", row[None], first=k)
        exact = torch.cat([exact, new]) if seen else new
        judge = Judge.of(loop, problem.weights, exact)
    fault = "loss: depends on no trainable weight; expected that it does; detach nothing, compute no part without grad"
    _checks.require(any(depends) or exact.any(), fault)
    k = int(exact.abs().amax(1).argmax())
    x, y = problem.take(slice(order[k], order[k] + 1))
    fault = f"model: two passes over example {order[k]} give different gradients; expected neither noise nor memory of "
    fault += "earlier passes; call model.eval() first, or draw no random numbers in it"
    _checks.require(judge.agree(loop(x, y)[0].rows, exact[k : k + 1], x, y), fault)
    return order[: len(exact)], exact, judge


def _doubt(problem: Problem, exact: Tensor) -> str | None:
    """Why no way but the loop can be trusted."""
    hooked = [name for name, p in problem.model.named_parameters() if p.requires_grad and p._backward_hooks]
    if hooked:
        return f"a hook changes the gradient of {hooked[0]!r}"
    return None if exact.any() else f"the gradients of {len(exact)} examples are all zero"

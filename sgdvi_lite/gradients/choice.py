"""Which way the gradients of a network are computed: the fastest that agrees with the loop on a sample of examples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sgdvi_lite import _checks
from sgdvi_lite.gradients.conditions import Peak
from sgdvi_lite.gradients.layers import layer_by_layer, rows
from sgdvi_lite.gradients.problem import Problem, check_finite, in_short
from sgdvi_lite.gradients.ways import Tolerance, Way, by_vmap

SAMPLE = 8  # examples by which a way is judged
LARGEST_SAMPLE = 64  # where the gradient of some parameter is zero in all of those


class Choice(NamedTuple):
    """A way to compute gradients, and what was learnt of it.

    Attributes
    ----------
    way, how
        The way, in words with the reason why no faster one is taken.
    widths
        As those of a source.
    bytes
        What each example in a chunk takes.
    tolerance
        How far it may be from the loop, or ``None`` for the loop itself.
    """

    way: Way
    how: str
    widths: tuple[int, ...]
    bytes: int
    tolerance: Tolerance | None


def choose(problem: Problem, loop: Way, single: bool) -> Choice:
    """The fastest way that can be trusted; the loop, if chunks of a ``single`` example are asked for."""
    tolerance = Tolerance(problem.weights)
    indices, exact = _sample(problem, loop, tolerance)
    examples = problem.take(torch.tensor(indices))
    reasons = _reasons(problem, exact, single)
    for name, make in () if reasons else (("layer by layer", layer_by_layer), ("vmap", by_vmap)):
        try:
            way = make(problem.model, problem.loss)
            if tolerance.allows(rows(way(*examples)), exact):
                return _measured(way, ", since ".join([name, *reasons]), examples, tolerance)
            reasons.append(f"{len(exact)} examples contradict it")
        except torch.OutOfMemoryError:
            raise
        except Exception as fault:  # the loop had none: it is not the network's, but of what this way asks of a network
            reasons.append(in_short(fault))
        finally:
            problem.state.restore()
    again = loop(*examples)[0].rows
    fault = f"model: two passes over example {indices[int((again - exact).abs().amax(1).argmax())]} give different "
    fault += "gradients; expected neither noise nor memory of earlier passes; call model.eval() first, or draw no "
    _checks.require(tolerance.allows(again, exact), fault + "random numbers in it")
    return _measured(loop, f"one by one, since {'; vmap: '.join(reasons)}", problem.take(slice(0, 1)), None)


def _measured(way: Way, how: str, examples: tuple, tolerance: Tolerance | None) -> Choice:
    """The choice, and what it takes. In a pass of its own: torch computes some losses otherwise while it is watched."""
    with Peak() as memory:
        parts = way(*examples)
    widths = tuple(tensor.shape[1] for part in parts for tensor in part)
    return Choice(way, how, widths, -(-memory.bytes // len(parts[0][0])), tolerance)


def _sample(problem: Problem, loop: Way, tolerance: Tolerance) -> tuple[list[int], Tensor]:
    """Examples and their gradients by the loop: the first, those of least and largest integers, others at random."""
    extremes = problem.extremes()
    depends = [problem.try_one(k) for k in extremes]
    others = torch.randperm(problem.N, generator=torch.Generator().manual_seed(0))[:LARGEST_SAMPLE].tolist()
    order, found = list(dict.fromkeys(extremes + others)), []
    for some in (order[:SAMPLE], order[SAMPLE:LARGEST_SAMPLE]):
        if some and not tolerance.scale.all():
            found.append(loop(*problem.take(torch.tensor(some)))[0].rows)
            for k, row in zip(some, found[-1], strict=True):
                check_finite(row[None], k)
            tolerance.learn(found[-1])
    exact = torch.cat(found)
    fault = "loss: depends on no trainable weight; expected that it does; detach nothing, compute no part without grad"
    _checks.require(any(depends) or exact.any(), fault)
    return order[: len(exact)], exact


def _reasons(problem: Problem, exact: Tensor, single: bool) -> list[str]:
    """Why no way but the loop can be trusted."""
    if single:
        return ["each chunk is one example"]
    hooked = [name for name, p in problem.model.named_parameters() if p.requires_grad and p._backward_hooks]
    if hooked:
        return [f"a hook changes the gradient of {hooked[0]!r}"]
    return [] if exact.any() else [f"the gradients of {len(exact)} examples are all zero"]

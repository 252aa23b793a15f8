"""The loop over examples, which defines per-example gradients; a faster way; how far one may be from the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sgdvi_lite.gradients.examples import Examples, dims, each, leaves, take
from sgdvi_lite.gradients.layers import Part, Rows
from sgdvi_lite.gradients.problem import Loss, Problem

Way = Callable[[Examples, Examples], list[Part]]
ROUNDING = 128.0  # rounding errors of the largest gradient, to which a smaller one may owe all that it is


def one_by_one(problem: Problem) -> Way:
    """The definition: a backward pass for each example, a batch of its own, through the network in the same state."""
    weights = problem.weights

    def of_each(x: Examples, y: Examples) -> list[Part]:
        n = len(leaves(x)[0])
        out = weights[0].detach().new_empty(n, sum(p.numel() for p in weights))
        for k in range(n):
            found = _slopes(problem, x, y, slice(k, k + 1))
            pairs = zip(weights, found, strict=True)
            torch.cat([(torch.zeros_like(p) if g is None else g.to_dense()).reshape(-1) for p, g in pairs], out=out[k])
        problem.state.restore()
        return [Rows(out)]

    return of_each


def _slopes(problem: Problem, x: Examples, y: Examples, row: slice) -> Sequence[Tensor | None]:
    """Gradients of the loss of an example; ``None`` for what has no part in it."""

    def loss() -> Tensor:
        problem.state.restore()
        with torch.enable_grad():
            return problem.loss(problem.model(take(x, row)), take(y, row))

    weights, value = problem.weights, loss()
    if not value.requires_grad:
        return [None] * len(weights)
    with suppress(RuntimeError):  # if it is the network's, it comes again
        found = torch.autograd.grad(value, weights, allow_unused=True)
        if all(g is not None for g in found) or not _has_functions_of_users(value):
            return found
    # What makes a backward pass of its own, as a reentrant checkpoint does, shows its weights to .backward() only.
    before = [p.grad for p in weights]
    try:
        for p in weights:
            p.grad = None
        loss().backward()
        return [p.grad for p in weights]
    finally:
        for p, grad in zip(weights, before, strict=True):
            p.grad = grad


def _has_functions_of_users(value: Tensor) -> bool:
    """Whether a subclass of :class:`torch.autograd.Function` is in the graph of a number."""
    todo, seen = [value.grad_fn], {None}
    while todo:
        if (node := todo.pop()) not in seen:
            seen.add(node)
            todo += [other for other, _ in node.next_functions]
    return any(isinstance(node, BackwardCFunction) for node in seen)


def by_vmap(model: nn.Module, loss: Loss) -> Way:
    """The same for all examples at once, where torch can transform the network."""

    def of_one(weights: dict[str, Tensor], x: Examples, y: Examples) -> Tensor:
        x, y = (each(lambda tensor: tensor[None], tree) for tree in (x, y))
        return loss(functional_call(model, weights, (x,)), y)

    def of_each(x: Examples, y: Examples) -> list[Part]:
        weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        # With gradients on, a loss shows whether it reaches the parameters; torch cannot batch its other attentions.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            found, values = vmap(grad_and_value(of_one), (None, dims(x), dims(y)))(weights, x, y)
        if values.requires_grad:
            raise NotImplementedError("the loss depends on weights by another way than by the network's parameters")
        return [Rows(torch.cat([found[name].detach().reshape(len(values), -1) for name in weights], dim=1))]

    return of_each


class Tolerance:
    """How far gradients may be from those of the loop, each parameter by its own scale: the largest seen of it."""

    def __init__(self, weights: list[nn.Parameter]):
        self._sizes = [p.numel() for p in weights]
        self.scale = torch.zeros(len(weights), dtype=weights[0].dtype, device=weights[0].device)

    def learn(self, exact: Tensor) -> None:
        """Learn from gradients (n, d) by the loop how large they are."""
        self.scale = torch.maximum(self.scale, self._largest(exact))

    def allows(self, found: Tensor, exact: Tensor) -> bool:
        """Whether gradients (n, d) agree with those of the loop: up to half the digits, or up to rounding."""
        self.learn(exact)
        eps = torch.finfo(exact.dtype).eps
        allowed = eps**0.5 * self.scale + ROUNDING * eps * self.scale.max()
        return bool((self._largest(found - exact) <= allowed).all())

    def _largest(self, G: Tensor) -> Tensor:
        """Largest size (parameters,) in the columns of each parameter."""
        parts = G.split(self._sizes, dim=1)
        return torch.stack([part.abs().max() if part.numel() else G.new_zeros(()) for part in parts])

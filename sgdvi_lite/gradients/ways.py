"""The loop over examples, which is what per-example gradients mean; the faster ways; and what makes one trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from sgdvi_lite.gradients.examples import Examples, dims, each, leaves, take
from sgdvi_lite.gradients.layers import Part, Rows
from sgdvi_lite.gradients.problem import Loss, Problem

Way = Callable[[Examples, Examples], list[Part]]
ROUNDING = 32.0  # times the change that comes with another rounding of the weights may be due to rounding


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
        if all(g is not None for g in found):
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


def by_vmap(model: nn.Module, loss: Loss) -> Way:
    """The same for all examples at once, where torch can transform the network."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def of_one(weights: dict[str, Tensor], x: Examples, y: Examples) -> Tensor:
        x, y = (each(lambda tensor: tensor[None], tree) for tree in (x, y))
        return loss(functional_call(model, weights, (x,)), y)

    def of_each(x: Examples, y: Examples) -> list[Part]:
        # With gradients on, a loss shows whether it reaches the parameters; torch cannot batch its other attentions.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            found, values = vmap(grad_and_value(of_one), (None, dims(x), dims(y)))(weights, x, y)
        if values.requires_grad:
            raise NotImplementedError(
                "the loss depends on weights by another way than through the network's parameters"
            )
        return [Rows(torch.cat([found[name].detach().reshape(len(values), -1) for name in weights], dim=1))]

    return of_each


@dataclass
class Judge:
    """Compares gradients with those of the loop, each parameter by its own scale.

    Attributes
    ----------
    loop : Way
        The loop.
    weights : list of Tensor
        Parameters of the network.
    scale, noise : Tensor
        Largest gradient of each parameter in the sample, and largest change of it with another rounding of the
        weights (zero as long as nobody asked).
    """

    loop: Way
    weights: list[Tensor]
    scale: Tensor
    noise: Tensor

    @classmethod
    def of(cls, loop: Way, weights: list[Tensor], exact: Tensor) -> Judge:
        """The judge who has seen these gradients by the loop."""
        scale = _largest(exact, weights)
        return cls(loop, weights, scale, torch.zeros_like(scale))

    def agree(self, found: Tensor, exact: Tensor, x: Examples, y: Examples) -> bool:
        """Whether gradients (n, d) agree with those of the loop: up to half the digits, or up to rounding."""
        if self._within(found, exact):
            return True
        self.scale = torch.maximum(self.scale, _largest(exact, self.weights))
        if self._within(found, exact):
            return True
        self.noise = torch.maximum(self.noise, self._measured(exact, x, y))
        return self._within(found, exact)

    def _within(self, found: Tensor, exact: Tensor) -> bool:
        half = torch.finfo(exact.dtype).eps ** 0.5
        allowed = half * self.scale + (ROUNDING * self.noise).clamp(max=half * self.scale.max().item())
        sizes = torch.tensor([p.numel() for p in self.weights], device=exact.device)
        return bool(((found - exact).abs() <= allowed.repeat_interleave(sizes)).all())

    def _measured(self, exact: Tensor, x: Examples, y: Examples) -> Tensor:
        """Largest changes of the gradients with weights that are rounded otherwise: what is zero but for rounding."""
        eps, generator = torch.finfo(exact.dtype).eps, torch.Generator().manual_seed(0)
        before = [p.detach().clone() for p in self.weights]
        try:
            for p in self.weights:
                p.data.mul_(1 + eps * torch.randn(p.shape, generator=generator).to(p))
            return _largest(self.loop(x, y)[0].rows - exact, self.weights)
        finally:
            for p, value in zip(self.weights, before, strict=True):
                p.data.copy_(value)


def _largest(G: Tensor, weights: list[Tensor]) -> Tensor:
    """Largest size (parameters,) in the columns of each parameter."""
    parts = G.split([p.numel() for p in weights], dim=1)
    return torch.stack([part.abs().max() if part.numel() else G.new_zeros(()) for part in parts])

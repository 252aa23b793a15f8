"""What gradients are asked of: a network, a loss and examples; and what is seen to be wrong with them in advance."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sgdvi_lite import _checks
from sgdvi_lite.gradients.conditions import State
from sgdvi_lite.gradients.examples import Examples, count, each, integers, leaves, take, tensors

Loss = Callable[[Tensor, Tensor], Tensor]
FAULTS = RuntimeError, IndexError, TypeError
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Problem:
    """A network, a loss, and ``N`` examples in tensors; the trainable weights, and the state that the network is in."""

    model: nn.Module
    loss: Loss
    x: Examples
    y: Examples
    N: int
    weights: list[nn.Parameter]
    state: State

    @classmethod
    def of(cls, model: nn.Module, loss: Loss, x: Examples, y: Examples) -> Problem:
        """The problem, unless something is wrong with the network or the lengths."""
        x, y = tensors("x", x), tensors("y", y)
        N = count(x, y)
        _check_modes(model)
        return cls(model, loss, x, y, N, _checked_weights(model), State(model))

    def take(self, rows: slice | Tensor) -> tuple[Examples, Examples]:
        """Some of the inputs and targets."""
        return take(self.x, rows), take(self.y, rows)

    def extremes(self) -> list[int]:
        """The first example, and those with the least and the largest integers: tokens or labels."""
        found = [t.reshape(self.N, -1) for t in integers((self.x, self.y)) if t.numel()]
        pairs = [(int(t.amin(1).argmin()), int(t.amax(1).argmax())) for t in found]
        return list(dict.fromkeys([0, *(k for pair in pairs for k in pair)]))

    def try_one(self, k: int) -> bool:
        """Compute the loss of one example, and raise with advice if that fails; whether it depends on weights.

        Raises
        ------
        ValueError
            If dtypes or devices do not fit, a token or label is out of range, or the loss is no scalar.
        """
        x, y = self.take(slice(k, k + 1))
        try:
            output = self.model(x)
        except FAULTS as fault:
            expected = f"those that the model has a row for, unlike one of example {k}; number the tokens anew"
            raise explained(fault, "x", self.x, self.weights[0], expected) from fault
        try:
            if any(t.is_cuda for t in leaves(y)):  # there a label out of range would end the process
                with suppress(RuntimeError):
                    self.loss(*(each(Tensor.cpu, tree) for tree in (output, y)))
            value = self.loss(output, y)
        except FAULTS as fault:
            like = output if isinstance(output, Tensor) and output.ndim > 1 else None
            expected = "" if like is None else f"0 to {like.shape[1] - 1}, the model's outputs; relabel the classes"
            raise explained(fault, "y", self.y, like, expected) from fault
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        fault = f"loss: gave shape {shape} for a batch of one; expected a scalar; use reduction='mean'"
        _checks.require(shape == (), fault)
        self.state.restore()
        return value.requires_grad


def explained(fault: Exception, name: str, values: Examples, like: Tensor | None, expected: str) -> Exception:
    """What an error is due to, if devices, dtypes or integers do not fit; or the error, with a note on its place."""
    why = in_short(fault)
    for t in [] if like is None else leaves(values):
        if t.device != like.device or (t.is_floating_point() and t.dtype != like.dtype):
            text = f"{name} is {t.dtype} on {t.device}, the model {like.dtype} on {like.device}: expected the same; "
            return ValueError(f"{text}convert one with .to(dtype=..., device=...) ({why})")
    if isinstance(fault, IndexError) and like is not None and integers(values):
        low, high = torch.cat([t.reshape(-1).long() for t in integers(values)]).aminmax()
        return ValueError(f"{name} has integers from {low} to {high}: expected {expected} ({why})")
    fault.add_note(f"the {'model' if name == 'x' else 'loss'} fails on a batch of one, such as x[:1] and y[:1]")
    return fault


def check_finite(gradients: Tensor, first: int) -> None:
    """Raise if a gradient, counted from ``first``, is NaN or infinite."""
    _checks.finite("gradients", gradients, first, "lower the learning rate if training diverged, or remove the example")


def in_short(fault: Exception) -> str:
    """The first sentence of an error."""
    return (str(fault).strip() or type(fault).__name__).splitlines()[0].split(". ")[0][:150]


def _check_modes(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        drops = isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0
        what = f"model: {type(layer).__name__} {name!r} is in training mode, where examples are "
        fault = what + f"{'mixed' if mixes else 'dropped at random'}; call model.eval() first"
        _checks.require(not (layer.training and (mixes or drops)), fault)


def _checked_weights(model: nn.Module) -> list[nn.Parameter]:
    lazy = [name for name, p in model.named_parameters() if nn.parameter.is_lazy(p) or p.is_meta or p.is_inference()]
    fault = f"model: {', '.join(lazy)}: expected weights with numbers, made outside of torch.inference_mode; call the "
    _checks.require(not lazy, fault + "model once, or load its weights")
    weights = [p for p in model.parameters() if p.requires_grad]
    _checks.require(weights, "model: has no trainable weights; set requires_grad on at least one")
    kinds = {(p.dtype, p.device) for p in weights}
    found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
    fault = f"model: has trainable weights in {found}; expected all in float32, or in float64, on one device; "
    good = len(kinds) == 1 and weights[0].dtype in DTYPES
    _checks.require(good, fault + "convert it with model.float() or model.double()")
    return weights

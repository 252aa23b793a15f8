"""SGD on small fully connected networks by hand: forward, backward and update in arrays that are made once.

At the size of tiny-fc most of a step in PyTorch is bookkeeping, not arithmetic. Here a layer has arrays for all that it
computes (``layers``), activations are (features, batch), so that sums over the batch are products with a vector, and
weights, gradient and velocity are flat vectors of which the layers hold views. Every gradient agrees with autograd to
rounding; a bias below a batch-norm, whose gradient is zero, gets exactly zero.
"""

import re
from typing import NamedTuple

import numpy as np
import torch
from numpy import multiply
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss
from sgdvi_lite.sgd.engines.layers import Layer, Normalised, Rectified, Softmax, Views
from sgdvi_lite.sgd.loop import Engine, Settings


class Block(NamedTuple):
    """A linear layer with what follows it: batch-norm or none, and for all but the last a ReLU."""

    linear: nn.Linear
    norm: nn.BatchNorm1d | None


def blocks(model: nn.Module) -> list[Block] | None:
    """Split a network into blocks, or return None where it is not [Flatten], (Linear, [BatchNorm1d], ReLU)*, Linear."""
    leaves = [layer for _, layer in model.named_modules(remove_duplicate=False) if type(layer) is not nn.Sequential]
    if not re.fullmatch("F?(LB?R)*L", "".join(map(_letter, leaves))):
        return None
    pairs = zip(leaves, [*leaves[1:], None], strict=True)
    return [Block(a, b if type(b) is nn.BatchNorm1d else None) for a, b in pairs if type(a) is nn.Linear]


def _letter(layer: nn.Module) -> str:
    """For a layer that can be done by hand its initial, else a question mark."""
    if type(layer) is nn.Linear:
        return "L" if layer.bias is not None else "?"
    if type(layer) is nn.BatchNorm1d:
        return "B" if layer.affine and layer.track_running_stats and layer.momentum is not None else "?"
    return {nn.Flatten: "F", nn.ReLU: "R"}.get(type(layer), "?")


def applies(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, batch_size: int) -> bool:
    """Whether this module can take the run: such a network, cross entropy, class indices, one dtype, on the CPU."""
    parts = blocks(model)
    values = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point()), x]
    return (
        parts is not None
        and loss is nn.functional.cross_entropy
        and (y.ndim, y.dtype) == (1, torch.int64)
        and x.dtype in (torch.float32, torch.float64)
        and len({v.dtype for v in values}) == 1
        and {v.device.type for v in [*values, y]} == {"cpu"}
        and all(p.requires_grad for p in model.parameters())
        and x[0].numel() == parts[0].linear.in_features
        and (batch_size > 1 or all(norm is None for _, norm in parts))
        and bool((y >= 0).all() & (y < parts[-1].linear.out_features).all())
    )


class FullyConnected(Engine):
    """The layers hold views of the flat weights and gradient; the velocity is of their kind."""

    name = "fully connected, by hand"
    blas_threads = 1

    def __init__(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings):
        parts, chunk, b = blocks(model), settings.chunk, settings.batch_size
        self.model, self._nesterov = model, settings.nesterov
        self.weights = nets.flat_parameters(model)
        self.velocity, gradient, move = (torch.zeros_like(self.weights) for _ in range(3))
        self._arrays = [a.numpy() for a in (self.weights, self.velocity, gradient, move)]
        self._x = np.ascontiguousarray(x.reshape(len(x), -1).numpy())
        self._hot = np.eye(parts[-1].linear.out_features, dtype=self._x.dtype)[y.numpy()]
        self._gathered = [np.zeros((chunk * b, a.shape[1]), a.dtype) for a in (self._x, self._hot)]
        self._inputs, self._targets = (a.reshape(chunk, b, -1).transpose(0, 2, 1) for a in self._gathered)
        self._dots = np.zeros((chunk, 3))
        rates = (settings.lr, settings.momentum, settings.weight_decay)
        self._lr, self._momentum, self._decay = (self._x.dtype.type(value) for value in rates)
        views = ((w.numpy(), g.numpy()) for w, g in zip(*map(self.views, (self.weights, gradient)), strict=True))
        self._layers = _chain(parts, views, chunk, b)
        self._top = self._layers[-1]
        self._forward = [layer.forward for layer in self._layers]
        self._backward = [layer.backward for layer in reversed(self._layers)]

    def prepare(self, index: Tensor, seed: int) -> None:
        """Gather the inputs and targets of the batches; nothing here is random but these."""
        rows, n = index.numpy().reshape(-1), len(index)
        for source, gathered in zip((self._x, self._hot), self._gathered, strict=True):
            np.take(source, rows, axis=0, out=gathered[: len(rows)], mode="clip")
        np.copyto(self._top.targets[:n], self._targets[:n])

    def step(self, k: int) -> None:
        """Make step ``k`` of the chunk."""
        a = self._inputs[k]
        for forward in self._forward:
            a = forward(a, k)
        for backward in self._backward:
            backward(k)
        self._update(self._dots[k])

    def _update(self, dots: np.ndarray) -> None:
        """As :class:`torch.optim.SGD`; notes w.g, v.v and, with the velocity before the step, v.g."""
        w, v, g, move = self._arrays
        if self._decay:
            g += multiply(w, self._decay, out=move)
        dots[0], dots[2] = w.dot(g), v.dot(g)
        v *= self._momentum
        v += g
        dots[1] = v.dot(v)
        if self._nesterov:
            multiply(v, self._momentum, out=move)
            move += g
        w -= multiply(move if self._nesterov else v, self._lr, out=move)

    def log(self, n: int) -> np.ndarray:
        """Loss, w.g, v.v and v.g of the steps of the chunk; moves the running averages on."""
        for layer in self._layers:
            layer.end(n)
        return np.column_stack([self._top.losses(n), self._dots[:n]])

    def snapshot(self) -> np.ndarray:
        """The weights as they stand, for nothing."""
        return self._arrays[0]

    def finish(self) -> None:
        """Write the weights into the network."""
        nets.set_flat_parameters(self.model, self.weights)


def _chain(parts: list[Block], views: Views, chunk: int, b: int) -> list[Layer]:
    """The layers from the input up; each writes its slope into the array that the one below reads."""
    layers = [None]
    for _, norm in parts[:-1]:
        below = layers[-1]
        layers.append(Normalised(views, below, chunk, b, norm) if norm else Rectified(views, below, chunk, b))
    return [*layers[1:], Softmax(views, layers[-1], chunk, b)]

"""SGD on small fully connected networks by hand: forward, backward and update in arrays that are made once.

At the size of tiny-fc most of a step in PyTorch is bookkeeping, not arithmetic. Here a layer is a pair of closures over
NumPy arrays (``_layers``), activations are (features, batch), so that sums over the batch are products with a vector,
and weights, gradient and velocity are flat vectors of which the layers hold views. Every gradient agrees with autograd
to rounding; a bias below a batch-norm, whose gradient is zero, gets exactly zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy import add, multiply, subtract
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.sgd.engines import layers

CHUNK = 32
"""Steps whose batches are gathered at once; their inputs fit in a core's cache."""


class Block(NamedTuple):
    """A linear layer with what follows it: batch-norm or none, and for all but the last a ReLU."""

    linear: nn.Linear
    norm: nn.BatchNorm1d | None


def blocks(model: nn.Module) -> list[Block] | None:
    """Split a network into blocks, or return None where it is not [Flatten], (Linear, [BatchNorm1d], ReLU)*, Linear."""
    leaves = list(_leaves(model))
    rest = leaves[1:] if leaves and type(leaves[0]) is nn.Flatten else leaves
    found = []
    while len(rest) > 2:
        norm = rest[1] if type(rest[1]) is nn.BatchNorm1d else None
        head, rest = rest[: 2 + (norm is not None)], rest[2 + (norm is not None) :]
        if not (_is_linear(head[0]) and type(head[-1]) is nn.ReLU and (norm is None or _is_plain(norm))):
            return None
        found.append(Block(head[0], norm))
    return [*found, Block(rest[0], None)] if len(rest) == 1 and _is_linear(rest[0]) else None


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential:
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _is_linear(layer: nn.Module) -> bool:
    return type(layer) is nn.Linear and layer.bias is not None


def _is_plain(norm: nn.BatchNorm1d) -> bool:
    return norm.affine and norm.track_running_stats and norm.momentum is not None


def applies(model: nn.Module, loss, x: Tensor, y: Tensor, batch_size: int) -> bool:
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


class FullyConnected:
    """The engine: prepare a chunk of batches, make its steps one by one, read their log, give the state."""

    name = "fully connected, by hand"

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, *, lr, batch_size, momentum, nesterov, weight_decay):
        parts = blocks(model)
        self.x = np.ascontiguousarray(x.reshape(len(x), -1).numpy())
        self.hot = np.eye(parts[-1].linear.out_features, dtype=self.x.dtype)[y.numpy()]
        self.weights = nets.flat_parameters(model).numpy().copy()
        self.velocity, self.gradient, self._move = (np.zeros_like(self.weights) for _ in range(3))
        self._dots = np.zeros((CHUNK, 3))
        self._gathered = [np.zeros((CHUNK * batch_size, a.shape[1]), a.dtype) for a in (self.x, self.hot)]
        self._targets = np.zeros((CHUNK, self.hot.shape[1], batch_size), self.x.dtype)
        self._rates = tuple(self.x.dtype.type(value) for value in (lr, momentum, weight_decay))
        self._model, self._nesterov, self._batch_size = model, nesterov, batch_size
        self._build(parts, batch_size)

    def _build(self, parts: list[Block], b: int) -> None:
        """Chain the layers: each writes its slope into the array that the one below reads."""
        weights, gradients = (iter(_views(a, self._model)) for a in (self.weights, self.gradient))
        self._forward, self._backward, self._norms = [], [], []
        source = below = None
        for linear, norm in parts:
            count = 2 if norm is None else 4
            arrays = [[next(side) for _ in range(count)] for side in (weights, gradients)]
            if linear is parts[-1].linear:
                self._top, *self._sums = layers.softmax(*arrays, source, below, CHUNK, b)
            else:
                hidden = layers.normalised(*arrays, source, below, CHUNK, b, norm.eps) if norm else None
                forward, backward, source, below, statistics = hidden or layers.plain(*arrays, source, below, b)
                self._forward.append(forward)
                self._backward.insert(0, backward)
                self._norms += [(norm, statistics)] if norm else []

    def prepare(self, index: Tensor, seed: int) -> None:
        """Gather the batches ``(n, b)`` of the next ``n <= CHUNK`` steps; nothing here is random but they."""
        rows, n = index.numpy().reshape(-1), len(index)
        x, hot = self._gathered
        np.take(self.x, rows, axis=0, out=x[: len(rows)], mode="clip")
        np.take(self.hot, rows, axis=0, out=hot[: len(rows)], mode="clip")
        self._inputs = x.reshape(CHUNK, -1, x.shape[1]).transpose(0, 2, 1)
        np.copyto(self._targets[:n], hot.reshape(CHUNK, -1, hot.shape[1]).transpose(0, 2, 1)[:n])

    def step(self, k: int) -> None:
        """Make step ``k`` of the chunk."""
        a = x = self._inputs[k]
        for forward in self._forward:
            a = forward(a, k)
        self._top(a, self._targets[k], k)
        for backward in self._backward:
            backward(x)
        self._update(self._dots[k])

    def _update(self, dots: np.ndarray) -> None:
        """As :class:`torch.optim.SGD`; notes w.g, v.v and, with the velocity before the step, v.g."""
        w, v, g, move = self.weights, self.velocity, self.gradient, self._move
        lr, momentum, decay = self._rates
        if decay:
            multiply(w, decay, out=move)
            add(g, move, out=g)
        dots[0], dots[2] = w.dot(g), v.dot(g)
        multiply(v, momentum, out=v)
        add(v, g, out=v)
        dots[1] = v.dot(v)
        if self._nesterov:
            multiply(v, momentum, out=move)
            add(move, g, out=move)
            multiply(move, lr, out=move)
        else:
            multiply(v, lr, out=move)
        subtract(w, move, out=w)

    def log(self, n: int) -> np.ndarray:
        """Loss, w.g, v.v and v.g of the ``n`` steps of the chunk, ``(n, 4)``; updates the running averages."""
        logits, top, total = self._sums
        right = np.einsum("kx,kx->k", logits[:n].reshape(n, -1), self._targets[:n].reshape(n, -1))
        loss = (top[:n, 0] + np.log(total[:n, 0])).mean(axis=1, dtype=np.float64) - right / self._batch_size
        for norm, statistics in self._norms:
            _average(norm, statistics[:, :n], self._batch_size)
        return np.column_stack([loss, self._dots[:n]])

    def state(self) -> dict:
        """Weights, velocity and running averages."""
        return {
            "weights": torch.from_numpy(self.weights.copy()),
            "velocity": torch.from_numpy(self.velocity.copy()),
            "buffers": {name: value.clone() for name, value in self._model.named_buffers()},
        }

    def load(self, state: dict) -> None:
        """Continue from such a state."""
        self.weights[:], self.velocity[:] = state["weights"].numpy(), state["velocity"].numpy()
        for name, buffer in self._model.named_buffers():
            buffer.copy_(state["buffers"][name])

    def snapshot(self) -> np.ndarray:
        """The weights ``(d,)`` as they stand; not a copy."""
        return self.weights

    def finish(self) -> None:
        """Write the weights into the network."""
        nets.set_flat_parameters(self._model, torch.from_numpy(self.weights))


def _views(array: np.ndarray, model: nn.Module) -> Iterator[np.ndarray]:
    """Parts of a flat array in the shapes of the network's parameters."""
    position = 0
    for p in model.parameters():
        yield array[position : position + p.numel()].reshape(p.shape)
        position += p.numel()


def _average(norm: nn.BatchNorm1d, statistics: np.ndarray, b: int) -> None:
    """Move the running mean and variance on by the batches of a chunk, all at once."""
    n, keep = statistics.shape[1], 1 - norm.momentum
    fade = (norm.momentum * keep ** np.arange(n - 1, -1, -1.0)).astype(statistics.dtype)
    for running, values, scale in zip((norm.running_mean, norm.running_var), statistics, (1, b / (b - 1)), strict=True):
        running = running.numpy()
        running *= keep**n
        running += scale * (fade @ values)
    norm.num_batches_tracked += n

"""SGD on small fully connected networks by hand: forward, backward and update in arrays that are made once.

At the size of tiny-fc most of a step in PyTorch is bookkeeping, not arithmetic. Here a layer has arrays for all that it
computes, activations are (features, batch), so that sums over the batch are products with a vector, and weights,
gradient and velocity are flat vectors of which the layers hold views. Every gradient agrees with autograd to rounding;
a bias below a batch-norm, whose gradient is zero, gets exactly zero.

Of a layer ``forward(x, k)`` takes the input in step ``k`` of a chunk and returns the output. ``backward(k)`` reads the
slope of the mean loss in that output, times the batch size, from the layer's own array, writes the gradient of its
weights, and the slope in its input into the array of the layer below.
"""

import re
from collections.abc import Iterator

import numpy as np
import torch
from numpy import add, divide, exp, matmul, maximum, multiply, reciprocal, sign, sqrt, subtract
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss
from sgdvi_lite.sgd.contract import CHUNK, Engine, Settings

# Each parameter and its gradient, in order, of which a layer takes its own; what has a number a feature is a column
Views = Iterator[tuple[np.ndarray, np.ndarray]]
Block = tuple[nn.Linear, nn.BatchNorm1d | None]  # a linear layer, with its norm; but for the last a ReLU follows
LETTERS = {nn.Flatten: "F", nn.Linear: "L", nn.BatchNorm1d: "B", nn.ReLU: "R"}


def blocks(model: nn.Module) -> list[Block] | None:
    """Split a network into blocks, or return None where it is not [Flatten], (Linear, [BatchNorm1d], ReLU)*, Linear."""
    leaves = [layer for _, layer in model.named_modules(remove_duplicate=False) if type(layer) is not nn.Sequential]
    if not re.fullmatch("F?(LB?R)*L", "".join(LETTERS.get(type(layer), "?") for layer in leaves)):
        return None
    pairs = zip(leaves, [*leaves[1:], None], strict=True)
    return [(a, b if type(b) is nn.BatchNorm1d else None) for a, b in pairs if type(a) is nn.Linear]


def applies(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> bool:
    """Whether a trial is worth while: such a network, cross entropy, labels of its classes, on the CPU."""
    parts = blocks(model)
    return (
        parts is not None
        and loss is nn.functional.cross_entropy
        and x.device.type == "cpu"
        and y.dtype == torch.int64
        and not any(map(_has_hooks, model.modules()))
        and bool((y >= 0).all() & (y < parts[-1][0].out_features).all())
    )


def _has_hooks(module: nn.Module) -> bool:
    """Whether something of the user's is called with each pass: by hand there is no pass through the modules."""
    own = [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]
    return any(own) or any(p._backward_hooks for p in module.parameters(recurse=False))


class Layer:
    """What all layers have: a linear part, and arrays. A mean over the ``b`` examples is a product with ``share``."""

    def __init__(self, views: Views, below: "Layer | None", chunk: int, b: int):
        self.W, self.dW = next(views)
        self.bias, self.dbias = next(views)
        self.below = below
        self.W_transposed = self.W.T
        self.out, self.slope, self.work, self.zeros = (np.zeros((len(self.W), b), self.W.dtype) for _ in range(4))
        self.share = np.full((b, 1), 1 / b, self.W.dtype)
        self.inverse = self.share[0, 0]

    def end(self, n: int) -> None:
        """What is done once for the ``n`` steps of a chunk, after the last: nothing here."""

    def _affine(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """``W x + bias``; the input is kept for the way back."""
        self.x = x
        return add(matmul(self.W, x, out=out), self.bias, out=out)

    def _through_affine(self) -> None:
        matmul(self.slope, self.share, out=self.dbias)
        self._through_linear()

    def _through_linear(self) -> None:
        matmul(self.slope, self.x.T, out=self.dW)
        self.dW *= self.inverse
        if self.below is not None:
            matmul(self.W_transposed, self.slope, out=self.below.slope)


class Rectified(Layer):
    """``max(W x + bias, 0)``."""

    def forward(self, x: np.ndarray, k: int) -> np.ndarray:
        """Output of the layer."""
        return maximum(self._affine(x, self.out), self.zeros, out=self.out)

    def backward(self, k: int) -> None:
        """Through the ReLU, the bias and the linear part."""
        self.slope *= sign(self.out, out=self.work)
        self._through_affine()


class Normalised(Layer):
    """Linear, batch-norm and ReLU.

    With Z the centred input of the batch-norm, r = (var + eps)^(-1/2) and s = r gamma, the output is
    max(s Z + beta, 0); backwards, dZ = s (dY - mean(dY) - c Z) with c = r^2 mean(dY Z).
    """

    def __init__(self, views: Views, below: Layer | None, chunk: int, b: int, norm: nn.BatchNorm1d):
        super().__init__(views, below, chunk, b)
        self.gamma, self.dgamma = next(views)
        self.beta, self.dbeta = next(views)
        self.norm = norm
        self.eps = self.W.dtype.type(norm.eps)
        self.means, self.variances = np.zeros((2, chunk, len(self.W), 1), self.W.dtype)
        self.Z = np.zeros_like(self.out)
        self.mean, self.r, self.s, self.c = (np.zeros_like(self.bias) for _ in range(4))

    def forward(self, x: np.ndarray, k: int) -> np.ndarray:
        """Output of the layer; notes mean and variance of the batch."""
        Z, out, r = self.Z, self.out, self.r
        self.x = x
        matmul(matmul(self.W, x, out=Z), self.share, out=self.mean)
        Z -= self.mean
        add(self.mean, self.bias, out=self.means[k])
        var = matmul(multiply(Z, Z, out=self.work), self.share, out=self.variances[k])
        reciprocal(sqrt(add(var, self.eps, out=r), out=r), out=r)
        multiply(r, self.gamma, out=self.s)
        multiply(Z, self.s, out=out)
        out += self.beta
        return maximum(out, self.zeros, out=out)

    def backward(self, k: int) -> None:
        """Through the ReLU, the batch-norm and the linear part."""
        slope, work, dgamma = self.slope, self.work, self.dgamma
        slope *= sign(self.out, out=work)
        matmul(slope, self.share, out=self.dbeta)
        self.dbias.fill(0)  # exactly, and again each step: weight decay is added to it in place
        matmul(multiply(slope, self.Z, out=work), self.share, out=dgamma)
        dgamma *= self.r
        multiply(dgamma, self.r, out=self.c)
        slope -= multiply(self.Z, self.c, out=work)
        slope -= self.dbeta
        slope *= self.s
        self._through_linear()

    def end(self, n: int) -> None:
        """Move the running mean and variance on by the ``n`` batches of a chunk, all at once."""
        norm, b, keep = self.norm, len(self.share), 1 - self.norm.momentum
        fade = (norm.momentum * keep ** np.arange(n - 1, -1, -1.0)).astype(self.W.dtype)
        unbiased = b / (b - 1)
        for buffer, values, scale in ((norm.running_mean, self.means, 1), (norm.running_var, self.variances, unbiased)):
            buffer.mul_(keep**n).add_(torch.from_numpy(scale * (fade @ values[:n, :, 0])))
        norm.num_batches_tracked += n


class Softmax(Layer):
    """Linear, softmax and cross entropy with the ``targets`` of step ``k``, which are ones and zeros."""

    def __init__(self, views: Views, below: Layer | None, chunk: int, b: int):
        super().__init__(views, below, chunk, b)
        self.logits, self.targets = (np.zeros((chunk, *self.out.shape), self.W.dtype) for _ in range(2))
        self.top, self.total = np.zeros((2, chunk, 1, b), self.W.dtype)

    def forward(self, x: np.ndarray, k: int) -> np.ndarray:
        """Probabilities of the classes; notes the logits, their maximum and the sum of exp."""
        z = self._affine(x, self.logits[k])
        P = self.slope
        exp(subtract(z, maximum.reduce(z, axis=0, out=self.top[k], keepdims=True), out=P), out=P)
        return divide(P, add.reduce(P, axis=0, out=self.total[k], keepdims=True), out=P)

    def backward(self, k: int) -> None:
        """Through the loss, the bias and the linear part."""
        self.slope -= self.targets[k]
        self._through_affine()

    def losses(self, n: int) -> np.ndarray:
        """Mean loss of each of the first ``n`` batches of the chunk."""
        right = np.einsum("kx,kx->k", self.logits[:n].reshape(n, -1), self.targets[:n].reshape(n, -1))
        log_sum = self.top[:n, 0] + np.log(self.total[:n, 0])
        return log_sum.mean(axis=1, dtype=np.float64) - right / len(self.share)


class FullyConnected(Engine):
    """The layers hold views of the flat weights and gradient; the velocity is of their kind."""

    name = "fully connected, by hand"
    blas_threads = 1

    def __init__(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings):
        parts, chunk, b = blocks(model), CHUNK, settings.batch_size
        self.model, self._nesterov = model, settings.nesterov
        self.weights = nets.flat_parameters(model)
        self.velocity, gradient, move = (torch.zeros_like(self.weights) for _ in range(3))
        self._arrays = [a.numpy() for a in (self.weights, self.velocity, gradient, move)]
        self._x = np.ascontiguousarray(x.reshape(len(x), -1).numpy())
        self._hot = np.eye(parts[-1][0].out_features, dtype=self._x.dtype)[y.numpy()]
        self._gathered = [np.zeros((chunk * b, a.shape[1]), a.dtype) for a in (self._x, self._hot)]
        self._inputs, self._targets = (a.reshape(chunk, b, -1).transpose(0, 2, 1) for a in self._gathered)
        self._dots = np.zeros((chunk, 3))
        rates = (settings.lr, settings.momentum, settings.weight_decay)
        self._lr, self._momentum, self._decay = (self._x.dtype.type(value) for value in rates)
        self._layers = _chain(parts, _views(model, self.weights, gradient), chunk, b)
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


def _views(model: nn.Module, weights: Tensor, gradient: Tensor) -> Views:
    parameters = list(model.parameters())
    flat = (vector.split([p.numel() for p in parameters]) for vector in (weights, gradient))
    return ((w.view(len(p), -1).numpy(), g.view(len(p), -1).numpy()) for p, w, g in zip(parameters, *flat, strict=True))


def _chain(parts: list[Block], views: Views, chunk: int, b: int) -> list[Layer]:
    """The layers from the input up; each writes its slope into the array that the one below reads."""
    layers = [None]
    for _, norm in parts[:-1]:
        below = layers[-1]
        layers.append(Normalised(views, below, chunk, b, norm) if norm else Rectified(views, below, chunk, b))
    return [*layers[1:], Softmax(views, layers[-1], chunk, b)]

"""Layers of a fully connected network on arrays made once; activations are (features, batch).

``forward(x, k)`` takes a layer's input in step ``k`` of a chunk and returns its output. ``backward(k)`` reads the slope
of the mean loss in that output, times the batch size, from the layer's own array, writes the gradient of its weights,
and the slope in its input into the array of the layer below.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy import add, divide, exp, matmul, maximum, multiply, reciprocal, sign, sqrt, subtract
from torch import nn

Views = Iterator[tuple[np.ndarray, np.ndarray]]
"""Each parameter of a network and its gradient, in their order; a layer takes those that are its own."""


class Layer:
    """What all layers have: a linear part, and arrays. A mean over the ``b`` examples is a product with ``share``."""

    def __init__(self, views: Views, below: Layer | None, chunk: int, b: int):
        self.W, self.dW = next(views)
        self.bias, self.dbias = next(views)
        self.below = below
        self.W_transposed = self.W.T
        self.bias_column = self.bias[:, None]
        self.out, self.slope, self.work, self.zeros = (np.zeros((len(self.W), b), self.W.dtype) for _ in range(4))
        self.share = np.full(b, 1 / b, self.W.dtype)
        self.inverse = self.share[0]

    def end(self, n: int) -> None:
        """What is done once for the ``n`` steps of a chunk, after the last: nothing here."""

    def _affine(self, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """``W x + bias``; the input is kept for the way back."""
        self.x = x
        return add(matmul(self.W, x, out=out), self.bias_column, out=out)

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
        self.means, self.variances = np.zeros((2, chunk, len(self.W)), self.W.dtype)
        self.Z = np.zeros_like(self.out)
        self.mean, self.r, self.s, self.c = (np.zeros_like(self.bias) for _ in range(4))
        columns = (a[:, None] for a in (self.mean, self.s, self.c, self.beta, self.dbeta))
        self.mean_column, self.s_column, self.c_column, self.beta_column, self.dbeta_column = columns

    def forward(self, x: np.ndarray, k: int) -> np.ndarray:
        """Output of the layer; notes mean and variance of the batch."""
        Z, out, r = self.Z, self.out, self.r
        self.x = x
        matmul(matmul(self.W, x, out=Z), self.share, out=self.mean)
        Z -= self.mean_column
        add(self.mean, self.bias, out=self.means[k])
        var = matmul(multiply(Z, Z, out=self.work), self.share, out=self.variances[k])
        reciprocal(sqrt(add(var, self.eps, out=r), out=r), out=r)
        multiply(r, self.gamma, out=self.s)
        multiply(Z, self.s_column, out=out)
        out += self.beta_column
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
        slope -= multiply(self.Z, self.c_column, out=work)
        slope -= self.dbeta_column
        slope *= self.s_column
        self._through_linear()

    def end(self, n: int) -> None:
        """Move the running mean and variance on by the ``n`` batches of a chunk, all at once."""
        norm, b, keep = self.norm, len(self.share), 1 - self.norm.momentum
        fade = (norm.momentum * keep ** np.arange(n - 1, -1, -1.0)).astype(self.W.dtype)
        unbiased = b / (b - 1)
        for buffer, values, scale in ((norm.running_mean, self.means, 1), (norm.running_var, self.variances, unbiased)):
            running = buffer.numpy()
            running *= keep**n
            running += scale * (fade @ values[:n])
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

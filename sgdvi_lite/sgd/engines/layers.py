"""Layers of a fully connected network as closures over arrays made once; activations are (features, batch).

``forward(x, k)`` takes the layer's input in step ``k`` of a chunk and returns its output. ``backward(x)`` takes the
input of the network, reads the slope of the mean loss in the layer's output, times the batch size, from its own array,
writes the gradient of the layer's weights, and the slope in its input into the array of the layer below.
"""

from __future__ import annotations

import numpy as np
from numpy import add, divide, exp, matmul, maximum, multiply, reciprocal, sign, sqrt, subtract

Arrays = list[np.ndarray]


def plain(weights: Arrays, gradients: Arrays, source, below, b: int):
    """Linear and ReLU. Returns forward, backward, the output, its slope, and no statistics."""
    (W, bias), (dW, dbias) = weights, gradients
    out, slope, sign_of, zeros = (np.zeros((len(W), b), W.dtype) for _ in range(4))
    share, column = np.full(b, 1 / b, W.dtype), bias[:, None]
    finish = _linear_backward(W, dW, source, below, slope, b)

    def forward(x, k):
        matmul(W, x, out=out)
        add(out, column, out=out)
        return maximum(out, zeros, out=out)

    def backward(x):
        sign(out, out=sign_of)
        multiply(slope, sign_of, out=slope)
        matmul(slope, share, out=dbias)
        finish(x)

    return forward, backward, out, slope, None


def normalised(weights: Arrays, gradients: Arrays, source, below, chunk: int, b: int, eps: float):
    """Linear, batch-norm and ReLU. Returns forward, backward, the output, its slope, mean and variance by step.

    With Z the centred input of the batch-norm, r = (var + eps)^(-1/2) and s = r gamma, the output is
    max(s Z + beta, 0); backwards, dZ = s (dY - mean(dY) - r^2 mean(dY Z) Z). A mean over the batch is a product with
    ``share``.
    """
    (W, bias, gamma, beta), (dW, dbias, dgamma, dbeta) = weights, gradients
    out, slope, Z, work, zeros = (np.zeros((len(W), b), W.dtype) for _ in range(5))
    means, variances = statistics = np.zeros((2, chunk, len(W)), W.dtype)
    mean, var, r, s, c = (np.zeros(len(W), W.dtype) for _ in range(5))
    mean_c, s_c, c_c, beta_c, dbeta_c = (a[:, None] for a in (mean, s, c, beta, dbeta))
    share, eps = np.full(b, 1 / b, W.dtype), W.dtype.type(eps)
    finish = _linear_backward(W, dW, source, below, slope, b)

    def forward(x, k):
        matmul(W, x, out=Z)
        matmul(Z, share, out=mean)
        subtract(Z, mean_c, out=Z)
        multiply(Z, Z, out=work)
        variances[k] = matmul(work, share, out=var)
        add(mean, bias, out=means[k])
        reciprocal(sqrt(add(var, eps, out=r), out=r), out=r)
        multiply(r, gamma, out=s)
        multiply(Z, s_c, out=out)
        add(out, beta_c, out=out)
        return maximum(out, zeros, out=out)

    def backward(x):
        sign(out, out=work)
        multiply(slope, work, out=slope)
        matmul(slope, share, out=dbeta)
        dbias.fill(0)  # exactly, and again each step: weight decay is added to it in place
        multiply(slope, Z, out=work)
        multiply(matmul(work, share, out=c), r, out=dgamma)
        multiply(dgamma, r, out=c)
        multiply(Z, c_c, out=work)
        subtract(slope, work, out=slope)
        subtract(slope, dbeta_c, out=slope)
        multiply(slope, s_c, out=slope)
        finish(x)

    return forward, backward, out, slope, statistics


def softmax(weights: Arrays, gradients: Arrays, source, below, chunk: int, b: int):
    """Linear, softmax and cross entropy. Returns forward with backward, logits, their maximum, the sums of exp."""
    (W, bias), (dW, dbias) = weights, gradients
    logits = np.zeros((chunk, len(W), b), W.dtype)
    top, total = np.zeros((2, chunk, 1, b), W.dtype)
    P, share, column = np.zeros((len(W), b), W.dtype), np.full(b, 1 / b, W.dtype), bias[:, None]
    finish = _linear_backward(W, dW, source, below, P, b)

    def both(x, target, k):
        z = logits[k]
        matmul(W, x, out=z)
        add(z, column, out=z)
        subtract(z, maximum.reduce(z, axis=0, out=top[k], keepdims=True), out=P)
        exp(P, out=P)
        divide(P, add.reduce(P, axis=0, out=total[k], keepdims=True), out=P)
        subtract(P, target, out=P)
        matmul(P, share, out=dbias)
        finish(x)

    return both, logits, top, total


def _linear_backward(W: np.ndarray, dW: np.ndarray, source, below, slope: np.ndarray, b: int):
    """The linear part of a layer backwards; ``source`` is its input, or None for the input of the network."""
    inverse, flipped = W.dtype.type(1 / b), W.T

    def backward(x):
        matmul(slope, (x if source is None else source).T, out=dW)
        multiply(dW, inverse, out=dW)
        if below is not None:
            matmul(flipped, slope, out=below)

    return backward

"""Per-example gradients layer by layer, from one backward pass for all examples.

The gradient of a linear layer's weights for one example is an outer product: of the gradient ``delta`` at the layer's
output and of its input ``a``, to which a bias adds a constant 1. Kept as two factors it costs ``out + in`` numbers
instead of ``out * in``, and inner products of gradients cost as much less. Convolutions and batch-norm give rows.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


class Rows(NamedTuple):
    """Gradients of ``w`` weights as they are, (n, w)."""

    rows: Tensor

    def write(self, out: Tensor) -> None:
        """Write the gradients into ``out (n, w)``."""
        out.copy_(self.rows)

    def add_gram(self, other: "Rows", K: Tensor, work: Tensor) -> None:
        """Add the inner products with the gradients of other examples to ``K (n, n')``."""
        K.addmm_(self.rows, other.rows.T)

    def matmul(self, V: Tensor) -> Tensor:
        """Inner products (n, m) of the gradients with the columns of ``V (w, m)``."""
        return self.rows @ V

    def transposed_matmul(self, U: Tensor) -> Tensor:
        """Sums (w, m) of the gradients, weighted by the columns of ``U (n, m)``."""
        return self.rows.T @ U


class Outer(NamedTuple):
    """Gradients ``delta_k a_k^T`` of a linear layer's weights, as the factors (n, out) and (n, in)."""

    delta: Tensor
    a: Tensor

    def write(self, out: Tensor) -> None:
        """Write the gradients into ``out (n, w)``."""
        torch.mul(self.delta[:, :, None], self.a[:, None, :], out=out.unflatten(1, (self.delta.shape[1], -1)))

    def add_gram(self, other: "Outer", K: Tensor, work: Tensor) -> None:
        """Add the inner products with the gradients of other examples to ``K (n, n')``; ``work (2, n, n')`` is used."""
        K.addcmul_(torch.mm(self.delta, other.delta.T, out=work[0]), torch.mm(self.a, other.a.T, out=work[1]))

    def matmul(self, V: Tensor) -> Tensor:
        """Inner products (n, m) of the gradients with the columns of ``V (w, m)``."""
        (n, rows), (_, columns), m = self.delta.shape, self.a.shape, V.shape[1]
        VT = V.view(rows, columns, m).transpose(0, 1).reshape(columns, rows * m)
        return torch.bmm(self.delta[:, None, :], (self.a @ VT).view(n, rows, m))[:, 0]

    def transposed_matmul(self, U: Tensor) -> Tensor:
        """Sums (w, m) of the gradients, weighted by the columns of ``U (n, m)``."""
        weighted = (self.a[:, :, None] * U[:, None, :]).flatten(1)
        return (self.delta.T @ weighted).view(-1, U.shape[1])


Part = Rows | Outer  # gradients of n examples for the weights of one parameter: one tensor (n, w), or two factors


def widths(parts: list[Part]) -> list[int]:
    """Number of weights of each part."""
    return [math.prod(tensor.shape[1] for tensor in part) for part in parts]


def unknown_layer(model: nn.Module) -> str | None:
    """Why :func:`layer_by_layer` cannot be used for a network: the layer that it does not know, or ``None``."""
    seen: set[int] = set()
    for name, layer in model.named_modules():
        title = f"{type(layer).__name__} {name!r}"
        parameters = list(layer.parameters(recurse=False))
        trained = {id(p) for p in parameters if p.requires_grad}
        if getattr(layer, "inplace", False):
            return f"{title} works in place"
        if trained and not (_is_known(layer) and all(p.requires_grad for p in parameters)):
            return f"{title} is none of {', '.join(t.__name__ for t in KNOWN)}, plain and whole"
        if seen & trained:
            return f"{title} shares its weights with another layer"
        seen |= trained
    return None


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return type(layer) in KNOWN


def layer_by_layer(model: nn.Module, loss) -> Callable[[Tensor, Tensor], list[Part]]:
    """The fast path: gradients of each example with respect to all trainable weights; see :func:`unknown_layer`."""
    layers = [m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]

    def of_each(x: Tensor, y: Tensor) -> list[Part]:
        """For the weights in the order of ``model.parameters()``."""
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        with ExitStack() as hooks, torch.enable_grad():
            for layer in layers:
                hooks.enter_context(layer.register_forward_hook(lambda m, i, o: calls.append((m, i[0], o))))
            total = _sum_of_losses(loss, model(x), y)
        deltas = torch.autograd.grad(total, [output for _, _, output in calls])
        passed = {layer: (a.detach(), delta) for (layer, a, _), delta in zip(calls, deltas, strict=True)}
        if len(calls) != len(layers) or len(passed) != len(layers):
            raise NotImplementedError("a layer is not used exactly once")
        return [part for layer in layers for part in KNOWN[type(layer)](layer, *passed[layer])]

    return of_each


def _sum_of_losses(loss, output: Tensor, y: Tensor) -> Tensor:
    """Each example counts as a batch of its own. For cross entropy torch adds them up itself, and faster."""
    if loss is nn.functional.cross_entropy:
        return loss(output, y, reduction="sum")
    return torch.func.vmap(loss)(output[:, None], y[:, None]).sum()


def _linear(layer: nn.Linear, a: Tensor, delta: Tensor) -> list[Part]:
    if a.ndim != 2:
        raise NotImplementedError("the input of a linear layer is no (n, in)")
    return [Outer(delta, a)] + ([Rows(delta)] if layer.bias is not None else [])


def _conv2d(layer: nn.Conv2d, a: Tensor, delta: Tensor) -> list[Part]:
    n, shape = len(a), layer.weight.shape
    image, change = (t.reshape(1, -1, *t.shape[2:]) for t in (a, delta))  # one image, n groups of channels
    size = (n * shape[0], *shape[1:])
    weight = conv2d_weight(image, size, change, layer.stride, layer.padding, layer.dilation, groups=n)
    return [Rows(weight.view(n, -1))] + ([Rows(delta.flatten(2).sum(2))] if layer.bias is not None else [])


def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, a: Tensor, delta: Tensor) -> list[Part]:
    a, delta = (t.reshape(*t.shape[:2], -1) for t in (a, delta))
    bias, product = delta.sum(2), torch.einsum("ncl,ncl->nc", delta, a)
    weight = (product - layer.running_mean * bias) * (layer.running_var + layer.eps).rsqrt()
    return [Rows(weight), Rows(bias)]


# Layers whose gradients are computed here, and how: from their input and the gradient at their output.
KNOWN = {nn.Linear: _linear, nn.Conv2d: _conv2d, nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm}


@torch.no_grad()
def rows(parts: list[Part], out: Tensor | None = None) -> Tensor:
    """The gradients (n, d) that the parts stand for, written into the first rows of ``out`` if given."""
    like, n = parts[0][0], len(parts[0][0])
    out = like.new_empty(n, sum(widths(parts))) if out is None else out[:n]
    for part, columns in zip(parts, out.split(widths(parts), dim=1), strict=True):
        part.write(columns)
    return out

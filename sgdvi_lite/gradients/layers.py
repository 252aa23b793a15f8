"""Per-example gradients layer by layer, from one backward pass for all examples.

The gradient of a linear layer's weights for one example is an outer product: of the gradient ``delta`` at the layer's
output and of its input ``a``, to which a bias adds a constant 1. Kept as two factors it costs ``out + in`` numbers
instead of ``out * in``, and inner products of gradients cost as much less. Convolutions and batch-norm give rows.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.grad import conv2d_weight

from sgdvi_lite.gradients.examples import Examples, dims, each, leaves


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

    def witness(self) -> Tensor:
        """A number that is finite only if all of the gradients are."""
        return self.rows.sum()


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
        if rows < columns:  # what lies between the two products is smaller the other way round
            return Outer(self.a, self.delta).matmul(V.view(rows, columns, m).transpose(0, 1).reshape(-1, m))
        between = self.delta @ V.reshape(rows, columns * m)
        return torch.bmm(self.a[:, None, :], between.view(n, columns, m))[:, 0]

    def transposed_matmul(self, U: Tensor) -> Tensor:
        """Sums (w, m) of the gradients, weighted by the columns of ``U (n, m)``."""
        rows, columns, m = self.delta.shape[1], self.a.shape[1], U.shape[1]
        if rows < columns:
            swapped = Outer(self.a, self.delta).transposed_matmul(U)
            return swapped.view(columns, rows, m).transpose(0, 1).reshape(-1, m)
        weighted = (self.a[:, :, None] * U[:, None, :]).flatten(1)
        return (self.delta.T @ weighted).view(-1, m)

    def witness(self) -> Tensor:
        """A number that is finite only if all of the gradients are: the products, not only the factors."""
        return torch.linalg.vector_norm(self.delta) * torch.linalg.vector_norm(self.a)


Part = Rows | Outer  # gradients of n examples for the weights of one parameter: one tensor (n, w), or two factors


def widths(parts: list[Part]) -> list[int]:
    """Number of weights of each part."""
    return [math.prod(tensor.shape[1] for tensor in part) for part in parts]


def _check_known(model: nn.Module) -> None:
    """Raise if :func:`layer_by_layer` does not know a layer of a network."""
    seen: set[int] = set()
    for name, layer in model.named_modules():
        own = {role: p for role, p in layer.named_parameters(recurse=False)}
        trained = {id(p) for p in own.values() if p.requires_grad}
        if trained and not (_is_known(layer) and own.keys() <= ROLES and all(p.requires_grad for p in own.values())):
            names = ", ".join(t.__name__ for t in KNOWN)
            raise NotImplementedError(f"{type(layer).__name__} {name!r} is none of {names}, plain and whole")
        if seen & trained:
            raise NotImplementedError(f"{type(layer).__name__} {name!r} shares its weights with another layer")
        seen |= trained


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None:
        return False  # it mixes the examples of a batch, in evaluation mode too
    return type(layer) in KNOWN


class Call(NamedTuple):
    """What is noted of the use of a layer: its input, and where in the graph its output and its input are made.

    The gradient is asked for at that place: if the output is changed in place afterwards, the tensor is made elsewhere.
    """

    layer: nn.Module
    a: Tensor
    version: int
    shape: torch.Size
    output: GradientEdge
    input: Node | None


def layer_by_layer(model: nn.Module, loss) -> Callable[[Examples, Examples], list[Part]]:
    """The fast way: gradients of each example with respect to all trainable weights.

    Raises
    ------
    NotImplementedError
        Here, if a layer is not known; from what is returned, if layers or their weights are used otherwise.
    """
    _check_known(model)
    layers = [m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    weights = {get_gradient_edge(p).node for p in model.parameters() if p.requires_grad}

    def of_each(x: Examples, y: Examples) -> list[Part]:
        """For the weights in the order of ``model.parameters()``."""
        calls: list[Call] = []
        with ExitStack() as hooks, torch.enable_grad():
            for layer in layers:
                hooks.enter_context(layer.register_forward_hook(partial(_note, calls), prepend=True, with_kwargs=True))
            total = _sum_of_losses(loss, model(x), y)
        if len(calls) != len(layers) or len({call.layer for call in calls}) != len(layers):
            raise NotImplementedError("a layer is not used exactly once")
        if _reaches(total, weights, calls):
            raise NotImplementedError("the loss depends on weights by another way than through their layer")
        deltas = torch.autograd.grad(total, [call.output for call in calls], allow_unused=True)
        if any(call.a._version != call.version for call in calls):
            raise NotImplementedError("the input of a layer is changed in place")
        passed = {call.layer: (call, delta) for call, delta in zip(calls, deltas, strict=True)}
        return [part for layer in layers for part in _parts(len(leaves(x)[0]), *passed[layer])]

    return of_each


def _note(calls: list[Call], layer: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
    a = args[0] if args else kwargs["input"]
    node = get_gradient_edge(a).node if a.requires_grad else None
    calls.append(Call(layer, a, a._version, output.shape, get_gradient_edge(output), node))


def _reaches(total: Tensor, weights: set[Node], calls: list[Call]) -> bool:
    """Whether the graph leads from the loss to weights by a path that does not go through the call of a layer."""
    inputs = {call.output.node: call.input for call in calls}
    todo, seen = [get_gradient_edge(total).node], {None}
    while todo:
        node = todo.pop()
        if node in weights:
            return True
        if node not in seen:
            seen.add(node)
            todo += [inputs[node]] if node in inputs else [other for other, _ in node.next_functions]
    return False


def _sum_of_losses(loss, output, y: Examples) -> Tensor:
    """Each example counts as a batch of its own. For cross entropy torch adds them up itself, and faster."""
    if loss is nn.functional.cross_entropy and output.ndim == 2:
        return loss(output, y, reduction="sum")
    output, y = (each(lambda tensor: tensor[:, None], tree) for tree in (output, y))
    return torch.func.vmap(loss, (dims(output), dims(y)))(output, y).sum()


@torch.no_grad()
def _parts(n: int, call: Call, delta: Tensor | None) -> list[Part]:
    delta = call.a.new_zeros(call.shape) if delta is None else delta
    if not len(call.a) == len(delta) == n:
        raise NotImplementedError("a layer gets other rows than one for each example")
    return KNOWN[type(call.layer)](call.layer, call.a.detach(), delta)


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
ROLES = {"weight", "bias"}  # of their weights; pruned and normed layers have others, from which they compute these


@torch.no_grad()
def rows(parts: list[Part], out: Tensor | None = None) -> Tensor:
    """The gradients (n, d) that the parts stand for, written into the first rows of ``out`` if given."""
    like, n = parts[0][0], len(parts[0][0])
    out = like.new_empty(n, sum(widths(parts))) if out is None else out[:n]
    for part, columns in zip(parts, out.split(widths(parts), dim=1), strict=True):
        part.write(columns)
    return out

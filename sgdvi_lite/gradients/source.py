"""Where per-example gradients come from, chunk by chunk: a network, layer by layer or by vmap, or a given array."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from tqdm.auto import tqdm

from sgdvi_lite import _checks, nets
from sgdvi_lite.gradients.layers import Part, Rows, layer_by_layer, rows, unknown_layer

Loss = Callable[[Tensor, Tensor], Tensor]
CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
"""Default bound on the size of one chunk of gradients, in bytes: small enough for the caches, large enough to share
the overhead of a pass."""
CHUNK_ROWS = 4096  # gradients in one chunk of a given array, which takes no memory of its own
# Layers in which the examples of a batch are mixed, or noise is added, in training mode.
MIXING = nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd


class Source:
    """Per-example gradients, to be gone through as often as needed.

    A source supplies its attributes and ``parts(progress, first)``, an iterator over the gradients from example
    ``first`` on, ``chunk`` at a time, as in :meth:`Network.parts`.

    Attributes
    ----------
    N : int
        Number of examples.
    d : int
        Number of weights.
    like : Tensor
        Has the dtype and device of the gradients.
    chunk : int
        Examples at a time.
    widths : tuple of int
        How many numbers ``parts`` holds for one example, one entry for each tensor.
    how : str
        How they are computed.
    inputs : tuple
        Tensors that the gradients are computed from, maybe in tuples or dictionaries; a change in them is a fault.
    working_bytes : int
        What a pass takes at its peak beside what it gives.
    """

    working_bytes = 0

    def chunks(
        self, progress: bool = False, out: Tensor | None = None, first: int = 0
    ) -> Iterator[Float[Tensor, "n d"]]:
        """Iterate over the gradients as rows; written into ``out (chunk, d)``, one chunk over the other, if given."""
        return (rows(parts, out) for parts in self.parts(progress, first))


class Given(Source):
    """Gradients (N, d) that are there already; they are not modified."""

    how = "given"

    def __init__(self, gradients: Tensor, chunk: int = CHUNK_ROWS):
        self.N, self.d = gradients.shape
        self.like, self.widths = gradients.new_empty(0), (self.d,)
        self.chunk = min(self.N, chunk)
        self._gradients = gradients
        self.inputs = (gradients,)

    def parts(self, progress: bool = False, first: int = 0) -> Iterator[list[Part]]:
        """Iterate over the gradients from ``first`` on, ``chunk`` at a time, as they are."""
        return ([Rows(block)] for block in self._gradients[first:].split(self.chunk))


class Network(Source):
    """The per-example gradients of a network over its examples.

    Parameters
    ----------
    model, loss, x, y, chunk
        As in :func:`chunks`, with the same errors; the first four stay as attributes.

    Attributes
    ----------
    how : str
        ``layer by layer``, or why the general path is taken.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import gradients
    >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    >>> source = gradients.Network(torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy, x, y)
    >>> source.d, source.how, source.widths  # two factors of the weights' gradient, and that of the biases
    (8, 'layer by layer', (2, 3, 2))
    """

    def __init__(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, chunk: int | None = None):
        _check(model, loss, x, y)
        if chunk is not None:
            _checks.count("chunk", chunk)
        self.N, self.d, self.like = len(x), nets.count_parameters(model), x.new_empty(0)
        bound = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES["cpu"])
        self.chunk = min(self.N, chunk or max(1, bound // (self.d * x.element_size())))
        self.model, self.loss, self.x, self.y = model, loss, x, y
        self.inputs = (x, y)
        self._compute = layer_by_layer(model, loss)
        reason = unknown_layer(model) or self._doubt()
        self.how = f"vmap, since {reason}" if reason else "layer by layer"
        if reason:
            self._compute, self.widths = _batched(model, loss), (self.d,)

    def _doubt(self) -> str | None:
        """Why the fast path is not taken: two examples have to confirm it."""
        x, y = self.x[:2], self.y[:2]
        try:
            exact, parts = _one_by_one(self.model, self.loss, x, y), self._compute(x, y)
            error = (rows(parts) - exact).abs().max()
        except RuntimeError as fault:  # if it is the network's, the general path meets it too
            return str(fault)
        self.widths = tuple(tensor.shape[1] for part in parts for tensor in part)
        agree = error <= torch.finfo(x.dtype).eps ** 0.5 * exact.abs().max()
        return None if agree else "two examples contradict the fast path"

    def parts(self, progress: bool = False, first: int = 0) -> Iterator[list[Part]]:
        """Iterate over the gradients from ``first`` on, ``chunk`` at a time, those of linear layers as factors."""
        options = {"desc": "gradients", "unit": "example", "disable": not progress, "leave": False}
        with tqdm(total=self.N, initial=first, **options) as bar:
            for start in range(first, self.N, self.chunk):
                x, y = (t[start : start + self.chunk] for t in (self.x, self.y))
                parts = self._compute(x, y)
                for tensor in (tensor for part in parts for tensor in part):
                    _checks.finite("gradients", tensor, first=start)
                yield parts
                bar.update(len(x))


def _one_by_one(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """Gradients (n, d) by a backward pass for each example."""
    weights = [p for p in model.parameters() if p.requires_grad]
    values = (loss(model(x[k : k + 1]), y[k : k + 1]) for k in range(len(x)))
    gradients = (torch.autograd.grad(value, weights) for value in values)
    return torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in gradients])


def _batched(model: nn.Module, loss: Loss) -> Callable[[Tensor, Tensor], list[Part]]:
    """The general path: gradients of each example for any network."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, weights, (x[None],)), y[None])

    def of_each(x: Tensor, y: Tensor) -> list[Part]:
        gradients = vmap(grad(of_one), in_dims=(None, 0, 0))(weights, x, y)
        return [Rows(torch.cat([g.reshape(len(g), -1) for g in gradients.values()], dim=1))]

    return of_each


def chunks(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, chunk: int | None = None, progress: bool = False
) -> Iterator[Float[Tensor, "n d"]]:
    """Iterate over the per-example gradients, at most ``chunk`` examples at a time.

    Parameters
    ----------
    model
        A network in evaluation mode; gradients are taken with respect to all its trainable weights.
    loss
        Maps outputs and targets of a batch of one to a scalar, such as ``torch.nn.functional.cross_entropy``.
    x, y
        Inputs and targets, ``N`` of each, on the network's device; ``x`` has its dtype.
    chunk
        Examples at a time; by default as many as fit :data:`CHUNK_BYTES`.
    progress
        Whether to show a progress bar.

    Yields
    ------
    Tensor
        Gradients ``(n, d)`` of the next ``n`` examples; columns in the order of ``model.parameters()``.

    Raises
    ------
    ValueError
        Before any work: if there are no examples, lengths differ, ``x`` has another dtype or device than the network,
        batch-norm or dropout is in training mode, a label is out of range, the loss is no scalar. During it: if a
        gradient is NaN or infinite.
    """
    return Network(model, loss, x, y, chunk).chunks(progress)


def per_example_gradients(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, chunk: int | None = None, progress: bool = False
) -> Float[Tensor, "N d"]:
    """All per-example gradients in one array; arguments and errors are those of :func:`chunks`.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import gradients
    >>> model = torch.nn.Linear(3, 2)
    >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    >>> gradients.per_example_gradients(model, torch.nn.functional.cross_entropy, x, y).shape
    torch.Size([5, 8])
    """
    source = Network(model, loss, x, y, chunk)
    out = source.like.new_empty(source.N, source.d)
    for block, parts in zip(out.split(source.chunk), source.parts(progress), strict=True):
        rows(parts, block)
    return out


def _check(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> None:
    _checks.same_length("x", x, "y", y)
    for name, layer in model.named_modules():
        if isinstance(layer, MIXING) and layer.training:
            raise ValueError(
                f"model: {type(layer).__name__} {name!r} is in training mode, where examples are mixed; "
                "call model.eval() first"
            )
    weight = next((p for p in model.parameters() if p.requires_grad), None)
    _checks.require(weight is not None, "model: has no trainable weights; set requires_grad on at least one")
    if (weight.dtype, weight.device) != (x.dtype, x.device):
        raise ValueError(
            f"x is {x.dtype} on {x.device}, the model {weight.dtype} on {weight.device}: expected the same; "
            "convert one with .to(dtype=..., device=...)"
        )
    with torch.no_grad():
        output = model(x[:1])
    if not y.is_floating_point() and output.ndim == 2:
        _check_labels(y, output.shape[1])
    shape = tuple(loss(output, y[:1]).shape)
    if shape != ():
        raise ValueError(f"loss: gave shape {shape} for a batch of one; expected a scalar; use reduction='mean'")


def _check_labels(y: Tensor, classes: int) -> None:
    low, high = int(y.min()), int(y.max())
    fault = f"y has labels from {low} to {high}: expected 0 to {classes - 1}, the model's outputs; relabel the classes"
    _checks.require(0 <= low and high < classes, fault)

"""Per-example gradients: one row for each example, one column for each weight.

They are computed in evaluation mode, chunk by chunk, by :func:`torch.func.vmap` over :func:`torch.func.grad`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from tqdm.auto import tqdm

from sgdvi_lite import _checks
from sgdvi_lite.nets import count_parameters

Loss = Callable[[Tensor, Tensor], Tensor]
CHUNK_BYTES = 128 * 2**20
"""Default bound on the size of one chunk of gradients, in bytes."""


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
    _check(model, loss, x, y)
    d, itemsize = count_parameters(model), x.element_size()
    chunk = chunk or max(1, min(len(x), CHUNK_BYTES // (d * itemsize)))
    _checks.count("chunk", chunk)
    return _iterate(model, _batched(model, loss), x, y, chunk, progress)


def _iterate(model, gradient_of_each, x, y, chunk: int, progress: bool) -> Iterator[Tensor]:
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    with tqdm(total=len(x), desc="gradients", unit="example", disable=not progress, leave=False) as bar:
        for start in range(0, len(x), chunk):
            part = slice(start, start + chunk)
            rows = gradient_of_each(weights, x[part], y[part])
            rows = torch.cat([g.reshape(len(g), -1) for g in rows.values()], dim=1)
            _checks.finite("gradients", rows, first=start)
            bar.update(len(rows))
            yield rows


def _batched(model: nn.Module, loss: Loss) -> Callable:
    fixed = {name: t.detach() for name, t in model.named_parameters() if not t.requires_grad}
    fixed |= dict(model.named_buffers())

    def of_one(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, (weights, fixed), (x[None],)), y[None])

    return vmap(grad(of_one), in_dims=(None, 0, 0))


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
    parts = chunks(model, loss, x, y, chunk=chunk, progress=progress)
    out, row = None, 0
    for part in parts:
        out = part.new_empty(len(x), part.shape[1]) if out is None else out
        out[row : row + len(part)] = part
        row += len(part)
    return out


def _check(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> None:
    _checks.same_length("x", x, "y", y)
    _check_mode(model)
    _check_match(model, x)
    with torch.no_grad():
        output = model(x[:1])
    if not y.is_floating_point() and output.ndim == 2:
        _check_labels(y, output.shape[1])
    value = loss(output, y[:1])
    if value.ndim != 0:
        raise ValueError(
            f"loss: gave shape {tuple(value.shape)} for a batch of one; expected a scalar; use reduction='mean'"
        )


def _check_mode(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        mixes = isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
        if mixes and layer.training:
            raise ValueError(
                f"model: {type(layer).__name__} {name!r} is in training mode, where examples are mixed; "
                "call model.eval() first"
            )


def _check_match(model: nn.Module, x: Tensor) -> None:
    weight = next((p for p in model.parameters() if p.requires_grad), None)
    if weight is None:
        raise ValueError("model: has no trainable weights; set requires_grad on at least one")
    if (weight.dtype, weight.device) != (x.dtype, x.device):
        raise ValueError(
            f"x is {x.dtype} on {x.device}, the model {weight.dtype} on {weight.device}: expected the same; "
            "convert one with .to(dtype=..., device=...)"
        )


def _check_labels(y: Tensor, classes: int) -> None:
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"y has labels from {low} to {high}: expected 0 to {classes - 1}, the model's outputs; relabel the classes"
        )

"""What decides the numbers of a recorded run: settings, start, data, and what network and loss compute."""

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite._storage.files import digest
from sgdvi_lite.gradients import Loss
from sgdvi_lite.gradients.conditions import State
from sgdvi_lite.sgd import conditions
from sgdvi_lite.sgd.contract import Settings

SCALES = (1.0, 4.0)  # of the weights: far from the start a loss may be another one, as Huber's is
BATCHES = 16  # at most are looked at


def identify(
    model: nn.Module, loss: Loss, data: tuple[Tensor, Tensor], generator: torch.Generator, settings: Settings
) -> dict:
    """All that decides the numbers of a run but its engine, by name; the settings are among them."""
    return asdict(settings) | {
        "d": nets.count_parameters(model),
        "device": data[0].device.type,
        "network": str(model),
        "loss": getattr(loss, "__qualname__", type(loss).__qualname__),
        "start_sha256": digest(*(t for t in model.state_dict().values() if isinstance(t, Tensor))),
        "data_sha256": digest(*data),
        "generator_sha256": digest(generator.get_state()),
        "computes": what_is_computed(model, loss, *data, settings.batch_size),
    }


def what_is_computed(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, b: int) -> list[float]:
    """Loss, length of its gradient and its product with a fixed vector, on a few batches, for two sizes of the weights.

    Names do not tell what a network and a loss compute; these numbers do. The batches hold examples of all labels and
    from all over the data. The network stays as it is.
    """
    weights, told = nets.flat_parameters(model), []
    with State(model).in_force():
        for scale in SCALES:
            nets.set_flat_parameters(model, scale * weights)
            for rows in _spread(y, b):
                try:
                    told += _on_a_batch(model, loss, x[rows], y[rows])
                except Exception:
                    if scale == 1:
                        raise
                    told += [float("nan")] * 3  # such weights are outside of its domain
    return told


def _on_a_batch(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> list[float]:
    conditions.seed(0, x.device)
    try:
        value = loss(model(x), y)
    except Exception as fault:
        given = ", ".join(f"{name} {tuple(t.shape)} of {t.dtype}" for name, t in (("x", x), ("y", y)))
        fault.add_note(f"model and loss were tried on a batch, {given}: see that its shapes, dtypes and labels fit")
        raise
    one = isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point() and value.requires_grad
    shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    _checks.require(one, f"loss gave {shape}: expected one number, the mean over the batch, real and with a gradient")
    trained = [p for p in model.parameters() if p.requires_grad]
    parts = torch.autograd.grad(value.reshape(()), trained, materialize_grads=True, allow_unused=True)
    g = torch.cat([part.detach().to_dense().reshape(-1) for part in parts]).cpu().double()
    return [float(value.detach()), float(g.norm()), float(g @ torch.arange(len(g), dtype=torch.float64).cos())]


def _spread(y: Tensor, b: int) -> Tensor:
    """Indices ``(n, b)`` of a few batches: the first example of each label, then examples all over the data."""
    N, firsts = len(y), np.empty(0, int)
    if not y.is_floating_point() and not y.is_complex():
        labels = y.cpu().reshape(-1).numpy()
        firsts = np.unique(labels, return_index=True)[1] * N // len(labels)
    n = b * min(BATCHES, max(1, -(-len(firsts) // b)))
    return torch.cat([torch.from_numpy(firsts), torch.linspace(0, N - 1, n).long()])[:n].view(-1, b).to(y.device)

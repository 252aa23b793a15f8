"""What decides the numbers of a recorded run: settings, start, data, and what network and loss compute."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite._storage.files import digest
from sgdvi_lite.gradients import Loss
from sgdvi_lite.sgd import conditions
from sgdvi_lite.sgd.contract import Settings

SCALES = (1.0, 4.0)  # of the weights: far from the start a loss may be another one, as Huber's is
BATCHES = 16  # at most are looked at


@dataclass(frozen=True, kw_only=True)
class Identity:
    """All that decides the numbers of a run, as the header tells it."""

    settings: Settings
    engine: str
    d: int
    device: str
    network: str
    loss: str
    start_sha256: str
    data_sha256: str
    generator_sha256: str
    computes: list[float]

    @property
    def run(self) -> dict:
        """By name; the settings are among them."""
        told = asdict(self)
        return told.pop("settings") | told


def identify(
    model: nn.Module, loss: Loss, data: tuple[Tensor, Tensor], generator: torch.Generator, **known
) -> Identity:
    """The identity of a run, of which settings and engine are ``known``."""
    return Identity(
        d=nets.count_parameters(model),
        device=data[0].device.type,
        network=str(model),
        loss=getattr(loss, "__qualname__", type(loss).__qualname__),
        start_sha256=digest(*(t for t in model.state_dict().values() if isinstance(t, Tensor))),
        data_sha256=digest(*data),
        generator_sha256=digest(generator.get_state()),
        computes=what_is_computed(model, loss, *data, known["settings"].batch_size),
        **known,
    )


def what_is_computed(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, b: int) -> list[float]:
    """Loss, length of its gradient and its product with a fixed vector, on a few batches, for two sizes of the weights.

    Names do not tell what a network and a loss compute; these numbers do. The batches hold examples of all labels and
    from all over the data. The network stays as it is.
    """
    kept, weights, told = conditions.Kept(model), nets.flat_parameters(model), []
    try:
        for scale in SCALES:
            nets.set_flat_parameters(model, scale * weights)
            for rows in _spread(y, b):
                try:
                    told += _on_a_batch(model, loss, x[rows], y[rows])
                except Exception:
                    if scale == 1:
                        raise
                    told += [float("nan")] * 3  # such weights are outside of its domain
    finally:
        kept.restore()
    return told


def _on_a_batch(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> list[float]:
    conditions.seed(0, x.device)
    value = loss(model(x), y)
    _checks.shape("loss", value.shape, value.numel() == 1, "one number, the mean over the batch", verb="gave")
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

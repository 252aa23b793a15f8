"""What training asks of its arguments, and what has to be the same for a step to be made again."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import _checks, nets

Array = Tensor | np.ndarray


def examples(model: nn.Module, x: Array, y: Array, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The examples as tensors; an error unless they lie where the network is, and the generator draws on the CPU."""
    x, y = (value if isinstance(value, Tensor) else torch.as_tensor(value) for value in (x, y))
    _checks.same_length("x", x, "y", y)
    _checks.require(nets.count_parameters(model), "model has no trainable weights: expected at least one")
    home = next(p for p in model.parameters() if p.requires_grad).device
    for name, value in (("x", x), ("y", y)):
        fault = f"{name} is on {value.device} and model on {home}: expected one device; pass {name}.to({str(home)!r})"
        _checks.require(value.device == home, fault)
    drawing(generator)
    return x, y


def drawing(generator: torch.Generator) -> None:
    """Raise unless a generator draws on the CPU, in the same order for every device."""
    good = isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    _checks.argument("generator", generator, good, "a torch.Generator() on the CPU")


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Leave the global random state of the CPU and of this device, and let cuDNN choose what gives the same twice."""
    cudnn = torch.backends.cudnn
    same = {"enabled": cudnn.enabled, "benchmark": False, "deterministic": True, "allow_tf32": cudnn.allow_tf32}
    with torch.random.fork_rng(_gpus(device)), cudnn.flags(**same):
        yield


def seed(value: int, device: torch.device) -> None:
    """Seed the CPU and this device, as :func:`torch.manual_seed` does with all that there are."""
    torch.default_generator.manual_seed(value)
    for gpu in _gpus(device):
        torch.cuda.default_generators[gpu.index].manual_seed(value)


def _gpus(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" and torch.cuda.is_available() else []


class Kept:
    """A network, and with it a generator, as they are now, to go back to."""

    def __init__(self, model: nn.Module, generator: torch.Generator | None = None):
        self._tensors = [(t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())]
        self._modes = [(module, module.training) for module in model.modules()]
        self._generator, self._drawn = generator, generator and generator.get_state()

    @torch.no_grad()
    def restore(self) -> None:
        """Go back: the values, training or evaluation mode of each module, what the generator will draw."""
        for t, before in self._tensors:
            t.copy_(before)
        for module, training in self._modes:
            module.training = training
        if self._generator:
            self._generator.set_state(self._drawn)

"""What training asks of its arguments, and what has to be the same for a step to be made again."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite.gradients.conditions import State
from sgdvi_lite.gradients.examples import tensors
from sgdvi_lite.sgd.sampling import check_generator

Array = Tensor | np.ndarray


def examples(model: nn.Module, x: Array, y: Array, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The examples as tensors; an error unless they lie where the network is, and the generator draws on the CPU."""
    x, y = tensors("x", x), tensors("y", y)
    _checks.same_length("x", x, "y", y)
    _checks.require(nets.count_parameters(model), "model has no trainable weights: expected at least one")
    home = next(p for p in model.parameters() if p.requires_grad).device
    for name, value in (("x", x), ("y", y)):
        fault = f"{name} is on {value.device} and model on {home}: expected one device; pass {name}.to({str(home)!r})"
        _checks.require(value.device == home, fault)
    check_generator(generator)
    return x, y


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Steps that can be made again: cuDNN chooses what gives the same twice, and graphs are kept, whatever the caller.

    The global random state of the CPU and of this device stays.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic  # cudnn.flags() fails where TF32 is chosen by the newer switches
    cudnn.benchmark, cudnn.deterministic = False, True
    random = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        with random, torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def seed(value: int, device: torch.device) -> None:
    """Seed the CPU and this device, as :func:`torch.manual_seed` does with all that there are."""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)


@contextmanager
def undone(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Afterwards network, generator and the number of threads are as they were."""
    drawn, threads = generator.get_state(), torch.get_num_threads()
    try:
        with State(model).in_force():
            yield
    finally:
        generator.set_state(drawn)
        torch.set_num_threads(threads)

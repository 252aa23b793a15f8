"""What training asks of its arguments, and how it is undone."""

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
def undone(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Afterwards network, generator and the number of threads are as they were."""
    drawn, threads = generator.get_state(), torch.get_num_threads()
    try:
        with State(model).in_force():
            yield
    finally:
        generator.set_state(drawn)
        torch.set_num_threads(threads)

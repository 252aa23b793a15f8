"""The settings of a recorded run, and what its loop asks of an engine."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite.sgd import sampling

ENGINES = ("auto", "autograd")  # by hand where that applies, or autograd always
CHUNK = 32  # steps whose batches are gathered at once; their inputs fit in a core's cache


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, as :func:`sgdvi_lite.sgd.record` takes them, and the number of examples; checked here."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    n_steps: int
    every: int
    batch_size: int
    sampling: str
    engine: str
    N: int

    def __post_init__(self):
        _checks.positive("lr", self.lr)
        _checks.period(self.n_steps, self.every)
        _checks.one_of("engine", self.engine, ENGINES)
        sampling.check(self.N, self.batch_size, self.sampling)
        _checks.momentum(self.momentum, self.nesterov)
        _checks.not_negative("weight_decay", self.weight_decay)


class Engine(ABC):
    """What makes the steps of a run: made of ``(model, loss, x, y, settings)``, it has the network to itself.

    It begins where the network is; its weights and velocity are flat, on the network's device. Whoever makes it puts
    the network back.
    """

    name: ClassVar[str]  # what Recording.engine and the header of the run say
    blas_threads: ClassVar[int | None]  # threads of NumPy's products during the run; None leaves them
    model: nn.Module
    weights: Tensor
    velocity: Tensor

    @abstractmethod
    def prepare(self, index: Tensor, seed: int) -> None:
        """Take the batches ``(n, b)`` of the next ``n <= CHUNK`` steps; the seed is for dropout."""

    @abstractmethod
    def step(self, k: int) -> None:
        """Make step ``k`` of the chunk."""

    @abstractmethod
    def log(self, n: int) -> np.ndarray:
        """Loss, w.g, v.v and v.g of the ``n`` steps of the chunk ``(n, 4)``; asked for once, after the last of them."""

    def snapshot(self) -> np.ndarray:
        """The weights ``(d,)`` as they stand; on the CPU not a copy."""
        return self.weights.cpu().numpy()

    def state(self) -> dict:
        """Copies of weights, velocity and buffers."""
        buffers = {name: value.detach().clone() for name, value in self.model.named_buffers()}
        return {"weights": self.weights.clone(), "velocity": self.velocity.clone(), "buffers": buffers}


@torch.no_grad()
def load_network(model: nn.Module, state: dict) -> None:
    """Give a network the weights and buffers of an engine's state."""
    nets.set_flat_parameters(model, state["weights"])
    for name, buffer in model.named_buffers():
        buffer.copy_(state["buffers"][name])


def is_at(model: nn.Module, state: dict) -> bool:
    """Whether a network has the weights and buffers of an engine's state."""
    there, here = state["buffers"], dict(model.named_buffers())
    weights = nets.flat_parameters(model).cpu()
    return torch.equal(weights, state["weights"]) and all(torch.equal(here[name].cpu(), there[name]) for name in there)

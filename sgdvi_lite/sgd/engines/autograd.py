"""SGD on any network by autograd, in chunks of steps: the engine for what is not fully connected."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss


class Autograd:
    """The engine: prepare a chunk of batches, make its steps one by one, read their log, give the state.

    During the run the network's parameters are views of one flat vector, so that the update is a few operations.
    """

    name = "autograd"

    def __init__(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, lr, momentum, nesterov, weight_decay):
        self._model, self._loss, self._x, self._y = model, loss, x, y
        self._lr, self._momentum, self._nesterov, self._decay = lr, momentum, nesterov, weight_decay
        self._weights = nets.flat_parameters(model)
        self._velocity, self._rows = torch.zeros_like(self._weights), []
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        for p, part in zip(self._parameters, self._weights.split([p.numel() for p in self._parameters]), strict=True):
            p.data = part.view_as(p)

    def prepare(self, index: Tensor, seed: int) -> None:
        """Take the batches ``(n, b)`` of the next steps, and seed what else is random in the network, as dropout."""
        self._index, self._rows = index.to(self._x.device), []
        torch.manual_seed(seed)

    def step(self, k: int) -> None:
        """Make step ``k`` of the chunk."""
        rows = self._index[k]
        value = self._loss(self._model(self._x[rows]), self._y[rows])
        parts = torch.autograd.grad(value, self._parameters)
        self._update(value.detach(), torch.cat([part.reshape(-1) for part in parts]))

    @torch.no_grad()
    def _update(self, value: Tensor, g: Tensor) -> None:
        """As :class:`torch.optim.SGD`; notes the loss, w.g, v.v and, with the velocity before the step, v.g."""
        w, v = self._weights, self._velocity
        g.add_(w, alpha=self._decay)
        before = w @ g, v @ g
        v.mul_(self._momentum).add_(g)
        self._rows.append(torch.stack([value, before[0], v @ v, before[1]]))
        w.sub_(g.add_(v, alpha=self._momentum) if self._nesterov else v, alpha=self._lr)

    def log(self, n: int) -> np.ndarray:
        """Loss, w.g, v.v and v.g of the ``n`` steps of the chunk, ``(n, 4)``."""
        return torch.stack(self._rows).double().cpu().numpy()

    def state(self) -> dict:
        """Weights, velocity and buffers."""
        buffers = {name: value.detach().clone() for name, value in self._model.named_buffers()}
        return {"weights": self._weights.clone(), "velocity": self._velocity.clone(), "buffers": buffers}

    def load(self, state: dict) -> None:
        """Continue from such a state."""
        self._weights.copy_(state["weights"])
        self._velocity.copy_(state["velocity"])
        for name, buffer in self._model.named_buffers():
            buffer.copy_(state["buffers"][name])

    def snapshot(self) -> np.ndarray:
        """The weights ``(d,)`` as they stand."""
        return self._weights.cpu().numpy()

    def finish(self) -> None:
        """Give each parameter its own memory again."""
        for p in self._parameters:
            p.data = p.data.clone()

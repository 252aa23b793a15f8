"""SGD on any network by autograd, in chunks of steps: the engine that can always be taken."""

from types import EllipsisType

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss
from sgdvi_lite.gradients.conditions import seed_device
from sgdvi_lite.sgd.contract import Engine, Settings


class Autograd(Engine):
    """During the run the network's parameters are views of one flat vector, so that the update is a few operations."""

    name = "autograd"
    blas_threads = None

    def __init__(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings):
        self.model, self._loss, self._x, self._y, self._settings = model, loss, x, y, settings
        self.weights = nets.flat_parameters(model)
        self.velocity = torch.zeros_like(self.weights)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        nn.utils.vector_to_parameters(self.weights, self._parameters)

    def prepare(self, index: Tensor, seed: int) -> None:
        """Take the batches to the network's device; the seed is for dropout and the like."""
        self._index, self._rows = index.to(self._x.device), []
        seed_device(seed, self._x.device)

    def step(self, k: int) -> None:
        """Make step ``k`` of the chunk, as :class:`torch.optim.SGD`, and note what the log says of it."""
        rates, value = self._settings, self._value(self._index[k])
        parts = torch.autograd.grad(value, self._parameters, allow_unused=True)
        reached = self._reached(parts)
        w, v = self.weights[reached], self.velocity[reached]
        g = torch.cat([part.to_dense().reshape(-1) for part in parts if part is not None])
        g.add_(w, alpha=rates.weight_decay)
        before = w @ g, v @ g
        v.mul_(rates.momentum).add_(g)
        self._rows.append(torch.stack([value.detach().to(w.dtype), before[0], v @ v, before[1]]))
        w.sub_(g.add_(v, alpha=rates.momentum) if rates.nesterov else v, alpha=rates.lr)
        if reached is not ...:
            self.weights[reached], self.velocity[reached] = w, v

    def _value(self, rows: Tensor) -> Tensor:
        """The loss of a batch; an error unless it is one number that a gradient can be asked of."""
        x, y = self._x[rows], self._y[rows]
        try:
            value = self._loss(self.model(x), y)
        except Exception as fault:
            fault.add_note(f"with x {tuple(x.shape)} of {x.dtype} and y {tuple(y.shape)} of {y.dtype} in a batch")
            raise
        if isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point() and value.requires_grad:
            return value.reshape(())
        shape = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss gave {shape}: expected one number, the mean over the batch, real and with a gradient")

    def _reached(self, parts: tuple[Tensor | None, ...]) -> Tensor | EllipsisType:
        """Which weights the loss depends on; the optimiser leaves the others, and their velocity, as they are."""
        if all(part is not None for part in parts):
            return ...  # a view of all
        pairs = zip(self._parameters, parts, strict=True)
        return torch.cat([torch.full((p.numel(),), g is not None, device=p.device) for p, g in pairs])

    def log(self, n: int) -> np.ndarray:
        """Loss, w.g, v.v and v.g of the steps of the chunk."""
        return torch.stack(self._rows).double().cpu().numpy()

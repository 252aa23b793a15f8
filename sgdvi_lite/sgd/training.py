"""Training of a network, epoch by epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sgdvi_lite import _checks
from sgdvi_lite.gradients import Loss
from sgdvi_lite.gradients.conditions import repeatable, seed_device
from sgdvi_lite.sgd import conditions
from sgdvi_lite.sgd.conditions import Array
from sgdvi_lite.sgd.sampling import Real, Whole, batches, check, number

Schedule = Callable[[int], float]
Transform = Callable[[Tensor, torch.Generator], Tensor]


class SGD:
    """One run of SGD on a network, epoch by epoch.

    Parameters
    ----------
    model
        The network; trained in place.
    loss
        Maps the outputs and targets of a batch to its mean loss.
    x, y
        The training examples, ``N`` of each, on the network's device.
    lr
        Learning rate, or a function of the epoch (counted from 0) that gives it.
    batch_size
        Examples in a batch.
    momentum, nesterov, weight_decay
        As in :class:`torch.optim.SGD`.
    sampling
        As in :func:`batches`.
    generator
        CPU generator of the batches and, through a seed drawn from it once an epoch, of dropout.
    transform
        Maps the inputs of a batch and a generator to the inputs that are used, such as ``data.augment``.

    Raises
    ------
    ValueError
        If lengths or devices differ, ``batch_size`` exceeds ``N``, the sampling is unknown, ``lr <= 0``, the momentum
        is not in [0, 1) or ``weight_decay < 0``.
    FloatingPointError
        From :meth:`epoch`, after it, if the loss became NaN or infinite: the step is named. Losses are looked at once
        an epoch, so that no step waits for the device.

    Notes
    -----
    cuDNN is told to choose deterministic algorithms, and of the global random states only those of the CPU and of the
    network's device are used, and put back. With other operations of a GPU that add in any order a run goes on bit for
    bit only after ``torch.use_deterministic_algorithms``.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        x: Array,
        y: Array,
        *,
        lr: Real | Schedule,
        batch_size: Whole,
        generator: torch.Generator,
        momentum: Real = 0.0,
        nesterov: bool = False,
        weight_decay: Real = 0.0,
        sampling: str = "reshuffled",
        transform: Transform | None = None,
    ):
        x, y = conditions.examples(model, x, y, generator)
        check(len(x), batch_size, sampling)
        self.schedule = (lambda epoch: number(lr(epoch))) if callable(lr) else (lambda epoch: number(lr))
        _checks.positive("lr", self.schedule(0))
        self.model, self.loss, self.x, self.y = model, loss, x, y
        self.batch_size, self.sampling, self.generator, self.transform = int(batch_size), sampling, generator, transform
        momentum = _checks.momentum(momentum, nesterov)
        options = {"nesterov": bool(nesterov), "weight_decay": _checks.not_negative("weight_decay", weight_decay)}
        self.optimizer = torch.optim.SGD(model.parameters(), self.schedule(0), momentum, **options)
        self.epochs_done = 0

    def epoch(self) -> float:
        """Train for one epoch and return the mean training loss over its batches."""
        lr = self.schedule(self.epochs_done)
        _checks.positive(f"lr in epoch {self.epochs_done}", lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        seed = int(torch.randint(2**31, (), generator=self.generator))
        with repeatable(self.x.device):
            seed_device(seed, self.x.device)
            drawn = batches(len(self.x), self.batch_size, self.sampling, self.generator)
            losses = torch.stack([self._step(index) for index in drawn]).tolist()  # one wait for the device
        self.model.eval()
        for k, value in enumerate(losses):
            if not math.isfinite(value):
                fault = f"loss = {value} in epoch {self.epochs_done}, step {k}: training diverged; lower lr"
                raise FloatingPointError(fault)
        self.epochs_done += 1
        return sum(losses) / len(losses)

    def _step(self, index: Tensor) -> Tensor:
        index = index.to(self.x.device)
        self.optimizer.zero_grad()
        x = self.x[index] if self.transform is None else self.transform(self.x[index], self.generator)
        value = self.loss(self.model(x), self.y[index])
        value.backward()
        self.optimizer.step()
        return value.detach().reshape(())

    def state_dict(self) -> dict:
        """All that a resumed run needs: copies of weights, momentum and random state, and the epochs done."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(state | {"generator": self.generator.get_state(), "epochs_done": self.epochs_done})

    def load_state_dict(self, state: dict) -> None:
        """Continue where :meth:`state_dict` was taken; the run goes on bit for bit as if never stopped."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # which would keep its tensors
        self.generator.set_state(state["generator"])
        self.epochs_done = state["epochs_done"]
        self.model.eval()


def run(model: nn.Module, loss: Loss, x: Array, y: Array, *, epochs: Whole, progress: bool = True, **options) -> list:
    """Train a network in place and return the mean training loss of each epoch.

    Parameters
    ----------
    model, loss, x, y, options
        As in :class:`SGD`.
    epochs
        How many.
    progress
        Whether to show a progress bar.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import sgd
    >>> model, x = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 20)[:, None]
    >>> losses = sgd.run(model, torch.nn.functional.mse_loss, x, 2 * x, epochs=50, lr=0.2, batch_size=5,
    ...                  generator=torch.Generator().manual_seed(0), progress=False)
    >>> losses[-1] < 1e-6
    True
    """
    _checks.count("epochs", epochs)
    trainer = SGD(model, loss, x, y, **options)
    return [trainer.epoch() for _ in tqdm(range(epochs), desc="SGD", unit="epoch", disable=not progress)]

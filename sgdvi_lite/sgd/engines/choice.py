"""Trials of a few steps: they tell which engine makes the steps of a run, and what network and loss compute.

By hand go only networks for which the steps agree with autograd's. Names do not tell what a network and a loss compute;
the numbers of some batches do.
"""

import sys
from contextlib import closing
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss
from sgdvi_lite.gradients.conditions import State
from sgdvi_lite.gradients.examples import integers
from sgdvi_lite.sgd.contract import Settings
from sgdvi_lite.sgd.engines.autograd import Autograd
from sgdvi_lite.sgd.engines.fully_connected import FullyConnected, applies

TRIAL = 2  # steps in which engines are compared: the second has a velocity
TRIAL_LR = 0.01  # at most: two trajectories in floating point must not part
ROUNDING = 10  # roots of the machine's precision by which the engines may differ, relative to a parameter's gradient
SMALL = 1e-2  # of the largest gradient of all: below it a parameter's own is rounding, as of a bias below a batch-norm
STILL = {"lr": sys.float_info.min, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}  # v.v is that of a gradient
SCALES = (1.0, 4.0)  # of the weights: far from the start a loss may be another one, as Huber's is
BATCHES = 16  # at most are looked at


def choose(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings) -> type:
    """The engine for a run: by hand only what agrees with autograd on real steps. The network stays as it is."""
    if settings.engine != "auto" or not applies(model, loss, x, y):
        return Autograd
    index = torch.linspace(0, len(x) - 1, TRIAL * settings.batch_size).long().view(TRIAL, -1)
    parts = model, loss, x, y, replace(settings, lr=min(settings.lr, TRIAL_LR))
    gradients, others = _steps(Autograd, parts, index)
    try:
        found = _steps(FullyConnected, parts, index)
    except Exception:  # a network that only looks like one that can be done by hand
        return Autograd
    tolerance, largest = ROUNDING * torch.finfo(x.dtype).eps ** 0.5, max(g.abs().max() for g in gradients)
    pairs = zip((*gradients, *others), chain(*found), strict=True)
    agree = (((a - b).abs() <= tolerance * a.abs().max().clamp(min=SMALL * largest)).all() for a, b in pairs)
    return FullyConnected if 0 < largest < torch.inf and all(agree) else Autograd


def what_is_computed(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings) -> list[float]:
    """Loss and squared gradient of a few batches, for two sizes of the weights. The network stays as it is."""
    weights, told, index = nets.flat_parameters(model), [], _spread(y, settings.batch_size)
    parts = model, loss, x, y, replace(settings, **STILL)
    with State(model).in_force():
        for scale in SCALES:
            nets.set_flat_parameters(model, scale * weights)
            try:
                losses, squares, *_ = _steps(Autograd, parts, index)[1]
                told += [*losses.tolist(), *squares.tolist()]
            except Exception:
                if scale == 1:
                    raise
                told.append(float("nan"))  # such weights are outside of its domain
    return told


def _steps(kind: type, parts: tuple, index: Tensor) -> tuple:
    """What an engine made of ``parts`` leaves after steps on these batches.

    Each parameter's velocity; and losses and v.v, the way of the weights, each buffer.
    """
    model = parts[0]
    start, sizes = nets.flat_parameters(model), [p.numel() for p in model.parameters() if p.requires_grad]
    with State(model).in_force(), np.errstate(all="ignore"), closing(kind(*parts)) as engine:
        engine.prepare(index, 0)
        for k in range(len(index)):
            engine.step(k)
        log, state = torch.from_numpy(engine.log(len(index))), engine.state()
    return state["velocity"].split(sizes), (log[:, 0], log[:, 2], state["weights"] - start, *state["buffers"].values())


def _spread(y: Tensor, b: int) -> Tensor:
    """Indices ``(n, b)`` of a few batches: the first example of each label, then examples all over the data."""
    N = len(y)
    firsts = [np.unique(labels.cpu().numpy(), return_index=True)[1] * N // labels.numel() for labels in integers(y)]
    n = b * min(BATCHES, max(1, -(-sum(map(len, firsts)) // b)))
    rows = np.concatenate([*firsts, np.linspace(0, N - 1, n).astype(int)])[:n]
    return torch.from_numpy(rows).view(-1, b)

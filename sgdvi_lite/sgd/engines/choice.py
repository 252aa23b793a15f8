"""Which engine makes the steps: by hand where that is possible and found to be right, else autograd."""

from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss
from sgdvi_lite.gradients.conditions import State
from sgdvi_lite.sgd.contract import Settings
from sgdvi_lite.sgd.engines.autograd import Autograd
from sgdvi_lite.sgd.engines.fully_connected import FullyConnected, applies

TRIAL = 2  # steps: the second has a velocity
TRIAL_LR = 0.01  # at most: two trajectories in floating point must not part
ROUNDING = 10  # roots of the machine's precision by which the engines may differ, relative to a parameter's gradient
SMALL = 1e-3  # of the largest gradient of all: below it a parameter's own is rounding


def choose(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings) -> type:
    """The engine for a run: by hand only what agrees with autograd on real steps. The network stays as it is."""
    if settings.engine != "auto" or not applies(model, loss, x, y, settings.batch_size):
        return Autograd
    rows = torch.linspace(0, len(x) - 1, TRIAL * settings.batch_size).long()
    trial = model, loss, x[rows], y[rows], replace(settings, lr=min(settings.lr, TRIAL_LR), n_steps=TRIAL, every=1)
    gradients, others = _steps(Autograd, *trial)
    try:
        found = _steps(FullyConnected, *trial)
    except Exception:  # a network that only looks like one that can be done by hand
        return Autograd
    tolerance, largest = ROUNDING * torch.finfo(x.dtype).eps ** 0.5, max(g.abs().max() for g in gradients)
    pairs = zip((*gradients, *others), chain(*found), strict=True)
    agree = (((a - b).abs() <= tolerance * a.abs().max().clamp(min=SMALL * largest)).all() for a, b in pairs)
    return FullyConnected if 0 < largest < torch.inf and all(agree) else Autograd


def _steps(kind: type, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings) -> tuple:
    """What the steps of a trial leave: each parameter's velocity; losses and v.v, the way of the weights, buffers."""
    start, sizes = nets.flat_parameters(model), [p.numel() for p in model.parameters()]
    with State(model).in_force(), np.errstate(all="ignore"):
        engine = kind(model, loss, x, y, settings)
        try:
            engine.prepare(torch.arange(len(x)).view(TRIAL, -1), 0)
            for k in range(TRIAL):
                engine.step(k)
            log, state = torch.from_numpy(engine.log(TRIAL)), engine.state()
        finally:
            engine.finish()
    return state["velocity"].split(sizes), (log[:, 0], log[:, 2], state["weights"] - start, *state["buffers"].values())

"""Which engine makes the steps: by hand where that is possible and found to be right, else autograd."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import nets
from sgdvi_lite.gradients import Loss
from sgdvi_lite.sgd.conditions import Kept
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
    n = TRIAL * settings.batch_size
    rows = torch.linspace(0, len(x) - 1, n).long()
    rates = {"lr": min(settings.lr, TRIAL_LR), "n_steps": TRIAL, "every": 1}
    trial = model, loss, x[rows], y[rows], replace(settings, **rates)
    expected = _steps(Autograd, *trial)
    try:
        found = _steps(FullyConnected, *trial)
    except Exception:  # a network that only looks like one that can be done by hand
        return Autograd
    return FullyConnected if _agree([p.numel() for p in model.parameters()], expected, found) else Autograd


def _steps(kind: type, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, settings: Settings) -> dict:
    """The state after the steps of the trial, their log, and the way that the weights have gone."""
    kept, start = Kept(model), nets.flat_parameters(model)
    engine = kind(model, loss, x, y, settings)
    try:
        with np.errstate(all="ignore"):
            engine.prepare(torch.arange(len(x)).view(TRIAL, -1), 0)
            for k in range(TRIAL):
                engine.step(k)
            log = torch.from_numpy(engine.log(TRIAL))
        return engine.state() | {"log": log, "way": engine.weights - start}
    finally:
        engine.finish()
        kept.restore()


def _agree(sizes: list[int], expected: dict, found: dict) -> bool:
    """Whether velocity, weights, log and buffers are the same to rounding, and there was something to compare."""
    v, way, log = (expected[name] for name in ("velocity", "way", "log"))
    tolerance, largest = ROUNDING * torch.finfo(v.dtype).eps ** 0.5, v.abs().max()
    if not (0 < largest < torch.inf and log.isfinite().all()):
        return False

    def close(a: Tensor, b: Tensor, scale: Tensor) -> bool:
        return bool(((a - b).abs() <= tolerance * scale).all())

    parts = zip(v.split(sizes), found["velocity"].split(sizes), strict=True)
    loss, _, square, _ = log.abs().amax(dim=0)
    product = square.sqrt() * (square.sqrt() + expected["weights"].norm())
    buffers = zip(expected["buffers"].values(), found["buffers"].values(), strict=True)
    return (
        all(close(a, b, a.abs().max().clamp(min=SMALL * largest)) for a, b in parts)
        and close(way, found["way"], way.abs().max() + torch.finfo(v.dtype).eps * expected["weights"].abs().max())
        and close(log, found["log"], torch.stack([loss, product, square, product]))
        and all(close(a, b, a.abs().max()) for a, b in buffers)
    )

"""The experiment ``noise``: train networks with and without a norm, and compare the noise of real batches with ``D``.

Each network that was trained and measured is on disk before the next begins.
"""

import copy
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from sgdvi_lite import _checks, data, nets
from sgdvi_lite.diffusion import DiffusionMatrix
from sgdvi_lite.experiments import ranks
from sgdvi_lite.experiments.training import TrainingSettings, setting, taken, whole
from sgdvi_lite.minibatch import measured_covariance, minibatch_factor
from sgdvi_lite.sgd import SGD
from sgdvi_lite.sgd.sampling import replica_batches

# Directions of D, the leading ones, in which the noise of batches is looked for
LEADING = 10


def _sizes(name: str, value: object) -> tuple[int, ...]:
    found = tuple(_checks.count(name, size, low=2) for size in np.ravel(value).tolist())
    _checks.argument(name, found, found, "at least one batch size")
    return found


@dataclass(frozen=True, kw_only=True)
class NoiseSettings(TrainingSettings):
    """Settings of ``noise``: train on a ``sample`` of the examples (all, if there are fewer), and compute ``D`` on it.

    Networks of the same initial weights are trained with batch-norm, with group-norm and without, ``runs`` times, with
    the seeds ``seed``, ``seed`` + 1, ... Before the first epoch, after it and after the last, batch-norm is calibrated
    and ``D`` computed; at the same weights the gradients of batches of each of the ``sizes`` are measured in training
    mode, examples drawn with replacement: with the network's dropout if it has any, and without. There are ``batches``
    of the largest size, and of one a quarter as large twice as many.
    """

    epochs: int = 20
    sample: int = setting(2000, "number of training examples of which batches and D are made", whole(LEADING + 2))
    sizes: tuple[int, ...] = setting((16, 64, 256, 1024), "batch sizes that are measured", _sizes, metavar="SIZES")
    batches: int = setting(50, "batches of the largest size that are measured, of others more", whole(3))
    runs: int = setting(3, "networks of each kind, with seeds in a row", whole())


_PAPER = NoiseSettings(data="mnist", runs=3)
# Settings by name: ``lite`` for a minute of a core, the others at the paper's size
PRESETS = {
    "lite": NoiseSettings(batches=25, runs=2),
    "paper-mnist-fc": replace(_PAPER, pool=7),
    "paper-mnist-lenet": replace(_PAPER, net="small-lenet", batches=25),
}


def compute(chosen: NoiseSettings, dataset: data.Dataset, partial: Path, progress: bool) -> tuple[dict, float]:
    """Run the experiment, or go on with what lies in the folder ``partial``; return its arrays and its seconds."""
    fault = f"experiment = 'noise' with {ranks.place()[1]} processes: expected one; run it without torchrun"
    _checks.require(ranks.group() is None, fault)
    kinds = [*product(range(chosen.runs), nets.NORMS)]
    with taken(chosen, dataset, partial) as folder:
        rows = (folder.load("state") or {"rows": []})["rows"]
        for run, norm in tqdm(kinds[len(rows) :], "networks", disable=not progress, leave=False):
            rows.append(_network(replace(chosen, seed=chosen.seed + run), dataset, norm))
            folder.save("state", {"rows": rows})
        seconds = folder.stopwatch.seconds
    arrays = {name: torch.stack([row[name] for row in rows]).numpy() for name in rows[0]}
    arrays = {name: array.reshape(chosen.runs, len(nets.NORMS), *array.shape[1:]) for name, array in arrays.items()}
    axes = {"epoch": (0, 1, chosen.epochs), "dropout": _rates(chosen.network(dataset)[0]), "b": chosen.sizes}
    axes |= {"N": min(chosen.sample, len(dataset.x_train))}
    return arrays | {name: np.array(values) for name, values in axes.items()}, seconds


def _network(chosen: NoiseSettings, dataset: data.Dataset, norm: str | None) -> dict[str, Tensor]:
    """Train a network; what is found before the first epoch, after it and after the last, stacked by name."""
    model, generator = chosen.network(dataset, norm=norm)
    order = torch.randperm(len(dataset.x_train), generator=generator)[: chosen.sample]
    x, y = (t[order].to(chosen.device) for t in (dataset.x_train, dataset.y_train))
    options = {"momentum": chosen.momentum, "nesterov": chosen.nesterov, "weight_decay": chosen.weight_decay}
    options |= {"lr": chosen.lr, "batch_size": chosen.batch_size, "generator": generator}
    trainer, found = SGD(model, cross_entropy, x, y, **options), []
    for stop in (0, 1, chosen.epochs):
        while trainer.epochs_done < stop:
            trainer.epoch()
        found.append(_instant(chosen, trainer))
    return {name: torch.tensor([row[name] for row in found], dtype=torch.float64) for name in found[0]}


def _instant(chosen: NoiseSettings, trainer: SGD) -> dict:
    """Lists by name: of D its trace and the share of its leading directions; of batches, by dropout and size."""
    model, x, y = copy.deepcopy(trainer.model).eval(), trainer.x, trainer.y
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules()):
        nets.calibrate(model, x)
    D = DiffusionMatrix.from_model(model, cross_entropy, x, y)
    start = np.random.default_rng(0).standard_normal(D.shape[0])
    values, V = eigsh(D.to_scipy(), LEADING, v0=start.astype(np.float32), tol=1e-4)
    found = {"trace": D.trace(), "own_share": values.sum() / D.trace(), "train_error": nets.error_rate(model, x, y)}
    slope = torch.cat([p.reshape(-1) for p in torch.autograd.grad(cross_entropy(model(x), y), [*model.parameters()])])
    names = "ratio", "ratio_error", "share", "share_error", "offset"
    measured = []
    for rate, b in product(_rates(model), chosen.sizes):
        for layer in _dropouts(model):
            layer.p = rate
        n = round(chosen.batches * (max(chosen.sizes) / b) ** 0.5)
        batches = next(replica_batches(n, len(x), b, "with", trainer.generator))
        one = measured_covariance(model, cross_entropy, x, y, batches, generator=trainer.generator, directions=V)
        unit = minibatch_factor(len(x), b) * D.trace()
        away = (one.mean - slope).square().sum().item() - one.trace.value / one.n
        measured.append([*(part / unit for part in one.trace), *one.share, away / slope.square().sum().item()])
    table = np.array(measured).reshape(-1, len(chosen.sizes), len(names))
    return found | {name: table[..., i].tolist() for i, name in enumerate(names)}


def _dropouts(model: nn.Module) -> list[nn.Dropout]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]


def _rates(model: nn.Module) -> list[float]:
    """The rates of dropout at which a network is measured: its own, and none."""
    return sorted({0.0, *(layer.p for layer in _dropouts(model))}, reverse=True)

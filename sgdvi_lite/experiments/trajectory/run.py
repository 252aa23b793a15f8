"""The experiment ``trajectory``: a long run of constant-step SGD, its weights once an epoch, and what they show.

The longer version's Figure 3, with the null models that it lacks. The recording lies on disk while it is made; a run
that was stopped goes on where it was, to the last bit.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import _checks, data, sgd
from sgdvi_lite._storage.folder import seconds_in
from sgdvi_lite.experiments import ranks
from sgdvi_lite.experiments.training import TrainingSettings, choice, flag, setting, taken, whole
from sgdvi_lite.experiments.trajectory import measures

# Epochs after the burn-in that the statistics need
SHORTEST = 500


@dataclass(frozen=True, kw_only=True)
class TrajectorySettings(TrainingSettings):
    """Settings of ``trajectory``: train for ``epochs`` at a constant rate, drop the first ``burn``, look at the rest.

    ``lr``, ``momentum``, ``nesterov`` and ``weight_decay`` are constant, as in :func:`sgdvi_lite.sgd.record`. Without
    ``batch_norm`` these layers are left out of the network. ``each`` keeps the first so many images of each class.
    ``burn`` is the least burn-in: :func:`~sgdvi_lite.experiments.trajectory.measures.settled` may find a longer one.

    The preset ``figure`` is the run under the longer version's Figure 3 by the first author's code of that day
    (prob_current.py at e05ed9c): one hidden layer, 512 images of each of four classes, plain momentum, bytes that
    overflow. ``paper`` is the longer version's text, as far as it tells: 1e-3 is its rate after the burn-in, and here
    before it too. ``paper-decay`` has a steady state, which ``paper`` lacks: the weight decay of ``lite``, with which
    weights relax in (1 - momentum) / (lr weight_decay) = 10,000 steps, or 42 epochs; with the customary 5e-4 it would
    be 840, too many for error bars. ``paper-plain`` has the same time and temperature without momentum, and no
    batch-norm.
    """

    net: str = "tiny-fc"
    pool: int | None = 4
    epochs: int = 7000
    lr: float = 0.1
    batch_size: int = 128
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    each: int | None = setting(None, "images of each class that are kept", whole(), metavar="IMAGES")
    burn: int = setting(1400, "epochs that are dropped before the statistics, at least", whole(0))
    weight_decay: float = 0.01
    sampling: str = choice("reshuffled", "how batches are drawn", sgd.SAMPLINGS)
    batch_norm: bool = setting(True, "with or without these layers", flag)

    def __post_init__(self):
        """Refuse settings that cannot work before any work is done."""
        super().__post_init__()
        fault = f"epochs = {self.epochs} with burn = {self.burn}: expected at least {SHORTEST} epochs after the burn-in"
        _checks.require(self.epochs - self.burn >= SHORTEST, fault)

    def prepared(self, dataset: data.Dataset) -> data.Dataset:
        """Keep so many images of each class, and prepare them as for every experiment."""
        if self.each is None:
            return super().prepared(dataset)
        rows = [(dataset.y_train == label).nonzero()[:, 0] for label in self.classes or range(dataset.classes)]
        _checks.count("each", self.each, high=min(map(len, rows)), remedy="no class has less")
        kept = torch.cat([row[: self.each] for row in rows])
        return super().prepared(replace(dataset, x_train=dataset.x_train[kept], y_train=dataset.y_train[kept]))


_PAPER = TrajectorySettings(data="mnist", pool=7, epochs=100_000, burn=1000, lr=1e-3, weight_decay=0.0)
_FIGURE = replace(_PAPER, net="tiny-one-fc", classes=(0, 1, 2, 3), each=512, lr=0.1, nesterov=False)
_DECAY = replace(_PAPER, epochs=20_000, weight_decay=0.01)
# Settings by name: ``lite`` is the run of chapter 10
PRESETS = {
    "lite": TrajectorySettings(),
    "figure": replace(_FIGURE, pixels="unit", wrapped=True),
    "paper": _PAPER,
    "paper-decay": _DECAY,
    "paper-plain": replace(_DECAY, lr=1e-2, momentum=0.0, nesterov=False, batch_norm=False),
}


def compute(chosen: TrajectorySettings, dataset: data.Dataset, partial: Path, progress: bool) -> tuple[dict, float]:
    """Run the experiment, or go on with what lies in the folder ``partial``; return its arrays and its seconds."""
    fault = f"experiment = 'trajectory' with {ranks.place()[1]} processes: expected one, as it is one chain of steps"
    _checks.require(ranks.group() is None, f"{fault}; run it without torchrun")
    model, generator = start(chosen, dataset)
    x, y = dataset.x_train.to(chosen.device), dataset.y_train.to(chosen.device)
    every = len(x) // chosen.batch_size
    names = ("lr", "momentum", "nesterov", "weight_decay", "batch_size", "sampling")
    options = {name: getattr(chosen, name) for name in names}
    options |= {"n_steps": every * chosen.epochs, "every": every, "generator": generator, "progress": progress}
    with taken(chosen, dataset, partial) as folder:
        folder.stopwatch.before += seconds_in(partial / "run")
        recording = sgd.record(model, cross_entropy, x, y, partial / "run", **options)
        return measures.measure(chosen, dataset, model, recording, progress), folder.stopwatch.seconds


def start(chosen: TrajectorySettings, dataset: data.Dataset) -> tuple[nn.Module, torch.Generator]:
    """The network as it is before the first step, and the generator from which it and the batches are drawn."""
    return chosen.network(dataset, norm="batch" if chosen.batch_norm else None)

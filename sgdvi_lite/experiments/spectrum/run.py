"""The experiment ``spectrum``: train a network and compute ``D`` at several instants of the training.

Each epoch and each instant is on disk before the next begins, and what is done of a large ``D`` now and then, so that a
run that was stopped goes on where it was.
"""

import copy
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from sgdvi_lite import _checks, data, linalg, nets
from sgdvi_lite._storage.folder import seconds_in
from sgdvi_lite.diffusion import DiffusionMatrix
from sgdvi_lite.experiments import ranks
from sgdvi_lite.experiments.training import TrainingSettings, choice, flag, setting, taken, whole
from sgdvi_lite.sgd import SGD


def _fractions(name: str, value: object) -> tuple[float, ...]:
    found = tuple(_checks.array(name, np.ravel(value)).tolist())
    good = found and all(0 <= fraction <= 1 for fraction in found)
    _checks.argument(name, found, good, "fractions of the training in [0, 1], at least one")
    return found


def _views(name: str, value: object) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value)
    _checks.argument(name, found, set(found) <= set(VIEWS), f"some of {', '.join(VIEWS)}, or none")
    return found


# Of what D is computed beside the network and the examples as they are in training
VIEWS = ("calibrated", "augmented")


@dataclass(frozen=True, kw_only=True)
class SpectrumSettings(TrainingSettings):
    """Settings of ``spectrum``: train a network, compute ``D`` at several instants of the training.

    ``examples`` is the number of training examples over which ``D`` is computed (the first of a random order; all, if
    there are fewer), ``instants`` are fractions of the epochs. With ``anneal`` the learning rate falls to zero along a
    cosine. ``also`` names further matrices, whose arrays begin with that name: ``calibrated``, with the running
    statistics of :func:`sgdvi_lite.nets.calibrate`, and ``augmented``, over a shifted and mirrored copy of each
    example. In ``arithmetic`` float64 all eigenvalues are computed; in float32 those above the rank's threshold, and
    the others are zero.

    The presets of the paper follow the authors' code (github.com/pratikac/grad-info) as it was when the runs of the
    figures were made: pixels, networks, two digits for small-fc, dropout of the pixels of CIFAR, weight decay, plain
    momentum, batches of 128, checkpoints after the epochs 11, 21 and 50, running statistics as training leaves them,
    all examples in D. A command line could have changed the learning rate, 0.1 there, and its schedule, constant there
    and annealed in the text.
    """

    examples: int = setting(2000, "number of training examples over which D is computed", whole(2))
    instants: tuple[float, ...] = setting(
        (0.2, 0.4, 1.0), "when D is computed, in parts of the training", _fractions, metavar="FRACTIONS"
    )
    anneal: bool = setting(True, "let the learning rate fall along a cosine, or not at all", flag)
    also: tuple[str, ...] = setting((), "further matrices beside D", _views, metavar="NAMES", example=VIEWS)
    arithmetic: str = choice("float64", "of D; float32 keeps the leading eigenvalues", ["float64", "float32"])

    @property
    def stops(self) -> list[int]:
        """The epochs after which ``D`` is computed; 0 is the initialisation."""
        return sorted({max(int(instant > 0), round(instant * self.epochs)) for instant in self.instants})

    def rate(self, epoch: int) -> float:
        """Learning rate in an epoch: ``lr``, or half a cosine from there towards zero."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs)) if self.anneal else self.lr


_PAPER = SpectrumSettings(
    examples=60_000,
    epochs=50,
    instants=(0.22, 0.42, 1.0),
    lr=0.1,
    batch_size=128,
    nesterov=False,
    anneal=False,
    arithmetic="float32",
)
_CIFAR = replace(_PAPER, net="small-allcnn", pixels="whitened", dropout=0.0, input_dropout=0.2, weight_decay=1e-4)
_TWO_DIGITS = replace(_PAPER, classes=(0, 1), outputs=10, wrapped=True, pool=7, pixels="unit")
# Settings by name: ``lite`` for two CPU cores, the others at the paper's size
PRESETS = {
    "lite": SpectrumSettings(),
    "paper-mnist-lenet": replace(_PAPER, data="mnist", net="small-lenet", pixels="bytes"),
    "paper-mnist-fc": replace(_TWO_DIGITS, data="mnist", net="small-one-fc"),
    "paper-cifar10": replace(_CIFAR, data="cifar10", also=("augmented",)),
    "paper-cifar100": replace(_CIFAR, data="cifar100"),
}


def compute(chosen: SpectrumSettings, dataset: data.Dataset, partial: Path, progress: bool) -> tuple[dict, float]:
    """Run the experiment, or go on with what lies in the folder ``partial``; return its arrays and its seconds.

    Of several processes the first one trains and has the folder; the examples of ``D`` are spread over all.
    """
    trainer, order = _start(chosen, dataset)
    rows: list[dict] = []
    with taken(chosen, dataset, partial) as folder:

        def save() -> None:
            folder.save("state", {"trainer": trainer.state_dict(), "rows": rows})

        def train(stop: int) -> dict:
            folder.stopwatch.before += seconds_in(partial / f"D-{stop}")
            epochs = range(trainer.epochs_done, stop)
            for _ in tqdm(epochs, desc=f"training to epoch {stop}", unit="epoch", disable=not progress, leave=False):
                trainer.epoch()
                save()
            return trainer.state_dict()

        state = ranks.of_first(lambda: folder.load("state") or {"trainer": trainer.state_dict(), "rows": []})
        trainer.load_state_dict(state["trainer"])
        rows += state["rows"]
        for stop in chosen.stops[len(rows) :]:
            trainer.load_state_dict(ranks.of_first(lambda stop=stop: train(stop)))
            rows.append(_row(chosen, trainer, dataset, order, partial / f"D-{stop}", progress))
            if folder:
                save()
                shutil.rmtree(partial / f"D-{stop}", ignore_errors=True)
        seconds = folder.stopwatch.seconds if folder else 0.0
    arrays = {name: np.stack([row[name].numpy() for row in rows]) for name in rows[0]}
    N, d = len(order), nets.count_parameters(trainer.model)
    null = linalg.marchenko_pastur(N, d).numpy() * float(arrays["trace"][-1]) / d
    return arrays | {"N": np.array(N), "d": np.array(d), "null": null}, seconds


def _start(chosen: SpectrumSettings, dataset: data.Dataset) -> tuple[SGD, Tensor]:
    model, generator = chosen.network(dataset)
    order = torch.randperm(len(dataset.x_train), generator=generator)[: chosen.examples]
    _checks.count("examples", len(order), low=max(2, ranks.place()[1]), remedy="D takes two, and one for each process")
    x, y = dataset.x_train.to(chosen.device), dataset.y_train.to(chosen.device)
    options = {"momentum": chosen.momentum, "nesterov": chosen.nesterov, "weight_decay": chosen.weight_decay}
    options |= {"batch_size": chosen.batch_size, "generator": generator}
    return SGD(model, cross_entropy, x, y, lr=chosen.rate, **options), order


def _row(
    chosen: SpectrumSettings, trainer: SGD, dataset: data.Dataset, order: Tensor, folder: Path, progress: bool
) -> dict:
    """Tensors by name: what is saved of an instant."""
    row = {"epoch": trainer.epochs_done, "eps": torch.finfo(getattr(torch, chosen.arithmetic)).eps}
    for view in ("", *chosen.also):
        model, x = copy.deepcopy(trainer.model), trainer.x[order]
        if view == "calibrated":
            nets.calibrate(model, trainer.x)
        if view == "augmented":
            x = data.augment(x, torch.Generator().manual_seed(trainer.epochs_done))
        found = {
            "train_error": nets.error_rate(model, trainer.x, trainer.y),
            "test_error": nets.error_rate(model, dataset.x_test, dataset.y_test),
            **_spectrum(model.to(getattr(torch, chosen.arithmetic)), x, trainer.y[order], folder / view, progress),
        }
        row |= {f"{view}_{name}" if view else name: value for name, value in found.items()}
    return {name: torch.as_tensor(np.asarray(value)) for name, value in row.items()}


def _spectrum(model: nn.Module, x: Tensor, y: Tensor, folder: Path, progress: bool) -> dict:
    rank, size = ranks.place()
    own = {"group": ranks.group()} if size > 1 else {"folder": folder}
    dtype = next(model.parameters()).dtype
    x, y = x[rank::size].to(dtype), y[rank::size]
    D = DiffusionMatrix.from_model(model.eval(), cross_entropy, x, y, progress=progress, **own)
    values, p = _eigenvalues(D)
    found = {"trace": D.trace(), "frobenius": D.frobenius_norm()}
    return found | {"eigenvalues": values, "failure_probability": p}


def _eigenvalues(D: DiffusionMatrix) -> tuple[Tensor, float]:
    """All that can differ from zero, or those that the rank counts and zeros for the rest; how likely one is missed."""
    size = min(D.N, D.shape[0])
    if D.dtype == torch.float64:
        return D.eigenvalues(size).cpu(), 0.0
    certificate = D.rank_certificate()
    values = torch.zeros(size, dtype=torch.float64)
    values[: certificate.count] = certificate.values.cpu()
    return values, certificate.failure_probability

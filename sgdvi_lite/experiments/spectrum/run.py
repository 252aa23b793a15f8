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
from torch import Tensor
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


@dataclass(frozen=True, kw_only=True)
class SpectrumSettings(TrainingSettings):
    """Settings of ``spectrum``: train a network, compute ``D`` at several instants of the training.

    ``data`` is a name or an ``.npz`` (see :func:`sgdvi_lite.data.load`), ``pool`` the side to which its images are
    averaged, ``examples`` the number of training examples over which ``D`` is computed (the first of a random order;
    all, if there are fewer), ``instants`` fractions of the epochs. The learning rate falls to zero along a cosine. The
    images are standardised or, with ``whiten``, contrast-normalised and ZCA-whitened; with ``augment`` they are shifted
    and mirrored at random in training, and ``D`` is computed over one such copy of each. In ``arithmetic``
    float64 all eigenvalues are computed; in float32 those above the rank's threshold, and the others are zero.
    """

    examples: int = setting(2000, "number of training examples over which D is computed", whole(2))
    instants: tuple[float, ...] = setting(
        (0.2, 0.4, 1.0), "when D is computed, in parts of the training", _fractions, metavar="FRACTIONS"
    )
    whiten: bool = setting(False, "whiten the images (ZCA), or standardise them", flag)
    augment: bool = setting(False, "shift and mirror the images at random in training", flag)
    arithmetic: str = choice("float64", "of D; float32 keeps the leading eigenvalues", ["float64", "float32"])

    @property
    def stops(self) -> list[int]:
        """The epochs after which ``D`` is computed; 0 is the initialisation."""
        return sorted({max(int(instant > 0), round(instant * self.epochs)) for instant in self.instants})

    def rate(self, epoch: int) -> float:
        """Learning rate in an epoch: half a cosine from ``lr`` towards zero."""
        return self.lr * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))

    def prepared(self, dataset: data.Dataset) -> data.Dataset:
        """Pool the images if asked, and standardise or whiten them."""
        return data.gcn_zca(self.pooled(dataset)) if self.whiten else super().prepared(dataset)


_PAPER = SpectrumSettings(examples=60_000, instants=(0.0, 0.2, 0.4, 1.0))
_MNIST = replace(_PAPER, data="mnist", epochs=20)
_CIFAR = replace(_PAPER, net="small-allcnn", epochs=200, lr=0.1, batch_size=128, whiten=True)
# Settings by name: ``lite`` for two CPU cores, the others at the paper's size for a GPU
PRESETS = {
    "lite": SpectrumSettings(),
    "paper-mnist-lenet": replace(_MNIST, net="small-lenet"),
    "paper-mnist-fc": replace(_MNIST, net="small-fc", pool=7),
    "paper-cifar10": replace(_CIFAR, data="cifar10"),
    "paper-cifar10-augmented": replace(_CIFAR, data="cifar10", augment=True),
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
            rows.append(_row(trainer, dataset, order, chosen.arithmetic, partial / f"D-{stop}", progress))
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
    options = {"momentum": chosen.momentum, "nesterov": chosen.momentum > 0, "generator": generator}
    options["transform"] = data.augment if chosen.augment else None
    return SGD(model, cross_entropy, x, y, lr=chosen.rate, batch_size=chosen.batch_size, **options), order


def _row(trainer: SGD, dataset: data.Dataset, order: Tensor, arithmetic: str, folder: Path, progress: bool) -> dict:
    """Tensors by name: what is saved of an instant."""
    dtype = getattr(torch, arithmetic)
    model = copy.deepcopy(trainer.model).to(dtype).eval()
    x, y = trainer.x[order], trainer.y[order]
    if trainer.transform:
        x = trainer.transform(x, torch.Generator().manual_seed(trainer.epochs_done))
    rank, size = ranks.place()
    own = {"group": ranks.group()} if size > 1 else {"folder": folder}
    x, y = x[rank::size].to(dtype), y[rank::size]
    D = DiffusionMatrix.from_model(model, cross_entropy, x, y, progress=progress, **own)
    row = {
        "epoch": trainer.epochs_done,
        "eps": torch.finfo(dtype).eps,
        "trace": D.trace(),
        "frobenius": D.frobenius_norm(),
        "train_error": nets.error_rate(trainer.model, trainer.x, trainer.y),
        "test_error": nets.error_rate(trainer.model, dataset.x_test, dataset.y_test),
    }
    row["eigenvalues"], row["failure_probability"] = _eigenvalues(D, arithmetic)
    return {name: torch.as_tensor(np.asarray(value)) for name, value in row.items()}


def _eigenvalues(D: DiffusionMatrix, arithmetic: str) -> tuple[Tensor, float]:
    """All that can differ from zero, or those that the rank counts and zeros for the rest; how likely one is missed."""
    size = min(D.N, D.shape[0])
    if arithmetic == "float64":
        return D.eigenvalues(size).cpu(), 0.0
    certificate = D.rank_certificate()
    values = torch.zeros(size, dtype=torch.float64)
    values[: certificate.count] = certificate.values.cpu()
    return values, certificate.failure_probability

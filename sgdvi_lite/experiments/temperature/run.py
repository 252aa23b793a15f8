"""The experiment ``temperature``: how far SGD wanders along the steepest directions, and how far a force moves it.

A network with and without batch-norm is run at a constant rate, with batches drawn independently and reshuffled. At the
mean of its weights the leading directions of the Hessian are found, and what the linear theory makes of the noise.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from sgdvi_lite import _checks, data, series, sgd
from sgdvi_lite._storage.folder import seconds_in
from sgdvi_lite.experiments import ranks
from sgdvi_lite.experiments.temperature import measures
from sgdvi_lite.experiments.training import TrainingSettings, real, setting, taken, whole
from sgdvi_lite.series.estimates import mean_of_stretches, stretches

# The norm of the network and how batches are drawn, in the order of the arrays' first axis
CASES = tuple(product((None, "batch"), ("with", "reshuffled")))

# Stretches of a path, for the errors; what is slower is told apart from what is faster
STRETCHES = 30

# Epochs after the settling: stretches of ten
SHORTEST = 300

# Snapshots from which copies are pulled, for the errors
STARTS = 4


@dataclass(frozen=True, kw_only=True)
class TemperatureSettings(TrainingSettings):
    """Settings of ``temperature``: train for ``epochs`` at a constant rate, drop the first ``settling``.

    ``directions`` is the number of leading eigenvectors of the Hessian, ``draws`` that of the pairs of batches that
    tell the noise. Then, for ``pulling`` epochs, forces pull copies along the steepest, the middle and the last of
    these directions and along a random mixture of all, so that they would move by ``pull`` standard deviations if the
    loss were quadratic. Weight decay gives a steady state: weights relax in 1 / (lr weight_decay) steps or less.
    """

    net: str = "tiny-one-fc"
    pool: int | None = 4
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int = 1400
    lr: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.03
    batch_size: int = 32
    settling: int = setting(200, "epochs that are dropped before the measurement", whole(0))
    directions: int = setting(12, "leading directions of the Hessian", whole(3))
    draws: int = setting(2000, "pairs of batches that tell the noise", whole(2))
    pulling: int = setting(20, "epochs with a force", whole())
    pull: float = setting(0.1, "displacement by the force, in standard deviations", real(_checks.positive))

    def __post_init__(self):
        """Refuse settings that cannot work before any work is done."""
        super().__post_init__()
        fault = f"epochs = {self.epochs} with settling = {self.settling}: expected at least {SHORTEST} epochs after it"
        _checks.require(self.epochs - self.settling >= SHORTEST, fault)

    @property
    def inertia(self) -> dict:
        """Momentum, as the functions of :mod:`sgdvi_lite.sgd` take it."""
        return {"momentum": self.momentum, "nesterov": self.nesterov}


# Settings by name: ``lite`` on the digits, ``paper`` on the images of the longer version's Figure 3
PRESETS = {
    "lite": TemperatureSettings(),
    "paper": TemperatureSettings(data="mnist", pool=7, batch_size=128, epochs=1200, directions=16, pulling=8),
}


def compute(chosen: TemperatureSettings, dataset: data.Dataset, partial: Path, progress: bool) -> tuple[dict, float]:
    """Run the experiment, or go on with what lies in the folder ``partial``; return its arrays and its seconds."""
    fault = f"experiment = 'temperature' with {ranks.place()[1]} processes: expected one, as it is one chain of steps"
    _checks.require(ranks.group() is None, f"{fault}; run it without torchrun")
    with taken(chosen, dataset, partial) as folder:
        places = [partial / f"run-{norm}-{sampling}" for norm, sampling in CASES]
        folder.stopwatch.before += sum(map(seconds_in, places))
        bar = tqdm(zip(CASES, places, strict=True), "cases", len(CASES), disable=not progress, leave=False)
        rows = [_case(chosen, dataset, *case, place, progress=progress) for case, place in bar]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, folder.stopwatch.seconds


def _case(chosen, dataset: data.Dataset, norm: str | None, sampling: str, place: Path, *, progress: bool) -> dict:
    """Arrays of one case; those of the directions ``(k,)``, those of the forces ``(4, ...)``."""
    model, generator = chosen.network(dataset, norm=norm)
    N, b, every = len(dataset.x_train), chosen.batch_size, len(dataset.x_train) // chosen.batch_size
    options = {"lr": chosen.lr, "batch_size": b, "weight_decay": chosen.weight_decay, "every": every} | chosen.inertia
    options |= {"n_steps": every * chosen.epochs, "sampling": sampling, "generator": generator, "progress": progress}
    x, y = dataset.x_train.to(chosen.device), dataset.y_train.to(chosen.device)
    made = sgd.record(model, cross_entropy, x, y, place, **options)
    land, path = measures.Landscape(model, dataset, chosen), made.weights[1 + chosen.settling :].astype(float)
    curvature, V = land.leading(torch.from_numpy(path.mean(axis=0)))
    draws = land.noise(path, V, generator)
    noise = series.batch_means(draws**2)
    steps = series.momentum_process(np.diag(curvature), np.diag(noise.value), chosen.lr, **chosen.inertia)
    theory = {f"predicted_{way}": measures.within(steps, N, b, way, len(path) // STRETCHES) for _, way in CASES[:2]}
    balance = series.stationarity(*(side[chosen.settling :] for side in made.balance()))
    found = {"N": N, "d": len(V), "loss": made.loss[chosen.settling :].mean(), "balance": balance}
    found |= (
        {"curvature": curvature, "noise_covariance": np.cov(draws.T)}
        | _named("noise", noise)
        | theory
        | _variances(path @ V)
    )
    return found | _pulled(land, path, V, curvature, sampling, generator)


def _variances(z: np.ndarray) -> dict:
    """Covariance of the columns within stretches, their variances there and over all."""
    within, total = stretches(z, STRETCHES), series.batch_means((z - z.mean(axis=0)) ** 2, STRETCHES)
    found = {"covariance": np.mean([np.cov(part.T) for part in within], axis=0)} | _named("total", total)
    return found | _named("variance", mean_of_stretches(within.var(axis=1, ddof=1)))


def _named(name: str, estimate: series.Estimate) -> dict:
    return {name: estimate.value, f"{name}_error": estimate.error}


def _pulled(land, path: np.ndarray, V: np.ndarray, curvature: np.ndarray, sampling: str, generator) -> dict:
    """Displacement over force ``(4, pulling)``, at the end in all directions ``(4, k)``; what a quadratic loss says.

    ``stiffness`` is force over displacement where the Hessian at the mean is all that counts.
    """
    k = len(curvature)
    mixed = torch.randn(1, k, generator=generator).double().numpy()
    forces = np.vstack([np.eye(k)[[0, k // 2, k - 1]], mixed / np.linalg.norm(mixed)])
    stiffness, along = 1 / (forces**2 / curvature).sum(axis=1), _variances(path @ V @ forces.T)
    size = (land.chosen.pull * stiffness * np.sqrt(along["variance"]))[:, None]
    starts = torch.from_numpy(path[np.linspace(0, len(path) - 1, STARTS).astype(int)])
    moved = land.pulled(starts, torch.from_numpy(size * forces @ V.T), sampling, generator).numpy() @ V
    response = mean_of_stretches(np.einsum("esmk,mk->sme", moved, forces) / size)
    found = {"forces": forces, "stiffness": stiffness} | _named("response", response)
    found |= _named("displaced", mean_of_stretches(moved[-1] / size))
    return found | {f"pulled_{name}": values for name, values in along.items()}

"""What the experiments share: settings of a network and its training, the texts of their options, and their folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import nn

from sgdvi_lite import _checks, data, nets
from sgdvi_lite._storage.folder import Folder, Kind
from sgdvi_lite.experiments import ranks

# The partial folder; until it had a header, the digest of the settings in its name told whose it was
EXPERIMENT = Kind("experiment.json", "experiment", "computes", headerless=("state.pt", "D-*", "run"))
SEEDS = 2**63 - 1  # the largest seed; the next one is used too


def setting(default: Any, text: str, **option) -> Any:
    """A field of settings, with the text of its option and what else that needs: choices, metavar, an example."""
    return field(default=default, metadata={"help": text, **option})


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of every experiment; each adds its own. They enter the digest in the name of a result.

    ``data`` is a name or an ``.npz`` (see :func:`sgdvi_lite.data.load`), ``pool`` the side to which its images are
    averaged.
    """

    data: str = setting("digits", "name of a data set, or a .npz with x_train, y_train, x_test, y_test")
    net: str = setting("small-fc", "the network", choices=tuple(nets.NETWORKS))
    pool: int | None = setting(None, "average the images down to SIDE x SIDE pixels", metavar="SIDE")
    epochs: int = setting(10, "epochs of the training")
    lr: float = setting(0.05, "learning rate; of spectrum, the initial one")
    momentum: float = setting(0.9, "momentum in [0, 1)")
    batch_size: int = setting(64, "examples in a batch")
    seed: int = setting(0, "seed of the weights, the batches and whatever else is random")
    device: str = setting("cpu", "cpu, cuda, cuda:1, ...")
    labels: str | None = setting(None, "number the labels of a .npz 0, 1, 2, ... in their order", choices=("compact",))

    def __post_init__(self):
        """Refuse settings that cannot work before any work is done; NumPy's numbers become Python's."""
        for name, kind in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _plain(name, getattr(self, name), kind))
        _checks.one_of("net", self.net, nets.NETWORKS)
        _checks.count("seed", self.seed, low=0, high=SEEDS)
        _checks.count("pool", 1 if self.pool is None else self.pool)
        for name in ("epochs", "batch_size"):
            _checks.count(name, getattr(self, name))
        _checks.positive("lr", self.lr)
        _checks.momentum(self.momentum, nesterov=False)
        _checks.device(self.device)

    def prepared(self, dataset: data.Dataset) -> data.Dataset:
        """Pool the images if asked, and standardise them."""
        return data.standardise(self.pooled(dataset))

    def pooled(self, dataset: data.Dataset) -> data.Dataset:
        """Pool the images if asked."""
        return dataset if self.pool is None else data.average_pool(dataset, self.pool, name="pool")

    def network(self, dataset: data.Dataset, norm: str | None = "batch") -> tuple[nn.Module, torch.Generator]:
        """The network as it is before the first step, and the generator that drew it and will draw the batches."""
        _checks.argument("data", self.data, dataset.classes > 1, "at least two classes")
        generator = torch.Generator().manual_seed(self.seed)
        shape = tuple(dataset.x_train.shape[1:])
        model = nets.build(self.net, in_shape=shape, classes=dataset.classes, generator=generator, norm=norm)
        low = 1 + any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())  # which of one example is nothing
        _checks.count("batch_size", self.batch_size, low, len(dataset.x_train), "change --batch-size")
        return model.to(self.device), generator


def _plain(name: str, value: Any, kind: Any) -> Any:
    """A setting in Python's own types, by which it enters the digest; raise unless it is of its kind."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    value = value.tolist() if hasattr(value, "tolist") else value
    several = get_origin(kind) is tuple
    if several and isinstance(value, list | tuple):
        return tuple(_plain(name, one, get_args(kind)[0]) for one in value)
    value = float(value) if kind is float and type(value) is int else value
    if several or type(value) not in (get_args(kind) or (kind,)):
        raise TypeError(f"{name} = {value!r}: expected {kind.__name__ if isinstance(kind, type) else kind}")
    return value


@contextmanager
def taken(chosen: TrainingSettings, dataset: data.Dataset, partial: Path) -> Iterator[Folder | None]:
    """The folder in which a run leaves what is done, until the end of the block; of several processes the first's."""
    if ranks.place()[0] > 0:
        yield None
        return
    folder = Folder(partial, EXPERIMENT, {"settings": asdict(chosen), "data_sha256": dataset.sha256})
    try:
        yield folder
    finally:
        folder.close()

"""What the experiments share: settings of a network and its training, the texts of their options, and their folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sgdvi_lite import _checks, data, nets
from sgdvi_lite._storage.folder import Folder, Kind
from sgdvi_lite.experiments import ranks

EXPERIMENT = Kind("experiment.json", "experiment")  # the partial folder


Check = Callable[[str, Any], Any]


def setting(default: Any, text: str, check: Check = lambda name, value: str(value), **option) -> Any:
    """A field of settings: the text of its option, what checks a value by its name, what else the option needs."""
    return field(default=default, metadata={"help": text, "check": check, **option})


def whole(low: int = 1, high: int | None = None) -> Check:
    """A check of whole numbers."""
    return partial(_checks.count, low=low, high=high)


def choice(default: str | None, text: str, names: Iterable[str]) -> Any:
    """A field that is one of some names."""
    return setting(default, text, partial(_checks.one_of, allowed=tuple(names)), choices=tuple(names))


def labels(name: str, value: Any) -> tuple[int, ...]:
    """A check of labels that are kept."""
    found = tuple(_checks.count(name, label, low=0) for label in np.ravel(value).tolist())
    _checks.argument(name, found, len(found) != 1, "at least two labels, or none to keep all")
    return found


def flag(name: str, value: Any) -> bool:
    """A check of what is true or false."""
    _checks.argument(name, repr(value), value in (True, False), "True or False")
    return bool(value)


def real(check: Check) -> Check:
    """A check of numbers that are floats, also where a whole one came, as the digest tells them apart."""
    return lambda name, value: float(check(name, value))


# How pixels reach the network; they are loaded in [0, 1]
PIXELS: dict[str, Callable[[data.Dataset], data.Dataset]] = {
    "standardised": data.standardise,
    "whitened": data.gcn_zca,
    "unit": lambda dataset: dataset,
    "bytes": lambda dataset: replace(dataset, x_train=255 * dataset.x_train, x_test=255 * dataset.x_test),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of every experiment; each adds its own. They enter the digest in the name of a result.

    ``data`` is a name or an ``.npz`` (see :func:`sgdvi_lite.data.load`), of which the images of some ``classes`` are
    kept (all, if it is empty), ``pool`` the side to which they are averaged. The pixels are standardised, contrast-
    normalised and ZCA-whitened, or left in [0, 1] (``unit``) or [0, 255] (``bytes``). Momentum and weight decay are as
    in :class:`torch.optim.SGD`.
    """

    data: str = setting("digits", "name of a data set, or a .npz with x_train, y_train, x_test, y_test")
    net: str = choice("small-fc", "the network", nets.NETWORKS)
    classes: tuple[int, ...] = setting(
        (), "labels that are kept, all by default", labels, metavar="LABELS", example=(0, 1)
    )
    outputs: int | None = setting(None, "outputs of the network, by default one for each label", whole(2))
    pixels: str = choice("standardised", "how pixels reach the network", PIXELS)
    wrapped: bool = setting(False, "let bytes overflow, as in the authors' loader of small images", flag)
    dropout: float | None = setting(None, "rate of dropout, by default the network's own", real(_checks.rate))
    input_dropout: float = setting(0.0, "rate of dropout of the pixels", real(_checks.rate))
    pool: int | None = setting(None, "average the images down to SIDE x SIDE pixels", whole(), metavar="SIDE")
    epochs: int = setting(10, "epochs of the training", whole())
    lr: float = setting(0.05, "learning rate; of spectrum, the initial one", real(_checks.positive))
    momentum: float = setting(0.9, "momentum in [0, 1)", real(lambda name, value: _checks.momentum(value, False)))
    nesterov: bool = setting(True, "Nesterov's momentum, or the plain one", flag)
    weight_decay: float = setting(0.0, "weight decay, at least 0", real(_checks.not_negative))
    batch_size: int = setting(64, "examples in a batch", whole())
    seed: int = setting(0, "seed of the weights, the batches and whatever else is random", whole(0, 2**63 - 1))
    device: str = setting("cpu", "cpu, cuda, cuda:1, ...")
    labels: str | None = choice(None, "number the labels of a .npz 0, 1, 2, ... in their order", ["compact"])

    def __post_init__(self):
        """Refuse settings that cannot work before any work is done; numbers of NumPy and torch become Python's."""
        for one in (*fields(TrainingSettings), *fields(self)):  # those with another default have no check of their own
            check, value = one.metadata.get("check"), getattr(self, one.name)
            if check and not (value is None is one.default):
                object.__setattr__(self, one.name, check(one.name, value))
        _checks.momentum(self.momentum, self.nesterov)
        _checks.device(self.device)

    def prepared(self, dataset: data.Dataset) -> data.Dataset:
        """Keep the classes, pool the images if asked, and bring the pixels to the network's scale."""
        kept = data.class_subset(dataset, self.classes) if self.classes else dataset
        kept = data.overflow(kept) if self.wrapped else kept
        pooled = kept if self.pool is None else data.average_pool(kept, self.pool, name="pool")
        return PIXELS[self.pixels](replace(pooled, classes=self.outputs or pooled.classes))

    def network(self, dataset: data.Dataset, **layers) -> tuple[nn.Module, torch.Generator]:
        """The network as it is before the first step, and the generator that drew it and will draw the batches.

        ``layers`` are those options of :func:`sgdvi_lite.nets.build` that say which layers there are.
        """
        _checks.argument("data", self.data, dataset.classes > 1, "at least two classes")
        generator = torch.Generator().manual_seed(self.seed)
        shape = tuple(dataset.x_train.shape[1:])
        layers |= {"classes": dataset.classes, "dropout": self.dropout}
        model = nets.build(self.net, in_shape=shape, generator=generator, **layers)
        low = 1 + any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules())  # which of one example is nothing
        _checks.count("batch_size", self.batch_size, low, len(dataset.x_train), "change --batch-size")
        model = nn.Sequential(nn.Dropout(self.input_dropout), model) if self.input_dropout else model
        return model.to(self.device), generator


@contextmanager
def taken(chosen: TrainingSettings, dataset: data.Dataset, place: Path) -> Iterator[Folder | None]:
    """The folder in which a run leaves what is done, until the end of the block; of several processes the first's."""
    if ranks.place()[0] > 0:
        yield None
        return
    identity = {"settings": asdict(chosen), "data_sha256": dataset.sha256}
    with closing(Folder(place, EXPERIMENT, identity)) as folder:
        yield folder

"""What the experiments share: settings of a network and its training, and the texts of their options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sgdvi_lite import _checks, data, nets


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

    def __post_init__(self):
        """Refuse settings that cannot work before any work is done."""
        _checks.one_of("net", self.net, nets.NETWORKS)
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
        return dataset if self.pool is None else data.average_pool(dataset, self.pool)

    def network(self, dataset: data.Dataset, norm: str | None = "batch") -> tuple[nn.Module, torch.Generator]:
        """The network as it is before the first step, and the generator that drew it and will draw the batches."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = tuple(dataset.x_train.shape[1:])
        model = nets.build(self.net, in_shape=shape, classes=dataset.classes, generator=generator, norm=norm)
        return model.to(self.device), generator

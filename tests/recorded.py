"""A recorded run for the tests, also in a process of its own that is killed."""

import time

import torch
from problems import CLASSES, SHAPES, examples, generator
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import nets, sgd
from sgdvi_lite.sgd.loop import Run

SETTINGS = {"lr": 0.05, "batch_size": 16, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
KINDS = ("tiny-fc", "dropout")


def network(kind, dtype=torch.float32):
    """tiny-fc, or a network with batch-norm and dropout, which goes by autograd; and 100 examples."""
    g = generator(3)
    x, y = examples("tiny-fc", 100)
    model = nets.build("tiny-fc", in_shape=SHAPES["tiny-fc"], classes=CLASSES["tiny-fc"], generator=g)
    if kind == "dropout":
        model.insert(2, nn.Dropout(0.2))
    return model.to(dtype), x.to(dtype), y


def start(folder, kind="tiny-fc", dtype=torch.float32, **change):
    """Record a run, or go on with one: the network, the generator and the recording."""
    model, x, y = network(kind, dtype)
    options = SETTINGS | {"n_steps": 400, "every": 4, "generator": generator(7), "progress": False} | change
    return model, options["generator"], sgd.record(model, cross_entropy, x, y, folder, **options)


class Stops:
    """Lets ``left`` more chunks of a run be made, then raises ``KeyboardInterrupt``."""

    def __init__(self, monkeypatch, left):
        self.left, chunk = left, Run._chunk

        def stopping(run, *arguments):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            chunk(run, *arguments)

        monkeypatch.setattr(Run, "_chunk", stopping)


def slowly(begun, folder, kind, options):
    """The same, with a rest after each chunk, so that a kill can fall anywhere; ``begun`` is set at the start."""
    chunk = Run._chunk

    def with_a_rest(self, *arguments):
        chunk(self, *arguments)
        time.sleep(0.06)

    Run._chunk = with_a_rest
    torch.set_num_threads(1)
    begun.set()
    start(folder, kind, **options)

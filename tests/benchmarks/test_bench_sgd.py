"""One trajectory of tiny-fc, batch 128, Nesterov momentum: the recording against PyTorch's optimiser, on one thread.

The examples are images of 7 x 7 in five classes, as many as MNIST's digits 0 to 4 averaged down, at random: the time of
a step does not depend on what they show. All start from the same weights; the peer with tensors in memory and the
library also see the same batches.
"""

import itertools

import pytest
import torch
from problems import generator
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sgdvi_lite import nets, sgd
from sgdvi_lite.sgd.contract import Settings
from sgdvi_lite.sgd.engines.fully_connected import FullyConnected
from sgdvi_lite.sgd.sampling import epoch

N, BATCH, EPOCHS = 30_000, 128, 20
RATES = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}
STEPS = EPOCHS * (N // BATCH)


def start():
    g = generator(5)
    x, y = torch.rand(N, 1, 7, 7, generator=g), torch.randint(5, (N,), generator=g)
    return nets.build("tiny-fc", in_shape=(1, 7, 7), classes=5, generator=g).train(), x, y


def train(model, batches, steps=STEPS):
    optimizer = torch.optim.SGD(model.parameters(), **RATES)
    for x, y in itertools.islice(batches, steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


def data_loader(folder):
    model, x, y = start()
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True, drop_last=True, generator=generator())
    train(model, itertools.chain.from_iterable(itertools.repeat(loader)))


def drawn(g):
    while True:
        torch.randint(2**31, (), generator=g)
        yield from epoch(N, BATCH, "reshuffled", g)


def preloaded(folder, steps=STEPS):
    model, x, y = start()
    train(model, ((x[index], y[index]) for index in drawn(generator())), steps)
    return nets.flat_parameters(model)


def record(folder, every, n_steps=STEPS, **options):
    model, x, y = start()
    options = RATES | {"batch_size": BATCH, "generator": generator(), "progress": False, "every": every} | options
    sgd.record(model, cross_entropy, x, y, folder, n_steps=n_steps, **options)
    return nets.flat_parameters(model)


def recorded_each_epoch(folder):
    record(folder, 234)


def recorded_each_step(folder):
    record(folder, 1)


def by_autograd(folder):
    record(folder, 234, engine="autograd")


def not_recorded(folder):
    """The engine alone: what recording adds is the difference."""
    model, x, y = start()
    order = {"n_steps": STEPS, "every": STEPS, "batch_size": BATCH, "sampling": "reshuffled", "engine": "auto", "N": N}
    engine, g = FullyConnected(model, cross_entropy, x, y, Settings(**RATES, **order)), generator()
    for _ in range(EPOCHS):
        torch.randint(2**31, (), generator=g)
        index = epoch(N, BATCH, "reshuffled", g)
        for k in range(0, len(index), 32):
            engine.prepare(index[k : k + 32], 0)
            for step in range(len(index[k : k + 32])):
                engine.step(step)
            engine.log(len(index[k : k + 32]))


WAYS = [data_loader, preloaded, by_autograd, not_recorded, recorded_each_epoch, recorded_each_step]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_trajectory(benchmark, tmp_path, way):
    benchmark.group = f"tiny-fc, {STEPS} steps of batch {BATCH}"
    folders = (str(tmp_path / str(k)) for k in itertools.count())
    rounds = 3 if way in (data_loader, preloaded, by_autograd) else 7
    benchmark.pedantic(way, setup=lambda: ((next(folders),), {}), rounds=rounds)
    benchmark.extra_info["microseconds a step"] = round(benchmark.stats.stats.median / STEPS * 1e6, 1)


def test_the_same_numbers(tmp_path):
    """To rounding, for an epoch; later two single-precision trajectories part, as chaotic ones do."""
    assert (record(tmp_path, 1, 234) - preloaded(tmp_path, 234)).abs().max() < 1e-5

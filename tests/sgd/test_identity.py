"""Whose run it is: what network and loss compute, and the same cell run twice."""

from functools import partial

import numpy as np
import pytest
import recorded
import torch
from problems import generator, one_thread  # noqa: F401
from torch import nn
from torch.nn import functional as F

from sgdvi_lite import nets, sgd
from sgdvi_lite.sgd.contract import Settings
from sgdvi_lite.sgd.engines.choice import what_is_computed

pytestmark = pytest.mark.usefixtures("one_thread")


def record(folder, loss, model=None, y=None, **change):
    found, x, labels = recorded.network("tiny-fc", torch.float64)
    options = recorded.SETTINGS | {"n_steps": 12, "every": 4, "generator": generator(7), "progress": False} | change
    return sgd.record(model or found, loss, x, labels if y is None else y, folder, **options)


def rare(label):
    """Labels of which one is rare."""
    y = torch.arange(100) % 4
    y[61] = label
    return y


def one_hot(y):
    return F.one_hot(y, 5).double()


LOSSES = {
    "lambdas": (lambda out, y: F.cross_entropy(out, y), lambda out, y: 2 * F.cross_entropy(out, y)),
    "smoothing": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "a little more smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.101)),
    "sum": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")),
    "a rare label is ignored": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(ignore_index=4)),
    "a rare label weighs": (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(torch.tensor([1, 1, 1, 1, 2.0]).double())),
    "partials": (partial(F.cross_entropy), partial(F.cross_entropy, label_smoothing=0.1)),
    "constants": (lambda out, y: F.cross_entropy(out, y), lambda out, y: F.cross_entropy(out, y) + 1e-3),
    "only far away": (
        lambda out, y: F.huber_loss(out, one_hot(y), delta=1.5),
        lambda out, y: F.huber_loss(out, one_hot(y), delta=1.7),
    ),
}


@pytest.mark.parametrize(("one", "other"), LOSSES.values(), ids=LOSSES)
def test_a_loss_is_known_by_what_it_computes(tmp_path, one, other):
    record(tmp_path, one, y=rare(4))
    before = (tmp_path / "weights.npy").read_bytes()
    with pytest.raises(ValueError, match="holds another run: computes = "):
        record(tmp_path, other, y=rare(4))
    assert record(tmp_path, one, y=rare(4)).done == 12 and (tmp_path / "weights.npy").read_bytes() == before


def test_the_same_loss_under_another_name_is_the_same(tmp_path):
    def mine(out, y):
        return F.cross_entropy(out, y)

    made = record(tmp_path, lambda out, y: F.cross_entropy(out, y))
    assert np.array_equal(record(tmp_path, mine).weights, made.weights)


class Net(nn.Module):
    """Networks of one name and one picture, which compute different things."""

    def __init__(self, activation=torch.tanh, scale=1.0):
        super().__init__()
        g = generator(4)
        self.first, self.last = nn.Linear(49, 6).double(), nn.Linear(6, 5).double()
        for p in self.parameters():
            p.data.uniform_(-0.3, 0.3, generator=g)
        self.activation, self.scale = activation, scale

    def forward(self, x):
        return self.scale * self.last(self.activation(self.first(x.flatten(1))))


@pytest.mark.parametrize("change", [{"activation": torch.sin}, {"scale": 1.01}])
def test_a_network_is_known_by_what_it_computes(tmp_path, change):
    record(tmp_path, F.cross_entropy, Net())
    with pytest.raises(ValueError, match="holds another run: computes"):
        record(tmp_path, F.cross_entropy, Net(**change))


def test_other_frozen_weights_of_the_same_number_are_another_run(tmp_path):
    def frozen(name):
        model = nn.Sequential(nn.Flatten(), nn.Linear(49, 5), nn.Linear(5, 5), nn.Linear(5, 5)).double()
        for k, p in enumerate(model.parameters()):
            p.data.uniform_(-0.3, 0.3, generator=generator(k))
        model[name].requires_grad_(False)
        return model

    record(tmp_path, F.cross_entropy, frozen(2))
    with pytest.raises(ValueError, match="holds another run: computes"):
        record(tmp_path, F.cross_entropy, frozen(3))


def test_what_is_computed_leaves_the_network_and_knows_rounding_from_change(tmp_path, monkeypatch):
    model, x, y = recorded.network("dropout")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    random = torch.random.get_rng_state()
    settings = Settings(n_steps=4, every=1, sampling="with", engine="auto", N=100, **recorded.SETTINGS)
    told = what_is_computed(model, F.cross_entropy, x, y, settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(set(told)) == len(told) == 4
    record(tmp_path, F.cross_entropy)
    assert not torch.equal(torch.random.get_rng_state(), random)  # by what_is_computed alone; record forks
    for size, same in ((1e-6, True), (1e-3, False)):
        monkeypatch.setattr(
            "sgdvi_lite.sgd.recording.what_is_computed",
            lambda *a, size=size: [t * (1 + size) for t in what_is_computed(*a)],
        )
        if same:
            record(tmp_path, F.cross_entropy)
        else:
            with pytest.raises(ValueError, match="computes"):
                record(tmp_path, F.cross_entropy)


# ---- the same cell, run twice


class Cell:
    """A cell of a notebook that records, and those before it, which make the network and the generator."""

    def __init__(self, folder, kind):
        self.folder, self.kind = folder, kind
        self.make()

    def make(self):
        (self.model, self.x, self.y), self.g = recorded.network(self.kind), generator(7)

    def run(self, **change):
        options = recorded.SETTINGS | {"n_steps": 40, "every": 4, "generator": self.g, "progress": False} | change
        return sgd.record(self.model, F.cross_entropy, self.x, self.y, self.folder, **options)

    def state(self):
        return [t.clone() for t in self.model.state_dict().values()], self.g.get_state()


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True)) and torch.equal(one[1], other[1])


@pytest.mark.parametrize("kind", recorded.KINDS)
@pytest.mark.parametrize("made_again", [(), ("g",), ("model",)], ids=["nothing", "generator", "network"])
def test_the_same_cell_again_gives_the_run_that_is_there_or_makes_it_longer(tmp_path, kind, made_again):
    cell, long = Cell(tmp_path / "run", kind), Cell(tmp_path / "long", kind)
    made, whole = cell.run(), long.run(n_steps=100)
    weights, end = np.array(made.weights), cell.state()
    for n_steps, expected, state in ((40, weights, end), (100, whole.weights, long.state())):
        fresh = Cell(None, kind)
        for name in made_again:
            setattr(cell, name, getattr(fresh, name))
        with pytest.warns(UserWarning, match="model or generator is where the run there has left it"):
            again = cell.run(n_steps=n_steps)
        assert np.array_equal(again.weights, expected) and same(cell.state(), state) and not cell.model.training


def test_the_same_cell_again_after_a_stop_goes_on(tmp_path, monkeypatch):
    cell, whole = Cell(tmp_path / "run", "dropout"), Cell(tmp_path / "whole", "dropout").run(n_steps=400)
    start, stops = cell.state(), recorded.Stops(monkeypatch, left=3)
    with pytest.raises(KeyboardInterrupt):
        cell.run(n_steps=400, checkpoint_seconds=0.0)
    assert same(cell.state(), start) and cell.model.training
    stops.left = 10**9
    assert np.array_equal(cell.run(n_steps=400).weights, whole.weights)


def test_a_network_that_was_trained_further_is_refused_and_stays(tmp_path):
    cell = Cell(tmp_path, "tiny-fc")
    cell.run()
    with torch.no_grad():
        next(cell.model.parameters())[0, 0] += 1
    before = cell.state()
    with (
        pytest.warns(UserWarning, match="is where the run"),
        pytest.raises(
            ValueError, match=r"start_sha256.*choose another folder, or call it as then: model and generator"
        ),
    ):
        cell.run()
    assert same(cell.state(), before)
    cell.g = generator(7)
    with pytest.raises(ValueError, match="start_sha256"):
        cell.run()


def test_another_cell_in_the_folder_is_refused_and_changes_nothing(tmp_path):
    cell = Cell(tmp_path, "tiny-fc")
    cell.run()
    before = cell.state()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"lr = 0\.05 there and 0\.06 here"):
        cell.run(lr=0.06)
    assert same(cell.state(), before)


def test_numbers_and_arrays_of_numpy_are_welcome(tmp_path):
    rates = {"lr": np.float32(0.05), "momentum": np.float32(0.5), "weight_decay": np.float64(1e-3)}
    counts = {"n_steps": np.int64(12), "every": np.int32(4), "batch_size": np.int16(16), "nesterov": np.bool_(True)}
    made = record(tmp_path, F.cross_entropy, **rates, **counts)
    assert made.run["lr"] == float(np.float32(0.05)) and type(made.run["n_steps"]) is int
    model, x, y = recorded.network("tiny-fc", torch.float64)
    options = recorded.SETTINGS | {"n_steps": 12, "every": 4, "generator": generator(7), "progress": False}
    arrays = sgd.record(model, F.cross_entropy, x.numpy(), y.numpy(), tmp_path / "arrays", **options)
    assert np.array_equal(arrays.weights, record(tmp_path / "tensors", F.cross_entropy).weights)
    for bad in ({"n_steps": np.float32(12.5)}, {"every": 4.0}):
        with pytest.raises(TypeError, match=r"n_steps|every"):
            record(tmp_path / "bad", F.cross_entropy, **bad)
    assert nets.count_parameters(model) == made.run["d"]

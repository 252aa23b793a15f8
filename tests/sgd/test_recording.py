"""Recorded runs: the same numbers as PyTorch's own optimiser, restart to the last bit, files that are never lost."""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import signal
import warnings
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import recorded
import torch
from problems import generator, one_thread  # noqa: F401
from references import plain_sgd
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from sgdvi_lite import nets, sgd
from sgdvi_lite.sgd.contract import Engine, Settings
from sgdvi_lite.sgd.engines.fully_connected import applies, blocks
from sgdvi_lite.sgd.loop import first_failure, last_finite

HERE = Path(__file__).parents[1]
FILES = ("weights.npy", "log.npy", "run.json")
RATES = [
    {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
    {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("rates", RATES, ids=["plain", "momentum", "nesterov and decay"])
@pytest.mark.parametrize("engine", ["auto", "autograd"])
def test_every_step_is_that_of_pytorch_to_machine_precision(tmp_path, engine, rates):
    model, x, y = recorded.network("tiny-fc", torch.float64)
    weights, losses = plain_sgd(model, cross_entropy, x, y, generator(7), n_steps=40, b=16, lr=0.05, **rates)
    ours, _, made = recorded.start(tmp_path, dtype=torch.float64, n_steps=40, every=1, engine=engine, **rates)
    assert np.abs(made.weights - weights).max() < 1e-13
    assert np.abs(made.loss - losses).max() < 1e-13
    for a, b in zip(ours.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-13)
    assert made.engine == ("autograd" if engine == "autograd" else "fully connected, by hand")


def test_in_single_precision_both_engines_agree_to_rounding(tmp_path):
    _, _, by_hand = recorded.start(tmp_path / "a", n_steps=20, every=1)
    _, _, autograd = recorded.start(tmp_path / "b", n_steps=20, every=1, engine="autograd")
    assert by_hand.weights.dtype == np.float32
    assert np.abs(by_hand.weights - autograd.weights).max() < 2e-5


def test_a_network_without_batch_norm_goes_by_hand_too(tmp_path):
    g, (_, x, y) = generator(1), recorded.network("tiny-fc", torch.float64)
    layers = [nn.Flatten(), nn.Linear(49, 12), nn.ReLU(), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(12, 5)).double()
    for p in model.parameters():
        p.data.uniform_(-0.4, 0.4, generator=g)
    start = nets.flat_parameters(model)
    weights, _ = plain_sgd(model, cross_entropy, x, y, generator(7), n_steps=30, b=16, lr=0.05, **RATES[2])
    nets.set_flat_parameters(model, start)
    options = {"n_steps": 30, "every": 1, "lr": 0.05, "batch_size": 16, "generator": generator(7), "progress": False}
    made = sgd.record(model, cross_entropy, x, y, tmp_path, **options, **RATES[2])
    assert made.engine != "autograd" and np.abs(made.weights - weights).max() < 1e-13


@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_snapshots_once_an_epoch_are_the_epochs_of_the_trainer(tmp_path, sampling):
    _, _, made = recorded.start(tmp_path, dtype=torch.float64, n_steps=24, every=6, sampling=sampling)
    model, x, y = recorded.network("tiny-fc", torch.float64)
    trainer = sgd.SGD(model, cross_entropy, x, y, **recorded.SETTINGS, generator=generator(7), sampling=sampling)
    for epoch in range(4):
        assert trainer.epoch() == pytest.approx(made.loss[epoch], rel=1e-12)
        assert np.abs(nets.flat_parameters(model).numpy() - made.weights[epoch + 1]).max() < 1e-13
    assert made.steps.tolist() == [0, 6, 12, 18, 24]


def test_the_balance_is_exact_up_to_the_ends(tmp_path):
    """Yaida's relation summed over a run is a difference of (1 - mu) |y|^2 / 2 lr - mu y.v between its ends."""
    for name, rates in zip("abc", RATES, strict=True):
        _, _, made = recorded.start(tmp_path / name, dtype=torch.float64, n_steps=300, every=1, **rates)
        left, right = made.balance()
        lr, mu, nesterov = 0.05, rates["momentum"], rates["nesterov"]
        w = made.weights
        v = np.zeros_like(w)
        for k in range(300):  # the velocity from the weights alone: with Nesterov they move by g + mu v', v' = mu v + g
            move = (w[k] - w[k + 1]) / lr
            v[k + 1] = (move + mu * v[k]) / (1 + mu) if nesterov else move
        y = w + lr * mu * v if nesterov else w
        ends = (y[[0, -1]] ** 2).sum(1) * (1 - mu) / (2 * lr) - mu * (y * v)[[0, -1]].sum(1)
        assert left.sum() - right.sum() == pytest.approx(ends[0] - ends[1], abs=1e-9)


def test_a_balance_beyond_the_range_of_floats_is_infinite_without_a_warning(tmp_path):
    _, _, made = recorded.start(tmp_path, n_steps=8)
    far = dataclasses.replace(made, log=np.full((2, 4), 1e300), run=made.run | {"lr": 1e20})
    with warnings.catch_warnings(action="error"):
        assert all(np.isposinf(side).all() for side in far.balance())


# ---- killed and resumed


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def processes():
    """Processes that start with everything imported."""
    context, path = multiprocessing.get_context("forkserver"), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(HERE)])
    context.set_forkserver_preload(["recorded"])
    yield context
    del os.environ["PYTHONPATH"]
    if path is not None:
        os.environ["PYTHONPATH"] = path


def kill_until_done(processes, folder, kind, options, kills):
    """Kill a run at random moments so many times, then let it come to its end; return the exit codes."""
    chance, codes = random.Random(kind), []
    for attempt in range(kills + 1):
        begun = processes.Event()
        process = processes.Process(target=recorded.slowly, args=(begun, folder, kind, options))
        process.start()
        assert begun.wait(600)
        process.join(chance.uniform(0.0, 0.15) if attempt < kills else 600)
        process.kill()
        process.join()
        codes.append(process.exitcode)
    return codes


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL and a fork server")
@pytest.mark.parametrize(
    ("kind", "every", "sampling", "seconds"),
    [("tiny-fc", 4, "reshuffled", 0.0), ("tiny-fc", 16, "without", 0.05), ("dropout", 5, "with", 0.0)],
)
def test_a_run_killed_at_random_points_equals_one_that_was_not_byte_for_byte(
    tmp_path, processes, kind, every, sampling, seconds
):
    _, _, whole = recorded.start(tmp_path / "whole", kind, every=every, sampling=sampling)
    options = {"every": every, "sampling": sampling, "checkpoint_seconds": seconds}
    codes = kill_until_done(processes, tmp_path / "killed", kind, options, kills=8)
    assert codes[-1] == 0 and codes.count(-signal.SIGKILL) >= 5
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    one, other = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "killed"))
    assert one.pop("spent") > 0 and other.pop("spent") > 0
    assert str(one) == str(other) and torch.equal(one["engine"]["velocity"], other["engine"]["velocity"])
    assert len(np.unique(whole.weights, axis=0)) == len(whole.weights)


@pytest.mark.parametrize("kind", recorded.KINDS)
@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_stopped_after_any_chunk_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch, kind, sampling):
    """The same without a process: stop after each chunk in turn, with every checkpoint written and with only some."""
    model, g, _ = recorded.start(tmp_path / "whole", kind, n_steps=100, every=5, sampling=sampling)
    stops = recorded.Stops(monkeypatch, left=1)
    for seconds in (0.0, 1e9):
        folder, stops.left = tmp_path / f"stopped{seconds}", 1
        for attempt in range(20):
            try:
                ours, ours_g, _ = recorded.start(
                    folder, kind, n_steps=100, every=5, sampling=sampling, checkpoint_seconds=seconds
                )
                break
            except KeyboardInterrupt:
                stops.left = 1 if seconds == 0 else attempt + 2
        assert contents(folder) == contents(tmp_path / "whole")
        assert torch.equal(ours_g.get_state(), g.get_state())
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), model.parameters(), strict=True))


def test_a_finished_run_is_returned_without_a_step(tmp_path, monkeypatch):
    model, g, made = recorded.start(tmp_path)
    monkeypatch.setattr("sgdvi_lite.sgd.loop.Run._chunk", None)
    again, again_g, same = recorded.start(tmp_path)
    assert np.array_equal(same.weights, made.weights) and torch.equal(again_g.get_state(), g.get_state())
    assert torch.equal(nets.flat_parameters(again), nets.flat_parameters(model))
    assert torch.equal(again[1][1].running_var, model[1][1].running_var) and not again.training


def test_the_global_random_state_and_the_threads_stay(tmp_path):
    torch.manual_seed(4)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    recorded.start(tmp_path, "dropout", n_steps=8)
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lr": 0.06}, "lr = 0.05 there and 0.06 here"),
        ({"n_steps": 200}, "n_steps = 400 there and 200 here"),
        ({"generator": generator(8)}, "generator_sha256"),
        ({"engine": "autograd"}, "engine = 'fully connected, by hand' there and 'autograd' here"),
        ({"dtype": torch.float64}, "start_sha256"),
    ],
)
def test_a_folder_of_another_run_is_refused_and_left_as_it_is(tmp_path, change, field):
    recorded.start(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"holds another run: {field}.*choose another folder, or call it as then"):
        recorded.start(tmp_path, **change)
    assert contents(tmp_path) == before


def test_other_data_or_a_folder_with_other_files_are_refused(tmp_path):
    recorded.start(tmp_path / "a")
    model, x, y = recorded.network("tiny-fc")
    options = recorded.SETTINGS | {"n_steps": 400, "every": 4, "generator": generator(7), "progress": False}
    with pytest.raises(ValueError, match="another run: data_sha256"):
        sgd.record(model, cross_entropy, x + 1, y, tmp_path / "a", **options)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "weights.npy").write_text("mine")
    with pytest.raises(ValueError, match="holds no run, but something else: choose an empty folder"):
        recorded.start(tmp_path / "b")
    assert (tmp_path / "b" / "weights.npy").read_text() == "mine"
    with pytest.raises(ValueError, match="holds no run"):
        recorded.start(tmp_path / "b" / "weights.npy")
    with pytest.raises(FileNotFoundError, match="no recorded run is there"):
        sgd.open_recording(tmp_path / "b")


def test_two_calls_never_record_into_one_folder(tmp_path, monkeypatch):
    """The second is refused while the first is under way; afterwards it finds the finished run."""
    from sgdvi_lite.sgd.loop import Run

    chunk, told = Run._chunk, []

    def meanwhile(self, *arguments):
        if not told:
            told.append(None)
            with pytest.raises(BlockingIOError, match="another process computes there; wait for its end") as error:
                recorded.start(tmp_path, n_steps=40)
            told[0] = error
        chunk(self, *arguments)

    monkeypatch.setattr(Run, "_chunk", meanwhile)
    _, _, made = recorded.start(tmp_path, n_steps=40)
    assert told[0] is not None and np.array_equal(recorded.start(tmp_path, n_steps=40)[2].weights, made.weights)


def test_a_disk_too_small_is_foreseen(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 10**5, 10**5))
    with pytest.raises(
        OSError, match=r"it takes 0.000497 GB, and the disk has 0.0001 GB free; raise every, lower n_steps"
    ):
        recorded.start(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_the_room_on_the_disk_is_taken_before_the_first_step(tmp_path, monkeypatch):
    def chunk(*arguments):
        found = (tmp_path / "weights.npy").stat()
        assert found.st_size == 128 + 101 * 1221 * 4 and found.st_blocks * 512 >= found.st_size
        with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
            sgd.open_recording(tmp_path)
        raise KeyboardInterrupt

    monkeypatch.setattr("sgdvi_lite.sgd.loop.Run._chunk", chunk)
    with pytest.raises(KeyboardInterrupt):
        recorded.start(tmp_path)


@pytest.mark.parametrize(("engine", "lr"), [("auto", 1e20), ("autograd", 1e20), ("auto", 3e38)])
def test_divergence_names_the_step_and_keeps_what_was_recorded(tmp_path, engine, lr):
    change = {"lr": lr, "every": 1, "n_steps": 40, "engine": engine}
    with pytest.raises(FloatingPointError, match=r"NaN or infinite in step \d+: lower lr = .*; the snapshots") as told:
        recorded.start(tmp_path, **change)
    step = int(str(told.value).split("step ")[1].split(":")[0])
    kept = sgd.open_recording(tmp_path)
    assert kept.diverged == step and np.isfinite(kept.weights).all() and np.isfinite(kept.log).all()
    assert kept.done == len(kept.weights) - 1 and step - 2 <= kept.done < step
    assert not np.load(tmp_path / "weights.npy")[kept.done + 1 :].any()
    with pytest.raises(FloatingPointError) as again:
        recorded.start(tmp_path, **change)
    assert str(again.value) == str(told.value)


def test_nan_in_the_data_is_named_with_its_step(tmp_path):
    model, x, y = recorded.network("tiny-fc", torch.float64)
    x[50] = torch.nan
    drawn = torch.cat([sgd_batch for sgd_batch in _batches_of(generator(7), 3)])
    step = int((drawn == 50).any(dim=1).nonzero()[0]) + 1
    options = recorded.SETTINGS | {"n_steps": 18, "every": 1, "generator": generator(7), "progress": False}
    with pytest.raises(FloatingPointError, match=f"in step {step}: "):
        sgd.record(model, cross_entropy, x, y, tmp_path, **options)
    assert sgd.open_recording(tmp_path).done == step - 1


def _batches_of(g, epochs):
    for _ in range(epochs):
        torch.randint(2**31, (), generator=g)
        yield torch.stack(list(sgd.batches(100, 16, "reshuffled", g)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr = 0.0: expected a finite number > 0"),
        ({"lr": float("nan")}, "lr = nan: expected a finite number > 0"),
        ({"batch_size": 101}, r"batch_size = 101: expected an integer in \[1, 100\]"),
        ({"every": 7}, "every = 7: expected a divisor of n_steps = 400"),
        ({"every": 401}, r"every = 401: expected an integer in \[1, 400\]"),
        ({"n_steps": 0}, "n_steps = 0: expected an integer >= 1"),
        ({"momentum": 1.0}, r"momentum = 1.0: expected a number in \[0, 1\)"),
        ({"momentum": 0.0}, "nesterov = True with momentum = 0: expected a momentum > 0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0: expected a finite number >= 0"),
        ({"sampling": "sorted"}, "sampling = 'sorted': expected one of with, without, reshuffled"),
        ({"engine": "fast"}, "engine = 'fast': expected one of auto, autograd"),
        ({"dtype": torch.bfloat16}, "bfloat16.*expected one of torch.float32, torch.float64"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        recorded.start(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


# ---- settings, and what the loop asks of an engine


def test_settings_check_themselves_and_stay():
    good = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0, "n_steps": 12, "every": 4}
    good |= {"batch_size": 16, "sampling": "without", "engine": "auto", "N": 100}
    settings = Settings(**good)
    assert dataclasses.asdict(settings) == good  # nothing else: a header names each, and is compared
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.lr = 0.1
    with pytest.raises(
        ValueError, match=r"batch_size = 101: expected an integer in \[1, 100\]; an epoch has N // b batches"
    ):
        dataclasses.replace(settings, batch_size=101)
    with pytest.raises(ValueError, match="every = 5: expected a divisor of n_steps = 12"):
        dataclasses.replace(settings, every=5)


def test_the_checks_of_sampling_draw_nothing(tmp_path):
    g = generator(2)
    before = g.get_state()
    with pytest.raises(ValueError, match="batch_size = 101"):
        recorded.start(tmp_path / "never", generator=g, batch_size=101)
    assert torch.equal(g.get_state(), before) and not (tmp_path / "never").exists()


class ByTheOptimiser(Engine):
    """The twin: PyTorch's optimiser, and the log worked out from its own account."""

    name = "by the optimiser"
    blas_threads = None

    def __init__(self, model, loss, x, y, settings):
        self.model, self.loss, self.x, self.y, self.lr = model, loss, x, y, settings.lr
        self.optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
        self.velocity = torch.zeros(nets.count_parameters(model), dtype=x.dtype)

    @property
    def weights(self):
        return nets.flat_parameters(self.model)

    def prepare(self, index, seed):
        self.index, self.rows = index, []

    def step(self, k):
        before, previous = self.weights, self.velocity
        self.optimizer.zero_grad()
        value = self.loss(self.model(self.x[self.index[k]]), self.y[self.index[k]])
        value.backward()
        g = torch.cat([p.grad.reshape(-1) for p in self.model.parameters()])
        self.optimizer.step()
        self.velocity = (before - self.weights) / self.lr
        self.rows.append([value.item(), before @ g, self.velocity @ self.velocity, previous @ g])

    def log(self, n):
        return np.array(self.rows, dtype=float)

    def close(self):
        pass


def test_another_engine_that_keeps_the_contract_makes_the_same_recording(tmp_path, monkeypatch):
    rates = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    options = {"dtype": torch.float64, "n_steps": 40, "every": 4, "engine": "autograd", **rates}
    _, _, ours = recorded.start(tmp_path / "ours", **options)
    monkeypatch.setattr("sgdvi_lite.sgd.engines.choice.Autograd", ByTheOptimiser)
    _, _, twin = recorded.start(tmp_path / "twin", **options)
    assert twin.engine == "by the optimiser"
    assert np.abs(twin.weights - ours.weights).max() < 1e-13 and np.abs(twin.log - ours.log).max() < 1e-12


def test_an_engine_that_lacks_a_part_of_the_contract_is_not_made():
    model, x, y = recorded.network("tiny-fc")
    lacking = type("Lacking", (ByTheOptimiser,), {"step": Engine.step})
    with pytest.raises(TypeError, match="abstract"):
        lacking(model, cross_entropy, x, y, None)


def test_where_training_failed_and_what_is_left():
    log, weights = np.zeros((5, 4)), np.zeros(3)
    assert first_failure(log, weights) is None
    assert first_failure(log, np.array([0.0, np.inf, 0.0])) == 4  # only the weights after the last step
    log[3, 1] = log[4, 0] = np.nan
    assert first_failure(log, weights) == 3
    snapshots = np.zeros((6, 2))
    assert last_finite(snapshots, 1, 3) == 3
    snapshots[2, 1] = np.inf
    assert last_finite(snapshots, 1, 3) == 1 and last_finite(snapshots, 3, 5) == 5
    snapshots[0] = np.nan
    assert last_finite(snapshots, 0, 3) == 0


# ---- where the passes by hand apply


def test_where_the_passes_by_hand_apply():
    model, x, y = recorded.network("tiny-fc")
    assert applies(model, cross_entropy, x, y)
    assert not applies(model, mse_loss, x, y)
    assert not applies(model, cross_entropy, x, torch.zeros(100, 5))
    assert not applies(model, cross_entropy, x, y - 1) and not applies(model, cross_entropy, x, y + 1)
    assert not applies(recorded.network("dropout")[0], cross_entropy, x, y)
    model[0].requires_grad_(False)
    assert applies(model, cross_entropy, x, y)  # Flatten has no weights
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))) is None
    assert blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) is None
    assert len(blocks(nn.Linear(2, 2))) == 1


@pytest.mark.parametrize("change", [{"dtype": torch.float64}, {"batch_size": 1}], ids=["inputs", "batches of one"])
def test_what_pytorch_refuses_is_refused_before_a_folder_is_taken(tmp_path, change):
    model, x, y = recorded.network("tiny-fc")
    options = recorded.SETTINGS | {"n_steps": 4, "every": 4, "generator": generator(7), "progress": False}
    options |= {"batch_size": change.get("batch_size", 16)}
    with pytest.raises((ValueError, RuntimeError), match=r"dtype|more than 1 value") as told:
        sgd.record(model, cross_entropy, x.to(change.get("dtype")), y, tmp_path / "run", **options)
    assert "with x (" in told.value.__notes__[0] and not (tmp_path / "run").exists()


def test_the_header_tells_settings_and_versions(tmp_path):
    recorded.start(tmp_path, n_steps=4)
    header = json.loads((tmp_path / "run.json").read_text())
    assert header["run"]["lr"] == 0.05 and header["run"]["N"] == 100 and header["made"]["versions"]["torch"]


def test_blocks_are_found_in_nested_networks_and_where_a_layer_is_used_twice():
    relu, norm = nn.ReLU(), nn.BatchNorm1d(3)
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(2, 3), norm, relu), nn.Sequential(nn.Linear(3, 3), relu)
    )
    found = blocks(model.append(nn.Linear(3, 2)))
    assert [block[1] for block in found] == [norm, None, None] and found[-1][0] is model[-1]
    assert blocks(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))) is None
    assert blocks(type("Other", (nn.Sequential,), {})(nn.Linear(2, 2))) is None
    assert blocks(nn.Flatten()) is None

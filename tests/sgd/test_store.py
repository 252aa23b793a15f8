"""The files of a recorded run: damaged ones are named, a longer run is the same, a failed call leaves nothing."""

import errno
import json
import shutil
from collections import namedtuple

import numpy as np
import pytest
import recorded
import torch
from problems import generator, one_thread  # noqa: F401
from torch.nn.functional import cross_entropy

from sgdvi_lite import nets, sgd
from sgdvi_lite._storage import folder as storage

pytestmark = pytest.mark.usefixtures("one_thread")
FILES = ("weights.npy", "log.npy", "run.json", "state.pt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    torch.set_num_threads(1)
    recorded.start(folder, n_steps=40)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def both(folder):
    """The two ways to a recording that is there."""
    return (lambda: sgd.open_recording(folder)), (lambda: recorded.start(folder, n_steps=40))


# ---- damaged files


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_named(copy, file, share):
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: int(share * len(whole))])
    for read in both(copy):
        with pytest.raises(ValueError, match=rf"{file}' is damaged \(.*\): (restore it from a copy|remove it)"):
            read()


@pytest.mark.parametrize("file", ["weights.npy", "log.npy"])
def test_an_array_that_is_missing_or_another_is_named(copy, file):
    (copy / file).unlink()
    for read in both(copy):
        with pytest.raises(ValueError, match=f"{file}' is damaged .*remove the folder and begin anew"):
            read()
    np.save(copy / file, np.zeros((11, 3)))
    for read in both(copy):
        with pytest.raises(ValueError, match=rf"{file}' is damaged \(it has \(11, 3\) numbers"):
            read()


@pytest.mark.parametrize("file", ["weights.npy", "log.npy"])
@pytest.mark.parametrize("place", [0.005, 0.02, 0.5, 0.999])
def test_a_flipped_bit_in_an_array_is_seen(copy, file, place):
    content = bytearray((copy / file).read_bytes())
    k = 128 + int(place * (len(content) - 128))
    content[k] ^= 4
    (copy / file).write_bytes(content)
    for read in both(copy):
        with pytest.raises(ValueError, match=rf"{file}' is damaged \(its checksum is wrong\): restore it from a copy"):
            read()


def test_other_numbers_in_the_header_or_the_checkpoint_are_seen(copy):
    text = (copy / "run.json").read_text()
    (copy / "run.json").write_text(text.replace('"lr": 0.05', '"lr": 0.15'))
    for read in both(copy):
        with pytest.raises(ValueError, match=r"run.json' is damaged \(it is not as it was written\)"):
            read()
    (copy / "run.json").write_text(text)
    content, weights = bytearray((copy / "state.pt").read_bytes()), sgd.open_recording(copy).weights[-1].tobytes()
    content[content.find(weights) + 17] ^= 1
    (copy / "state.pt").write_bytes(content)
    for read in both(copy):
        with pytest.raises(ValueError, match=r"state.pt' is damaged \(the checksum of .* is wrong\)"):
            read()


@pytest.mark.parametrize("text", ["[]", '{"format": 1}', "\xff\x00"])
def test_a_header_that_describes_no_run_is_named(copy, text):
    (copy / "run.json").write_text(text, encoding="latin-1")
    for read in both(copy):
        with pytest.raises(ValueError, match=r"run.json' is damaged \(.*\): restore it from a copy"):
            read()


def test_a_state_of_something_else_is_named_and_a_strangers_left_alone(copy, tmp_path):
    state = torch.load(copy / "state.pt", weights_only=True)
    for other in ({"epoch": 3}, {name: value for name, value in state.items() if name != "seals"}):
        torch.save(other, copy / "state.pt")
        for read in both(copy):
            with pytest.raises(ValueError, match=r"state.pt' is damaged \(it is no checkpoint of a run\)"):
                read()
    (copy / "run.json").unlink()
    with pytest.raises(ValueError, match="holds no run, but something else: choose an empty folder"):
        recorded.start(copy, n_steps=40)


def test_a_damaged_recording_is_not_gone_on_with(tmp_path, monkeypatch):
    stops = recorded.Stops(monkeypatch, left=2)
    with pytest.raises(KeyboardInterrupt):
        recorded.start(tmp_path, checkpoint_seconds=0.0)
    stops.left = 10**9
    content = bytearray((tmp_path / "weights.npy").read_bytes())
    content[200] ^= 1
    (tmp_path / "weights.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.npy' is damaged"):
        recorded.start(tmp_path)
    content[200] ^= 1
    (tmp_path / "weights.npy").write_bytes(content)
    assert recorded.start(tmp_path)[2].done == 400  # and the refusal has kept no lock


# ---- longer


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ("weights.npy", "log.npy")}


@pytest.mark.parametrize("kind", recorded.KINDS)
@pytest.mark.parametrize("sampling", sgd.SAMPLINGS)
def test_a_run_made_longer_is_the_long_run_byte_for_byte(tmp_path, kind, sampling):
    """Ends within a chunk, at its end and at a round's: chunks have 30 steps, or 6 after reshuffled order's end."""
    options = {"every": 5, "sampling": sampling}
    whole, whole_g, made = recorded.start(tmp_path / "whole", kind, n_steps=150, **options)
    for n in (30, 35, 115, 150):
        model, g, longer = recorded.start(tmp_path / "longer", kind, n_steps=n, **options)
        assert longer.done == n and np.array_equal(longer.weights, made.weights[: 1 + n // 5])
        assert longer.run["n_steps"] == n
    assert contents(tmp_path / "longer") == contents(tmp_path / "whole")
    assert torch.equal(g.get_state(), whole_g.get_state())
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values(), strict=True))
    one, other = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "longer"))
    assert one == other
    with pytest.raises(ValueError, match="n_steps = 150 there and 115 here"):
        recorded.start(tmp_path / "longer", kind, n_steps=115, **options)


@pytest.mark.parametrize("kind", recorded.KINDS)
def test_a_run_made_longer_can_be_stopped_anywhere(tmp_path, monkeypatch, kind):
    whole = recorded.start(tmp_path / "whole", kind, n_steps=150, every=5)[2]
    stops = recorded.Stops(monkeypatch, left=10**9)
    recorded.start(tmp_path / "longer", kind, n_steps=40, every=5)
    for left in (0, 1, 2, 1, 10**9):
        stops.left = left
        try:
            made = recorded.start(tmp_path / "longer", kind, n_steps=150, every=5, checkpoint_seconds=0.0)[2]
        except KeyboardInterrupt:
            assert sgd.open_recording(tmp_path / "longer").done >= 30
    assert np.array_equal(made.weights, whole.weights) and np.array_equal(made.log, whole.log)


@pytest.mark.parametrize("step", ["save", "resize", "write_header"])
def test_a_run_whose_lengthening_failed_is_whole(tmp_path, monkeypatch, step):
    whole = recorded.start(tmp_path / "whole", n_steps=150, every=5)[2]
    recorded.start(tmp_path / "longer", n_steps=40, every=5)
    with monkeypatch.context() as patch:
        name = "sgdvi_lite.sgd.store." + ("resize" if step == "resize" else f"Store.{step}")
        patch.setattr(name, lambda *a, **k: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(OSError, match="full"):
            recorded.start(tmp_path / "longer", n_steps=150, every=5)
    short = shutil.copytree(tmp_path / "longer", tmp_path / "short")
    assert np.array_equal(recorded.start(short, n_steps=40, every=5)[2].weights, whole.weights[:9])
    assert np.array_equal(recorded.start(tmp_path / "longer", n_steps=150, every=5)[2].weights, whole.weights)


# ---- what a failed call leaves


def broken_after(calls):
    left = [calls]

    def loss(out, y):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("the loss is broken")
        return cross_entropy(out, y)

    return loss


@pytest.mark.parametrize("calls", [0, 9])
@pytest.mark.parametrize("there", [False, True])
def test_a_failed_first_call_leaves_no_trace(tmp_path, calls, there):
    model, x, y = recorded.network("tiny-fc")
    folder, g = tmp_path / "run", generator(7)
    if there:
        folder.mkdir()
    options = recorded.SETTINGS | {"n_steps": 40, "every": 4, "progress": False}
    start, random, mode = nets.flat_parameters(model), g.get_state(), model.eval().training
    with pytest.raises(RuntimeError, match="the loss is broken"):
        sgd.record(model, broken_after(calls), x, y, folder, generator=g, **options)
    assert folder.exists() == there and not list(tmp_path.glob("run/*")) and not list(tmp_path.glob("run/.*"))
    assert torch.equal(nets.flat_parameters(model), start) and torch.equal(g.get_state(), random)
    assert model.training == mode
    assert sgd.record(model, cross_entropy, x, y, folder, generator=g, **options | {"lr": 0.01}).done == 40


def test_wrong_labels_and_losses_are_refused_before_a_folder_is_taken(tmp_path):
    model, x, y = recorded.network("tiny-fc")
    options = recorded.SETTINGS | {"n_steps": 40, "every": 4, "generator": generator(7), "progress": False}
    y[77] = 5
    with pytest.raises(IndexError, match="out of bounds"):
        sgd.record(model, cross_entropy, x, y, tmp_path / "run", **options)
    with pytest.raises(ValueError, match=r"loss gave shape \(16,\): expected one number, the mean over the batch"):
        sgd.record(model, lambda out, y: out.sum(1), x, y, tmp_path / "run", **options)
    for loss, told in (
        (lambda out, y: out.sum().item(), "float"),
        (lambda out, y: None, "NoneType"),
        (lambda out, y: cross_entropy(out, y).detach(), r"shape \(\)"),
        (lambda out, y: cross_entropy(out, y) + 1j, r"shape \(\)"),
    ):
        with pytest.raises(ValueError, match=f"loss gave {told}: expected one number, .* real and with a gradient"):
            sgd.record(model, loss, x, y % 5, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


# ---- disks


def test_a_finished_run_on_a_disk_that_can_only_be_read(copy, monkeypatch):
    def refused(*args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(storage.FileLock, "acquire", refused)
    monkeypatch.setattr(storage, "write_atomically", refused)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(0))
    for name in FILES:
        (copy / name).chmod(0o444)
    before = {file: file.stat().st_mtime_ns for file in copy.iterdir()}
    model, _, made = recorded.start(copy, n_steps=40)
    assert made.done == 40 and np.array_equal(nets.flat_parameters(model).numpy(), made.weights[-1])
    assert {file: file.stat().st_mtime_ns for file in copy.iterdir()} == before
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10**9))
    with pytest.raises(OSError, match="Read-only"):
        recorded.start(copy, n_steps=80)


def test_a_recording_made_on_a_gpu_opens_on_the_cpu(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        made = recorded.start(tmp_path, n_steps=40)[2]
    assert not torch.cuda.is_available()
    assert np.array_equal(sgd.open_recording(tmp_path).weights, made.weights)

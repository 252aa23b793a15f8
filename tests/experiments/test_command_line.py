"""What the command line refuses, repairs and runs on: nothing is left behind by what is refused."""

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from imagesets import sample, saved
from problems import command, one_thread  # noqa: F401

from sgdvi_lite import experiments, results
from sgdvi_lite.__main__ import main
from sgdvi_lite.experiments import SpectrumSettings, ranks, registry
from sgdvi_lite.experiments.spectrum import run as spectrum_run

QUICK = command(2, 40, "--instants", "1")


def images(folder, y=None, n=80, name="own.npz", **changes):
    arrays = sample(n, 40, shape=(8, 8), classes=4)
    if y is not None:
        arrays |= {"y_train": np.asarray(y)[np.arange(n) % len(y)], "y_test": np.asarray(y)[np.arange(40) % len(y)]}
    return saved(folder, arrays | changes).rename(folder / name)  # np.savez would add an ending in small letters


def failed(capsys, *arguments):
    """What the command line says as it refuses these arguments."""
    assert main([*map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ")
    return said.err


# ---- data


def test_labels_that_would_be_phantom_outputs_are_counted_and_refused_or_numbered(tmp_path, capsys):
    own = ["--data", images(tmp_path, y=[1, 2, 255, 7])]
    out = ["--out", tmp_path / "out"]
    said = failed(capsys, *QUICK, *own, *out)
    assert "y_train has the labels 1 (20 times), 2 (20 times), 7 (20 times), 255 (20 times), and none is 0" in said
    assert "expected 0 to 3" in said and "--labels compact" in said and not (tmp_path / "out").exists()
    assert main([*map(str, [*QUICK, *own, *out, "--labels", "compact"])]) == 0
    (path,) = results.find(tmp_path / "out")
    same = images(tmp_path, y=[0, 1, 3, 2], name="same.npz")
    assert main([*map(str, [*QUICK, "--data", same, "--out", tmp_path / "same"])]) == 0
    (other,) = results.find(tmp_path / "same")
    one, two = results.load(path), results.load(other)
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)
    assert one.provenance["settings"]["labels"] == "compact" and two.provenance["settings"]["labels"] is None


def test_a_file_of_too_few_examples_names_the_option(tmp_path, capsys):
    said = failed(capsys, *QUICK, "--data", images(tmp_path, n=20), "--out", tmp_path / "out")
    assert "batch_size = 64: expected an integer in [2, 20]; change --batch-size" in said


def test_one_class_or_one_example_is_refused(tmp_path, capsys):
    one = images(tmp_path, y=[0])
    assert "expected at least two classes" in failed(capsys, *QUICK, "--data", one, "--out", tmp_path / "out")
    said = failed(capsys, "run", "trajectory", "--classes", "3", "--out", tmp_path / "out")
    assert "classes = (3,): expected at least two labels" in said
    said = failed(capsys, *QUICK, "--batch-size", 1, "--out", tmp_path / "out")
    assert "batch_size = 1: expected an integer in [2, 1437]" in said
    assert not (tmp_path / "out").exists()


def test_large_letters_and_a_home_folder_name_a_file_too(tmp_path, capsys, monkeypatch):
    own = images(tmp_path, name="OWN.NPZ")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*map(str, [*QUICK, "--data", own, "--out", tmp_path / "out"])]) == 0
    chosen = [experiments.settings("spectrum", "lite", data=name) for name in (str(own), "~/OWN.NPZ")]
    before = [experiments.result_path("spectrum", "lite", c, tmp_path) for c in chosen]
    images(tmp_path, name="OWN.NPZ", y=[0, 1])
    after = [experiments.result_path("spectrum", "lite", c, tmp_path) for c in chosen]
    assert before[0] != after[0] and before[1] != after[1]


# ---- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 2**64}, r"seed = 18446744073709551616: expected an integer in \[0, 9223372036854775807\]"),
        ({"seed": -1}, r"seed = -1: expected an integer in \[0"),
        ({"lr": float("nan")}, "lr = nan: expected a finite number > 0"),
        ({"instants": ()}, r"instants = \(\): expected fractions of the training in \[0, 1\], at least one"),
        ({"instants": (0.5, float("nan"))}, "instants: NaN or infinity in row 1; expected finite numbers"),
        ({"pool": 0}, "pool = 0: expected an integer >= 1"),
        ({"pool": 3}, "pool = 3: expected a divisor of 8 and 8"),
        ({"pool": 9}, r"pool = 9: expected an integer in \[1, 8\]"),
        ({"device": "meta"}, "device = 'meta': not available here, or without float64"),
        ({"labels": "mine"}, "labels = 'mine': expected one of compact"),
        ({"net": "small-lenet"}, "in_shape"),
    ],
)
def test_settings_that_are_refused_before_any_work(change, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=message):
        chosen = experiments.settings("spectrum", "lite", **change)
        experiments.run("spectrum", "lite", chosen, folder=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


CHECKS = {field.name: field.metadata["check"] for field in fields(SpectrumSettings)}


def test_numbers_of_numpy_and_torch_are_those_of_python():
    """By the checks of the fields, as annotations are checked too where tests run."""
    given = {"epochs": np.int64(5), "lr": torch.tensor(1), "instants": np.array([0.5, 1]), "anneal": np.True_}
    plain = {"epochs": 5, "lr": 1.0, "instants": (0.5, 1.0), "anneal": True, "data": "my.npz"}
    found = {name: CHECKS[name](name, value) for name, value in (given | {"data": Path("my.npz")}).items()}
    assert found == plain and [type(found[name]) for name in plain] == [type(value) for value in plain.values()]
    chosen = experiments.settings("spectrum", "lite", lr=1, momentum=0, nesterov=False)
    assert type(chosen.lr) is type(chosen.momentum) is float


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", True, "an integer"),
        ("epochs", 2.5, "an integer >= 1"),
        ("batch_size", "2", "an integer >= 1"),
        ("lr", "fast", "a finite number > 0"),
        ("anneal", "yes", "True or False"),
        ("pool", 1.0, "an integer >= 1"),
        ("net", 5, "one of small-lenet"),
        ("pixels", "sharp", "one of standardised"),
        ("input_dropout", 1.0, "a rate in [0, 1)"),
        ("dropout", -0.1, "a rate in [0, 1)"),
        ("also", ("mirrored",), "some of calibrated, augmented"),
        ("classes", (3,), "at least two labels"),
    ],
)
def test_settings_of_other_types_are_refused(name, value, expected):
    with pytest.raises((TypeError, ValueError), match=re.escape(f"{name} = {value!r}: expected {expected}")):
        CHECKS[name](name, value)


def test_an_early_instant_is_epoch_1():
    stops = experiments.settings("spectrum", "lite", instants=(0.001, 1.0)).stops
    assert stops == [1, 10] and not any(isinstance(stop, bool) for stop in stops)


def test_a_seed_of_the_command_line_has_a_range(tmp_path, capsys):
    said = failed(capsys, *QUICK, "--seed", 2**64, "--out", tmp_path / "out")
    assert "expected an integer in [0, 9223372036854775807]" in said and not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    (tmp_path / "notes").write_text("mine")
    monkeypatch.setattr(registry, "prepare", lambda chosen: pytest.fail("it worked before it refused"))
    for out in (tmp_path / "notes", tmp_path / "notes" / "deeper"):
        assert "is a file; name a folder (--out)" in failed(capsys, *QUICK, "--out", out)


# ---- results


def test_the_shipped_results_are_listed_with_what_makes_them_again(capsys):
    assert main(["shipped"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["result", "commit", "minutes", "device", "data", "command"]
    for path, line in zip(results.shipped(), lines, strict=True):
        note = results.load(path).provenance
        assert path.stem in line and note["commit"][:9] in line and note.get("command", "not recorded") in line


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    assert main([*QUICK, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def made(first, tmp_path):
    """A result and its figure, to be damaged."""
    (path,) = results.find(shutil.copytree(first, tmp_path / "made"))
    return path


def test_a_damaged_result_is_made_again_by_the_same_command(made, capsys):
    arrays, whole = results.load(made).arrays, made.read_bytes()
    np.savez(made, x=np.ones(3))
    for damaged in (made.read_bytes(), b"", b"mine", whole[: len(whole) // 2]):
        made.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"not a saved result of sgdvi_lite \(.*\); run it again, as is done now"):
            assert not registry.finished(made)
        assert "run it again" in failed_after(capsys, "show", made)
    with pytest.warns(UserWarning, match="as is done now"):
        assert main([*QUICK, "--out", str(made.parent)]) == 0
    assert f"saved: {made}" in capsys.readouterr().out
    assert all(np.array_equal(array, arrays[name]) for name, array in results.load(made).arrays.items())


def failed_after(capsys, *arguments):
    capsys.readouterr()
    return failed(capsys, *arguments)


def test_a_deleted_figure_is_drawn_again(made, capsys, monkeypatch):
    figure = made.with_suffix(".svg")
    drawn = figure.read_bytes()
    figure.unlink()
    monkeypatch.setattr(registry, "prepare", lambda chosen: pytest.fail("it was computed again"))
    assert main([*QUICK, "--out", str(made.parent)]) == 0
    assert "already there" in capsys.readouterr().out and figure.read_bytes() == drawn


def test_a_cut_state_says_what_to_remove_and_then_the_run_begins_anew(tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(spectrum_run, "_row", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main([*QUICK, "--out", str(tmp_path)]) == 130
    (state,) = tmp_path.glob("*.partial/state.pt")
    whole = state.read_bytes()
    for size in (0, 10, 1000, -10):
        state.write_bytes(whole[:size])
        said = failed_after(capsys, *QUICK, "--out", tmp_path)
        assert f"'{state}' is damaged" in said and "remove it" in said
    state.unlink()
    assert main([*QUICK, "--out", str(tmp_path)]) == 0


# ---- two at once, and no memory


def _hold(folder, chosen, experiment, ready, leave):
    dataset = registry.prepare(chosen)
    from sgdvi_lite.experiments.training import taken

    with taken(chosen, dataset, experiments.result_path(experiment, "lite", chosen, folder).with_suffix(".partial")):
        ready.set()
        leave.wait(120)


@pytest.mark.parametrize("experiment", experiments.PRESETS)
def test_the_second_of_two_runs_at_once_is_refused_before_it_trains(experiment, tmp_path, monkeypatch):
    chosen = experiments.settings(experiment, "lite", net="tiny-fc", pool=2)
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, chosen, experiment, ready, leave))
    other.start()
    try:
        assert ready.wait(120)
        for work in ("sgdvi_lite.sgd.SGD.epoch", "sgdvi_lite.sgd.record"):
            monkeypatch.setattr(work, lambda *a, **k: pytest.fail("it trained before it was refused"))
        with pytest.raises(BlockingIOError, match="another process computes there; wait for its end"):
            experiments.run(experiment, "lite", chosen, folder=tmp_path, progress=False)
    finally:
        leave.set()
        other.join()


def test_a_partial_folder_without_a_header_is_refused_and_left_as_it_is(tmp_path):
    chosen = experiments.settings("trajectory", "lite", pool=2, epochs=510, burn=10, classes=(0, 1))
    partial = experiments.result_path("trajectory", "lite", chosen, tmp_path).with_suffix(".partial")
    (partial / "run").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no experiment, but something else: choose an empty folder"):
        experiments.run("trajectory", "lite", chosen, folder=tmp_path, progress=False)
    assert [file.name for file in partial.iterdir()] == ["run"]


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.60 GiB.\nIf reserved ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", MEMORY, ids=["GPU", "CPU", "cuBLAS"])
def test_a_device_without_memory_is_an_error_with_advice(error, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(spectrum_run, "_row", lambda *_: (_ for _ in ()).throw(error))
    said = failed(capsys, *QUICK, "--out", tmp_path)
    assert str(error).splitlines()[0] in said and "If reserved" not in said
    assert "--examples" in said and "--batch-size" in said and "the same command goes on" in said.lower()


def test_other_errors_of_torch_are_not_hidden(monkeypatch, tmp_path):
    monkeypatch.setattr(spectrum_run, "_row", lambda *_: (_ for _ in ()).throw(RuntimeError("a fault of the library")))
    with pytest.raises(RuntimeError, match="a fault of the library"):
        main([*QUICK, "--out", str(tmp_path)])


# ---- two processes


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sgdvi_lite"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)


def _one_of_two(rank, port, folder, arguments):
    said = [(folder / f"{name}{rank}").open("w") for name in ("out", "err")]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        status = main([*map(str, arguments)])
    for file in said:
        file.close()
    os._exit(status)


def two_processes(folder, *arguments):
    """As ``torchrun``, without its start: statuses, and what both print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_one_of_two, args=(rank, port, folder, arguments)) for rank in (0, 1)]
    for one in both:
        one.start()
    for one in both:
        one.join(300)
    return [one.exitcode for one in both], *([(folder / f"{n}{r}").read_text() for r in (0, 1)] for n in ("out", "err"))


@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_numbers_of_one_and_one_of_them_writes(tmp_path, capsys):
    assert main([*QUICK, "--out", str(tmp_path / "one")]) == 0
    one = results.load(results.find(tmp_path / "one")[0])
    table = capsys.readouterr().out.split("\n\n")[0]
    ran = torchrun(*QUICK, "--out", tmp_path / "two")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("saved: ") == 1 and ran.stdout.startswith(table)
    (path,) = results.find(tmp_path / "two")
    two = results.load(path)
    assert two.provenance["processes"] == 2 and one.provenance["processes"] == 1
    assert {p.name for p in path.parent.iterdir()} == {path.name, path.with_suffix(".svg").name}
    for name, array in one.arrays.items():
        assert np.allclose(two.arrays[name], array, rtol=1e-9, atol=1e-12 * np.abs(array).max())
    statuses, out, err = two_processes(tmp_path, *QUICK, "--out", tmp_path / "two")
    assert statuses == [0, 0] and err == ["", ""] and out[1] == "" and f"already there: {path}" in out[0]


@pytest.mark.usefixtures("one_thread")
def test_a_run_of_two_processes_goes_on_where_one_was_stopped(tmp_path, monkeypatch):
    row, calls = spectrum_run._row, []

    def stopped_at_the_second(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return row(*args)

    arguments = [*QUICK, "--instants", "0.5,1"]
    assert main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(spectrum_run, "_row", stopped_at_the_second)
        assert main([*arguments, "--out", str(tmp_path / "two")]) == 130
    (state,) = (tmp_path / "two").glob("*.partial/state.pt")
    assert torch.load(state)["trainer"]["epochs_done"] == 2
    statuses, out, _ = two_processes(tmp_path, *arguments, "--out", tmp_path / "two")
    assert statuses == [0, 0] and "saved: " in out[0] and out[1] == ""
    one, two = (results.load(results.find(tmp_path / name)[0]).arrays for name in ("whole", "two"))
    assert all(np.allclose(two[name], one[name], rtol=1e-9) for name in ("trace", "frobenius", "train_error"))


@pytest.fixture
def of_two(monkeypatch):
    """The second of two processes, with what is asked of torch."""
    asked = []
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("set_device", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: asked.append((name, device)))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, name, lambda *a, name=name: asked.append((name, *a)))
    return asked


def test_with_cuda_each_process_takes_the_gpu_of_its_number_before_it_speaks(of_two, monkeypatch):
    monkeypatch.setattr(ranks._checks, "device", lambda name: of_two.append(("check", name)))
    with ranks.joined("cuda"):
        assert of_two == [("check", "cuda:1"), ("set_device", "cuda:1"), ("init_process_group", "nccl")]
    assert of_two[-1] == ("destroy_process_group",)


def test_a_gpu_that_is_named_or_missing_is_refused_for_several_processes(of_two):
    for device, message in (
        ("cuda:0", "expected cpu or cuda: torchrun gives each its own"),
        ("cuda", "device = 'cuda:1'"),
    ):
        with pytest.raises(ValueError, match=message), ranks.joined(device):
            pass
    assert of_two == []


def test_an_error_of_another_process_tells_which(of_two, capsys, tmp_path):
    assert main([*QUICK, "--device", "cuda:0", "--out", str(tmp_path / "out")]) == 2
    assert "error in process 1: device = 'cuda:0'" in capsys.readouterr().err


def test_what_two_processes_cannot_do_is_refused(tmp_path):
    statuses, out, err = two_processes(tmp_path, "run", "trajectory", "--no-progress", "--out", tmp_path / "out")
    assert statuses == [2, 2] and out == ["", ""] and not (tmp_path / "out").exists()
    assert all("2 processes: expected one, as it is one chain of steps" in said for said in err)


def test_a_folder_that_is_taken_stops_both_processes(tmp_path):
    chosen = experiments.settings("spectrum", "lite", net="tiny-fc", pool=4, epochs=2, examples=40, instants=(1.0,))
    partial = experiments.result_path("spectrum", "lite", chosen, tmp_path).with_suffix(".partial")
    context = multiprocessing.get_context("fork")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, chosen, "spectrum", ready, leave))
    other.start()
    try:
        assert ready.wait(120)
        statuses, out, err = two_processes(tmp_path, *QUICK, "--out", tmp_path)
    finally:
        leave.set()
        other.join()
    assert statuses == [2, 2] and out == ["", ""]
    assert "another process computes there" in err[0] and err[1] == ""
    assert json.loads((partial / "experiment.json").read_text())["settings"]["net"] == "tiny-fc"

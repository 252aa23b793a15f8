"""Folders written before there was one ``Folder`` for all: without lock, stopwatch and format, and still read."""

import json
import time

import numpy as np
import pytest
import recorded
import torch
from problems import network_problem, one_thread  # noqa: F401

from sgdvi_lite import DiffusionMatrix, experiments, gradients, results, sgd
from sgdvi_lite._storage import folder as storage

pytestmark = pytest.mark.usefixtures("one_thread")


def age(folder):
    """Take away from a folder what it had not at first; a recording's header had no format."""
    (folder / ".lock").unlink()
    for path in folder.glob("*.pt"):
        state = torch.load(path, weights_only=True)
        del state["spent"]
        torch.save(state, path)
    if (folder / "run.json").exists():
        header = json.loads((folder / "run.json").read_text())
        assert header.pop("format") == 1 and list(header) == ["run", "made", "header_sha256"]
        del header["header_sha256"]
        (folder / "run.json").write_text(json.dumps(header, indent=1))


@pytest.fixture
def stops(monkeypatch):
    """Stops a computation at a chunk of gradients; everything is written as soon as it is done."""
    left, parts = [10**9], gradients.Network.parts

    def stopping(network, *arguments):
        for part in parts(network, *arguments):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            yield part

    monkeypatch.setattr(gradients.Network, "parts", stopping)
    monkeypatch.setattr(storage, "SECONDS", 0)
    monkeypatch.setattr(storage, "SHARE", 0)
    return left


@pytest.mark.parametrize("done", [False, True])
def test_an_old_recording_is_read_and_goes_on_bit_for_bit(done, tmp_path, monkeypatch):
    _, _, whole = recorded.start(tmp_path / "whole")
    stops = recorded.Stops(monkeypatch, left=10**9 if done else 2)
    try:
        recorded.start(tmp_path / "old", checkpoint_seconds=0.0)
    except KeyboardInterrupt:
        assert not done
    age(tmp_path / "old")
    found = sgd.open_recording(tmp_path / "old")
    assert found.run == whole.run and (found.done == 400) == done and found.done > 0
    stops.left = 0 if done else 10**9
    _, _, again = recorded.start(tmp_path / "old")
    assert np.array_equal(again.weights, whole.weights) and np.array_equal(again.log, whole.log)


def test_a_recording_of_a_later_format_is_refused(tmp_path):
    recorded.start(tmp_path, n_steps=4)
    header = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(header | {"format": 2}))
    for read in (sgd.open_recording, lambda folder: recorded.start(folder, n_steps=4)):
        with pytest.raises(ValueError, match="run of format 2, and format 1 is read here: go on with the version"):
            read(tmp_path)


@pytest.mark.parametrize(("backend", "chunks"), [("dense", 2), ("lanczos", 12)])
def test_an_old_matrix_goes_on_bit_for_bit(backend, chunks, tmp_path, stops):
    problem = network_problem("tiny-fc", 150)
    whole = DiffusionMatrix.from_model(*problem, backend, chunk=50).rank_certificate(1e-4)
    stops[0] = chunks
    with pytest.raises(KeyboardInterrupt):
        DiffusionMatrix.from_model(*problem, backend, chunk=50, folder=tmp_path).rank_certificate(1e-4)
    age(tmp_path)
    states = {path.name for path in tmp_path.glob("*.pt")}
    assert states and json.loads((tmp_path / "computation.json").read_text())["format"] == 1
    stops[0] = 10**9 if backend == "lanczos" else 1  # what is kept is not computed again
    again = DiffusionMatrix.from_model(*problem, backend, chunk=50, folder=tmp_path).rank_certificate(1e-4)
    assert torch.equal(again.values, whole.values) and torch.equal(again.residuals, whole.residuals)
    assert again.products == whole.products


def test_an_old_partial_spectrum_goes_on_with_its_clock(tmp_path, monkeypatch, stops):
    """It had a state with seconds in it, a folder for the matrix under way, and neither header nor lock."""
    monkeypatch.setitem(gradients.CHUNK_BYTES, "cpu", 100 * 8 * 700)
    chosen = experiments.settings("spectrum", "lite", net="tiny-fc", pool=4, epochs=5, examples=800)

    def run(folder):
        return results.load(experiments.run("spectrum", "lite", chosen, folder=folder, progress=False))

    whole, stops[0] = run(tmp_path / "whole"), 12
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "old")
    (partial,) = (tmp_path / "old").iterdir()
    (matrix,) = partial.glob("D-*")
    age(matrix)
    state = torch.load(partial / "state.pt", weights_only=True)
    assert set(state) == {"trainer", "rows", "spent"} and 0 < len(state["rows"]) < 3
    torch.save(state | {"spent": 1000.0}, partial / "state.pt")
    (partial / "experiment.json").unlink()
    (partial / ".lock").unlink()
    stops[0], began = 10**9, time.monotonic()
    again = run(tmp_path / "old")
    assert all(np.array_equal(array, again.arrays[name]) for name, array in whole.arrays.items())
    assert 1000 < again.provenance["wall_seconds"] < 1000 + time.monotonic() - began


def test_the_seconds_of_a_matrix_under_way_count_once(tmp_path, monkeypatch, stops):
    monkeypatch.setitem(gradients.CHUNK_BYTES, "cpu", 100 * 8 * 700)
    chosen = experiments.settings("spectrum", "lite", net="tiny-fc", pool=4, epochs=1, examples=800)
    stops[0] = 4
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        experiments.run("spectrum", "lite", chosen, folder=tmp_path, progress=False)
    (file,) = tmp_path.rglob("dense.pt")
    state = torch.load(file, weights_only=True)
    torch.save(state | {"spent": 1000.0}, file)
    stops[0] = 10**9
    made = results.load(experiments.run("spectrum", "lite", chosen, folder=tmp_path, progress=False))
    assert 1000 < made.provenance["wall_seconds"] < 1000 + time.monotonic() - began

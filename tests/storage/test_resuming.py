"""What goes on in a folder: one of another version is refused, the seconds of what was stopped count once."""

import json
import time

import pytest
import recorded
import torch
from problems import one_thread  # noqa: F401

from sgdvi_lite import experiments, gradients, results, sgd

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("other", [2, None])
def test_a_recording_of_another_format_or_none_is_refused(other, tmp_path):
    recorded.start(tmp_path, n_steps=4)
    header = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(header | {"format": other}))
    for read in (sgd.open_recording, lambda folder: recorded.start(folder, n_steps=4)):
        with pytest.raises(ValueError, match=f"run of format {other}, and format 1 is read here: go on with the vers"):
            read(tmp_path)


def test_the_seconds_of_a_matrix_under_way_count_once(tmp_path, monkeypatch):
    left, parts = [4], gradients.Network.parts

    def stopping(network, *arguments):
        for part in parts(network, *arguments):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            yield part

    monkeypatch.setattr(gradients.Network, "parts", stopping)
    monkeypatch.setattr("sgdvi_lite._storage.folder.SECONDS", 0)
    monkeypatch.setattr("sgdvi_lite._storage.folder.SHARE", 0)
    monkeypatch.setitem(gradients.CHUNK_BYTES, "cpu", 100 * 8 * 700)
    chosen = experiments.settings("spectrum", "lite", net="tiny-fc", pool=4, epochs=1, examples=800)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        experiments.run("spectrum", "lite", chosen, folder=tmp_path, progress=False)
    (file,) = tmp_path.rglob("dense.pt")
    state = torch.load(file, weights_only=True)
    torch.save(state | {"spent": 1000.0}, file)
    left[0] = 10**9
    made = results.load(experiments.run("spectrum", "lite", chosen, folder=tmp_path, progress=False))
    assert 1000 < made.provenance["wall_seconds"] < 1000 + time.monotonic() - began

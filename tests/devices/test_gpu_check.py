"""The command gpu-check: without a GPU it says so; on the pretend one it runs and finds what is wrong."""

import pretend_device
import pytest
import torch

from sgdvi_lite import reports, results
from sgdvi_lite.__main__ import main
from sgdvi_lite.experiments import gpu_check

SMALL = {"examples": 40, "progress": False}


@pytest.fixture(autouse=True, scope="module")
def small():
    """Smaller images."""
    images = gpu_check._images

    def coarse(name, n):
        x, y, sha256 = images(name, n)
        return x[:, :, ::4, ::4], y, sha256

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_check, "_images", coarse)
        yield


def test_without_a_gpu_it_says_so_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["gpu-check", "--out", str(tmp_path / "out")]) == 2
    assert "device = 'cuda': torch" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pretend_device.accelerator():
        path = gpu_check.run(tmp_path_factory.mktemp("check"), **SMALL)
    return path


def test_its_result_has_all_checks_and_its_provenance(made):
    result = results.load(made)
    names = list(result.arrays["check"])
    assert made.name == "gpu-check-pretend.npz" and [p.name for p in made.parent.iterdir()] == [made.name]
    for word in ("rank", "mean", "deviation", "seconds", "recomputed", "float64"):
        assert any(word in name for name in names), word
    assert result.provenance["settings"]["examples"] == 40 and result.provenance["device"] == "pretend"
    assert gpu_check.right(result).all() and "WRONG" not in str(reports.table(result))


def test_the_command_line_checks_and_shows(made, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu_check, "run", lambda out, **options: asked.append((out, options)) or made)
    assert main(["gpu-check", "--out", "here", "--examples", "40", "--data", "cifar10"]) == 0
    assert asked == [("here", {"examples": 40, "dataset": "cifar10"})]
    ran = capsys.readouterr().out
    assert main(["show", str(made)]) == 0
    assert capsys.readouterr().out.startswith(ran.split("\n\n")[0])


def test_a_gpu_that_rounds_is_found_out(tmp_path, monkeypatch, capsys):
    """As TF32 would, were it not switched off."""
    run = gpu_check.run
    monkeypatch.setattr(gpu_check, "run", lambda out, **options: run(out, **options | SMALL))
    monkeypatch.setattr(pretend_device, "allows_tf32", lambda backend: True)
    with pretend_device.accelerator():
        assert main(["gpu-check", "--out", str(tmp_path)]) == 1
    assert "WRONG" in capsys.readouterr().out
    result = results.load(tmp_path / "gpu-check-pretend.npz")
    assert "gradients beside float64" in result.arrays["check"][~gpu_check.right(result)]


def test_bad_sizes_leave_nothing_behind(tmp_path):
    with pretend_device.accelerator(), pytest.raises(ValueError, match="examples = 1"):
        gpu_check.run(tmp_path / "out", examples=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
def test_the_gpu_of_this_machine(tmp_path):
    """At a tenth of the size; ``python -m sgdvi_lite gpu-check`` is the whole."""
    path = gpu_check.run(tmp_path, examples=5000, progress=False)
    assert gpu_check.right(results.load(path)).all()

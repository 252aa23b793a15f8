"""Every main path on a device: the same numbers as on the CPU, and nothing computed on the wrong one of them."""

import contextlib
import copy

import numpy as np
import pretend_device
import pytest
import torch
from problems import examples, generator, network
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import DiffusionMatrix, data, gradients, nets, results, sde, sgd
from sgdvi_lite.__main__ import main


def general():
    """A network that is not gone through layer by layer."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(49, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 5)).double()


def problem(name, n, dtype=torch.float64):
    model = general() if name == "general" else network(name)
    x, y = examples("tiny-fc" if name == "general" else name, n)
    return model.to(dtype), x.to(dtype), y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", [*nets.NETWORKS, "general"])
def test_gradients(place, name, dtype):
    model, x, y = problem(name, 6, dtype)
    here = gradients.Network(model, cross_entropy, x, y, chunk=4)
    there = gradients.Network(place(copy.deepcopy(model)), cross_entropy, place(x), place(y), chunk=4)
    assert here.how == there.how and ("layer by layer" in here.how) == (name != "general")
    for a, b in zip(there.chunks(), here.chunks(), strict=True):
        assert place.same(a, b)


def error(place, name):
    """How far the worst layer in float32 is from float64, in the middle example: a unit at its kink spoils only one."""
    model, x, y = problem(name, 16, torch.float32)
    there = gradients.per_example_gradients(place(copy.deepcopy(model)), cross_entropy, place(x), place(y))
    exact = gradients.per_example_gradients(model.double(), cross_entropy, x.double(), y)
    widths = [p.numel() for p in model.parameters()]
    layers = zip((there.cpu().double() - exact).split(widths, 1), exact.split(widths, 1), strict=True)
    return max((wrong.norm(dim=1).median() / true.norm(dim=1).max()).item() for wrong, true in layers)


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_gradients_in_float32_have_its_digits(place, name, monkeypatch):
    """Float32 departs from float64 by 1e-7, with TF32 by 1e-4."""
    assert error(place, name) < 1e-5
    if not place.real:
        monkeypatch.setattr(pretend_device, "allows_tf32", lambda backend: True)
        assert error(place, name) > 1e-5


@pytest.mark.parametrize("name", ["tiny-fc", "general"])
@pytest.mark.parametrize("backend", ["dense", "gram", "recomputed"])
def test_the_diffusion_matrix(place, backend, name):
    model, x, y = problem(name, 40)
    here = DiffusionMatrix.from_model(model, cross_entropy, x, y, backend, chunk=16)
    there = DiffusionMatrix.from_model(
        place(copy.deepcopy(model)), cross_entropy, place(x), place(y), backend, chunk=16
    )
    assert there.device.type == "cuda" and there.rank(1e-6) == here.rank(1e-6)
    v = torch.randn(here.shape[0], 2, generator=generator(), dtype=torch.float64)
    assert place.same(there @ place(v), here @ v)
    assert place.same(there.eigenvalues(5), here.eigenvalues(5))
    assert place.same(there.dense(), here.dense())
    close = {"rel": 1e-12 if place.real else 0, "abs": 0}
    assert there.trace() == pytest.approx(here.trace(), **close)
    assert there.frobenius_norm() == pytest.approx(here.frobenius_norm(), **close)
    if backend != "dense" or not place.real:  # an eigenvector has no sign
        assert place.same(there.sample(3, generator(4)), here.sample(3, generator(4)))
    product = there.to_scipy() @ v.numpy()
    assert isinstance(product, np.ndarray) and np.allclose(product, here @ v, rtol=1e-9)


def test_a_kept_matrix_goes_on_on_the_device(place, tmp_path):
    model, x, y = problem("tiny-fc", 40)
    there = (place(copy.deepcopy(model)), cross_entropy, place(x), place(y), "recomputed")
    first = DiffusionMatrix.from_model(*there, folder=tmp_path).rank(1e-6)
    again = DiffusionMatrix.from_model(*there, folder=tmp_path)
    assert again.rank(1e-6) == first and again.eigenvalues(3).device.type == "cuda"


def test_given_gradients(place):
    G = torch.randn(30, 12, generator=generator(), dtype=torch.float64)
    here, there = DiffusionMatrix.from_gradients(G), DiffusionMatrix.from_gradients(place(G))
    assert place.same(there.eigenvalues(), here.eigenvalues()) and there.rank() == here.rank()


OPTIONS = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "batch_size": 16, "progress": False, "engine": "autograd"}


def trained(place, name="tiny-fc", device=True, dtype=torch.float32):
    model, x, y = problem(name, 70, dtype)
    return (place(model), place(x), place(y)) if device else (model, x, y)


def recorded(place, folder, device=True, stop=None, **changes):
    """A recording; with ``stop``, of a run that is interrupted at that step."""
    model, x, y = trained(place, device=device)
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt

    model.register_forward_hook(hook)
    options = OPTIONS | {"n_steps": 100, "every": 4, "generator": generator(5), "checkpoint_seconds": 0.0} | changes
    return sgd.record(model, cross_entropy, x, y, folder, **options)


def test_a_recording(place, tmp_path):
    there, here = recorded(place, tmp_path / "there"), recorded(place, tmp_path / "here", device=False)
    assert there.engine == "autograd" and there.run["device"] == "cuda"
    if place.real:
        assert np.allclose(there.weights[:4], here.weights[:4], rtol=1e-3, atol=1e-5)
    else:
        assert np.array_equal(there.weights, here.weights) and np.array_equal(there.log, here.log)


def test_no_engine_by_hand_is_taken_on_a_device(place, tmp_path):
    assert recorded(place, tmp_path, engine="auto").engine == "autograd"


def test_a_stopped_recording_goes_on_to_the_last_bit(place, tmp_path):
    whole = recorded(place, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        recorded(place, tmp_path / "stopped", stop=70)
    again = recorded(place, tmp_path / "stopped")
    assert np.array_equal(again.weights, whole.weights) and np.array_equal(again.log, whole.log)


def test_a_recording_of_a_device_is_read_without_one(place, tmp_path):
    made = recorded(place, tmp_path)
    with contextlib.nullcontext() if place.real else pretend_device.no_cuda():
        assert np.array_equal(sgd.open_recording(tmp_path).weights, made.weights)


def test_training(place):
    weights = []
    for device in (True, False):
        model, x, y = trained(place, "small-allcnn", device, torch.float64)
        options = {"lr": 0.05, "momentum": 0.9, "batch_size": 32, "progress": False, "generator": generator(1)}
        sgd.run(model, cross_entropy, x[:64], y[:64], epochs=1, transform=data.augment, **options)
        weights.append(nets.flat_parameters(model))
    assert place.same(*weights)


def test_particles(place):
    x0 = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    turn = torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64)
    for noise in (0.5, turn, lambda x: 1 + x**2 / 10):
        there_noise = place(noise) if isinstance(noise, torch.Tensor) else noise
        there = sde.euler_maruyama(lambda x: -x, there_noise, place(x0), 0.01, 20, generator=place.generator(1))
        here = sde.euler_maruyama(lambda x: -x, noise, x0, 0.01, 20, generator=generator(1))
        assert there.device.type == "cuda" and (place.real or place.same(there, here))


def test_replicas(place):
    a = torch.linspace(-1, 1, 10, dtype=torch.float64)
    x0, options = torch.zeros(40, 1, dtype=torch.float64), {"N": 10, "lr": 0.1, "batch_size": 3, "n_steps": 20}
    there_a = place(a)
    there = sgd.replicas(lambda x, k: x - there_a[k].mean(1, keepdim=True), place(x0), generator=generator(), **options)
    here = sgd.replicas(lambda x, k: x - a[k].mean(1, keepdim=True), x0, generator=generator(), **options)
    assert place.same(there, here)


@pytest.mark.parametrize("arithmetic", ["float64", "float32"])
def test_the_experiment_spectrum(place, tmp_path, arithmetic, capsys):
    arguments = ["run", "spectrum", "--net", "tiny-fc", "--pool", "4", "--epochs", "2", "--instants", "0.5,1"]
    arguments += ["--examples", "60", "--no-progress", "--arithmetic", arithmetic]
    found = {}
    for device in ("cuda", "cpu"):
        assert main([*arguments, "--device", device, "--out", str(tmp_path / device)]) == 0, capsys.readouterr().err
        (path,) = results.find(tmp_path / device)
        found[device] = results.load(path)
    assert found["cuda"].provenance["settings"]["device"] == "cuda"
    for name, here in found["cpu"].arrays.items():
        there = found["cuda"].arrays[name]
        assert np.allclose(there, here, rtol=1e-2) if place.real else np.array_equal(there, here)

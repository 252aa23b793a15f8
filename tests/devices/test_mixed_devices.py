"""What goes wrong only where there is a device: tensors apart, TF32, memory that torch keeps, waits, generators."""

import copy

import pretend_device
import pytest
import torch
from problems import examples, generator, network
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import DiffusionMatrix, _checks, gradients, sde, sgd
from sgdvi_lite.diffusion import plan


@pytest.fixture(autouse=True)
def waits():
    with pretend_device.accelerator() as waits:
        yield waits


def on(tensor):
    return tensor.to("cuda")


def tiny(n=20):
    model, (x, y) = network("tiny-fc").float(), examples("tiny-fc", n)
    return model, x.float(), y


OPTIONS = {"lr": 0.1, "batch_size": 5}


def record(model, x, y, folder, g):
    options = OPTIONS | {"n_steps": 8, "every": 4, "progress": False}
    return sgd.record(model, cross_entropy, x, y, folder, generator=g, **options)


def placed(there):
    """Network, inputs and labels; on the device those of m, x, y that are named."""
    return [thing.to("cuda") if name in there else thing for name, thing in zip("mxy", tiny(), strict=True)]


def source(there):
    model, x, y = placed(there)
    return gradients.chunks(model, cross_entropy, x, y)


def diffusion(there="mxy"):
    model, x, y = placed(there)
    return DiffusionMatrix.from_model(model, cross_entropy, x, y)


def walk(noise, g):
    x0 = torch.zeros(4, 2, dtype=torch.float64, device="cuda")
    return sde.euler_maruyama(lambda x: -x, noise, x0, 0.1, 2, generator=g)


def trainer(there, g=None):
    model, x, y = placed(there)
    return sgd.SGD(model, cross_entropy, x, y, generator=g or generator(), **OPTIONS)


def replicas(g):
    return sgd.replicas(lambda x, k: x, torch.zeros(3, 1, device="cuda"), 4, 0.1, 2, 1, generator=g)


EYE, DRAWS = torch.eye(2, dtype=torch.float64), pretend_device.Generator
APART = {
    "vector": (lambda folder: diffusion() @ torch.ones(1221), "V .*cpu.*cuda"),
    "matrix": (lambda folder: diffusion() @ torch.ones(1221, 2), "V .*cpu.*cuda"),
    "inputs": (lambda folder: source("m"), "x .*cpu"),
    "labels": (lambda folder: source("mx"), "y .*cpu"),
    "labels of D": (lambda folder: diffusion("mx"), "y .*cpu"),
    "inputs of SGD": (lambda folder: trainer("m"), "x .*cpu"),
    "labels of SGD": (lambda folder: trainer("mx"), "y .*cpu"),
    "network of SGD": (lambda folder: trainer("xy"), "x .*cuda"),
    "inputs of a recording": (lambda folder: record(*placed("m"), folder, generator()), "x .*cpu"),
    "labels of a recording": (lambda folder: record(*placed("mx"), folder, generator()), "y .*cpu"),
    "network of a recording": (lambda folder: record(*placed("xy"), folder, generator()), "x .*cuda"),
    "generator of SGD": (lambda folder: trainer("mxy", DRAWS()), "generator .*(cuda|CPU)"),
    "generator of a recording": (lambda folder: record(*placed("mxy"), folder, DRAWS()), "generator .*(cuda|CPU)"),
    "generator of batches": (lambda folder: sgd.batches(6, 2, "with", DRAWS()), "generator .*(cuda|CPU)"),
    "generator of replicas": (lambda folder: replicas(DRAWS()), "generator .*(cuda|CPU)"),
    "noise": (lambda folder: walk(EYE, DRAWS()), "noise .*cpu"),
    "generator of particles": (lambda folder: walk(on(EYE), generator()), "generator .*cpu"),
}


@pytest.mark.parametrize("case", APART)
def test_what_is_apart_is_named_before_any_work(case, tmp_path):
    do, message = APART[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        do(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- TF32


def convolutional():
    x, y = examples("small-lenet", 6)
    return network("small-lenet").float(), x.float(), y


def little():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(49, 4), nn.ReLU(), nn.Linear(4, 5)).eval(), *tiny(40)[1:]


@pytest.fixture
def tf32_everywhere():
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.usefixtures("tf32_everywhere")
@pytest.mark.parametrize("make", [little, convolutional], ids=["linear layers", "convolutions"])
def test_gradients_and_products_are_computed_without_tf32(make):
    model, x, y = make()
    here = DiffusionMatrix.from_model(model, cross_entropy, x, y, "recomputed")
    there = DiffusionMatrix.from_model(copy.deepcopy(model).to("cuda"), cross_entropy, on(x), on(y), "recomputed")
    assert here.plan.gradients == there.plan.gradients == "layer by layer"
    v = torch.ones(here.shape[0])
    assert torch.equal((there @ on(v)).cpu(), here @ v)


@pytest.mark.usefixtures("tf32_everywhere")
@pytest.mark.parametrize("backend", ["dense", "gram", "recomputed"])
def test_rank_and_eigenvalues_are_computed_without_tf32(backend):
    model, x, y = little()
    here = DiffusionMatrix.from_model(model, cross_entropy, x, y, backend)
    there = DiffusionMatrix.from_model(copy.deepcopy(model).to("cuda"), cross_entropy, on(x), on(y), backend)
    assert torch.equal(there.eigenvalues(5).cpu(), here.eigenvalues(5)) and there.rank() == here.rank()


def test_the_user_s_own_choice_of_tf32_is_left_alone():
    """Also between two chunks, where the caller's code runs."""
    model, x, y = convolutional()
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    before = pretend_device.allows_tf32(cudnn), pretend_device.allows_tf32(cuda)
    for _ in gradients.chunks(model.to("cuda"), cross_entropy, on(x), on(y), chunk=2):
        assert (pretend_device.allows_tf32(cudnn), pretend_device.allows_tf32(cuda)) == before
    assert (pretend_device.allows_tf32(cudnn), pretend_device.allows_tf32(cuda)) == before == (True, False)


# ---- memory, float64, waits, random states


def test_memory_that_torch_keeps_is_free():
    with pretend_device.accelerator(free=1000, reserved=500, allocated=100):
        assert plan.available(torch.device("cuda")) == int(plan.FRACTION * 1400)


def test_the_same_call_chooses_the_same_back_end_twice():
    """What the first call left in torch's cache is no reason to choose another one."""
    G = on(torch.randn(60, 30, generator=generator()))
    with pretend_device.accelerator(free=10**6):
        first = DiffusionMatrix.from_gradients(G).backend
    with pretend_device.accelerator(free=100, reserved=10**6, allocated=100):
        assert DiffusionMatrix.from_gradients(G).backend == first


def test_a_device_without_float64_is_refused():
    with pretend_device.accelerator(float64=False), pytest.raises(ValueError, match=r"device = 'cuda': .*float64"):
        _checks.device("cuda")


@pytest.mark.parametrize("name", ["mps", "cuda:99", "abacus", "", "cpu:x"])
def test_a_device_that_cannot_compute_is_refused(name):
    with pytest.raises(ValueError, match=f"device = '{name}': .*expected cpu"):
        _checks.device(name)


def test_a_step_of_training_waits_at_most_once(waits):
    chosen = trainer("mxy")
    waits.clear()
    chosen.epoch()
    assert sum(waits.values()) <= 4  # steps of an epoch


class Random:
    """Counts what is done with the random states of devices."""

    def __init__(self, monkeypatch):
        self.devices = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=None: self.note(device))

    def note(self, device):
        self.devices.append(torch.device("cuda", device) if isinstance(device, int) else torch.device(device or "cuda"))
        return torch.get_rng_state()


@pytest.mark.parametrize("there", [True, False], ids=["on the device", "on the CPU"])
def test_random_states_of_other_devices_are_left_alone(there, tmp_path, monkeypatch):
    random = Random(monkeypatch)
    trainer("mxy" * there).epoch()
    record(*placed("mxy" * there), tmp_path, generator())
    assert {device.index or 0 for device in random.devices} <= ({0} if there else set())


def test_a_network_of_two_devices_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(49, 4), nn.Linear(4, 5))
    model[2].to("cuda")
    _, x, y = tiny()
    with pytest.raises(ValueError, match=r"model.*cuda"):
        gradients.per_example_gradients(model, cross_entropy, x, y)

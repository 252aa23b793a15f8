"""The engines: by hand only what agrees with autograd, and autograd as the optimiser, on networks of any make."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import recorded
import torch
from problems import generator, one_thread  # noqa: F401
from references import plain_sgd
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from sgdvi_lite import nets, sgd
from sgdvi_lite.sgd.contract import Settings
from sgdvi_lite.sgd.engines import choice
from sgdvi_lite.sgd.engines.choice import choose
from sgdvi_lite.sgd.engines.fully_connected import FullyConnected

pytestmark = pytest.mark.usefixtures("one_thread")
RATES = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


def drawn(model):
    """The model in double precision, its weights drawn."""
    for k, p in enumerate(model.double().parameters()):
        p.data.uniform_(-0.4, 0.4, generator=generator(k))
    return model


def layers(*between, width=8):
    return drawn(nn.Sequential(nn.Flatten(), nn.Linear(49, width), nn.ReLU(), *between, nn.Linear(width, 5)))


def twice():
    """One linear layer in two places."""
    one = nn.Linear(8, 8)
    return layers(one, nn.ReLU(), one, nn.ReLU())


def tied():
    """Two layers of one weight."""
    model = layers(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    model[5].weight = model[3].weight
    return model


def extra(name):
    def make():
        model = layers()
        model.register_parameter(name, nn.Parameter(torch.ones(49, dtype=torch.float64)))
        return model

    return make


def other_forward():
    model = layers(nn.Linear(8, 8), nn.ReLU())
    model[3].forward = lambda x: F.linear(x, 2 * model[3].weight, model[3].bias)
    return model


def other_whole():
    model = layers()
    model.forward = lambda x: nn.Sequential.forward(model, 0.5 * x)
    return model


def hooked():
    model = layers()
    model[1].register_forward_hook(lambda module, args, out: 2 * out)
    return model


def gradient_hooked():
    model = layers()
    model[1].weight.register_hook(lambda g: g / 3)
    return model


def weight_normed():
    model = layers()
    nn.utils.parametrizations.weight_norm(model[1])
    return model


def pruned():
    model = layers()
    prune.l1_unstructured(model[1], "weight", amount=0.5)
    return model


def reordered():
    """The network's parameters come in another order than its layers."""
    model = layers()
    model.register_parameter("a", model[3].weight)
    return model


def changed(name, value):
    """Layers with another setting, or without weights that the passes by hand need."""

    def make():
        linear = nn.Linear(49, 8, bias=name != "bias")
        norm = nn.BatchNorm1d(8, **({} if name == "bias" else {name: value}))
        return drawn(nn.Sequential(nn.Flatten(), linear, norm, nn.ReLU(), nn.Linear(8, 5)))

    make.__qualname__ = name
    return make


def frozen():
    model = layers()
    model[3].bias.requires_grad_(False)
    return model


LOOKALIKES = [frozen, twice, tied, extra("a"), other_forward, other_whole, hooked, gradient_hooked, weight_normed]
LOOKALIKES += [pruned, reordered, changed("bias", False), changed("affine", False), changed("momentum", None)]
LOOKALIKES += [changed("track_running_stats", False)]


@pytest.mark.parametrize("make", LOOKALIKES, ids=lambda make: make.__qualname__.split(".")[0])
def test_what_only_looks_fully_connected_goes_by_autograd_as_the_optimiser_does(tmp_path, make):
    _, x, y = recorded.network("tiny-fc", torch.float64)
    model, twin = make(), make()
    weights, losses = plain_sgd(twin, F.cross_entropy, x, y, generator(7), n_steps=15, b=16, **RATES)
    options = RATES | {"n_steps": 15, "every": 1, "batch_size": 16, "generator": generator(7), "progress": False}
    made = sgd.record(model, F.cross_entropy, x, y, tmp_path, **options)
    assert made.engine == "autograd"
    trained = np.concatenate([np.full(p.numel(), p.requires_grad) for p in twin.parameters()])
    assert np.abs(made.weights - weights[:, trained]).max() < 1e-12 and np.abs(made.loss - losses).max() < 1e-12


def test_an_engine_by_hand_that_errs_is_not_trusted(monkeypatch):
    model, x, y = recorded.network("tiny-fc")
    settings = Settings(n_steps=4, every=1, batch_size=16, sampling="with", engine="auto", N=100, **RATES)
    before = copy.deepcopy(model.state_dict())
    assert choose(model, F.cross_entropy, x, y, settings) is FullyConnected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    for name, error in (
        ("_update", lambda engine, out: engine._arrays[1].__imul__(1.01)),
        ("_update", lambda engine, out: engine._arrays[0].__iadd__(1e-4)),
        ("log", lambda engine, out: out.__iadd__(0.05)),
        ("log", lambda engine, out: engine._layers[0].norm.running_var.mul_(1.05)),
    ):
        right = getattr(FullyConnected, name)

        def wrong(self, *arguments, right=right, error=error):
            out = right(self, *arguments)
            error(self, out)
            return out

        with monkeypatch.context() as patch:
            patch.setattr(FullyConnected, name, wrong)
            assert choose(model, F.cross_entropy, x, y, settings) is choice.Autograd
    assert choose(model, F.cross_entropy, torch.full_like(x, torch.nan), y, settings) is not FullyConnected


def test_the_rounding_of_large_weights_does_not_stop_the_engine_by_hand():
    """In a network that has learnt its examples a step is hardly more than the last digits of a weight."""
    model, x, y = recorded.network("tiny-fc")
    options = {"epochs": 150, "batch_size": 25, "lr": 0.1, "momentum": 0.9, "generator": generator(1)}
    sgd.run(model, F.cross_entropy, x, y, progress=False, **options)
    settings = Settings(n_steps=4, every=1, batch_size=16, sampling="with", engine="auto", N=100, **RATES)
    assert choose(model.train(), F.cross_entropy, x, y, settings) is FullyConnected


# ---- autograd on networks of any make


class Gated(nn.Module):
    """A head that only large inputs reach, one that none does, and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.never, self.still = (nn.Linear(n, 5) for n in (49, 5, 5, 5))
        self.still.requires_grad_(False)
        drawn(self)

    def forward(self, x):
        out = self.still(self.body(x.flatten(1)))
        return self.head(out) if x.mean() > 0 else out


@pytest.mark.parametrize("nesterov", [False, True])
def test_weights_that_a_loss_does_not_reach_stay_as_the_optimiser_leaves_them(tmp_path, nesterov):
    _, x, y = recorded.network("tiny-fc", torch.float64)
    rates = RATES | {"nesterov": nesterov}
    model, twin = Gated(), Gated()
    weights, _ = plain_sgd(twin, F.cross_entropy, x, y, generator(7), n_steps=40, b=16, **rates)
    options = rates | {"n_steps": 40, "every": 1, "batch_size": 16, "generator": generator(7), "progress": False}
    made = sgd.record(model, F.cross_entropy, x, y, tmp_path, **options)
    head = made.weights[:, 250:280]
    assert 2 < len(np.unique(head, axis=0)) < 41 and not np.ptp(made.weights[:, 280:], axis=0).any()
    assert np.abs(made.weights - weights[:, :310]).max() < 1e-12


def test_sparse_gradients_and_losses_of_another_precision_or_shape(tmp_path):
    x, y = torch.arange(60).view(20, 3) % 7, torch.arange(20) % 5
    model, twin = (
        drawn(nn.Sequential(nn.Embedding(7, 4, sparse=s), nn.Flatten(), nn.Linear(12, 5))) for s in (True, False)
    )
    weights, _ = plain_sgd(twin, F.cross_entropy, x, y, generator(7), n_steps=10, b=4, **RATES)
    options = RATES | {"n_steps": 10, "every": 1, "batch_size": 4, "generator": generator(7), "progress": False}
    made = sgd.record(model, F.cross_entropy, x, y, tmp_path / "a", **options)
    assert np.abs(made.weights - weights).max() < 1e-12
    single, x, y = recorded.network("tiny-fc")
    options |= {"generator": generator(7)}
    made = sgd.record(single, lambda out, y: F.cross_entropy(out.double(), y)[None], x, y, tmp_path / "b", **options)
    assert made.engine == "autograd" and made.done == 10


def test_the_weights_stay_in_the_memory_where_they_were(tmp_path):
    x, y = torch.randn(20, 3, 6, 6, generator=generator()), torch.arange(20) % 5
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)).to(memory_format=torch.channels_last)
    held, strides = model[2].weight.data.numpy(), model[0].weight.stride()
    places, before = [p.data_ptr() for p in model.parameters()], held.copy()
    options = RATES | {"n_steps": 10, "every": 5, "batch_size": 4, "generator": generator(7), "progress": False}
    made = sgd.record(model, F.cross_entropy, x, y, tmp_path, **options)
    assert [p.data_ptr() for p in model.parameters()] == places and model[0].weight.stride() == strides
    assert np.array_equal(held.ravel(), made.weights[-1][-325:-5]) and not np.array_equal(held, before)
    assert np.array_equal(nets.flat_parameters(model).numpy(), made.weights[-1])


def test_weights_in_the_memory_of_others_are_refused(tmp_path):
    _, x, y = recorded.network("tiny-fc", torch.float64)
    model = layers(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    model[5].weight.data = model[3].weight.data
    options = RATES | {"n_steps": 10, "every": 5, "batch_size": 4, "generator": generator(7), "progress": False}
    with pytest.raises(ValueError, match="model has 1 weights in the memory of others: tie them as one Parameter"):
        sgd.record(model, F.cross_entropy, x, y, tmp_path / "run", **options)
    with pytest.raises(ValueError, match="model has no trainable weights: expected at least one"):
        sgd.record(model.requires_grad_(False), F.cross_entropy, x, y, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_hook_that_would_not_be_called_is_refused_before_a_folder_is_taken(tmp_path):
    x, y, g = torch.randn(20, 4, generator=generator()), torch.arange(20) % 3, generator(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    model[0].bias.register_post_accumulate_grad_hook(lambda p: p.grad.clamp_(-0.01, 0.01))
    with pytest.raises(ValueError, match=r"model: 0\.bias has a hook that runs when .* use register_hook"):
        sgd.record(
            model, F.cross_entropy, x, y, tmp_path / "run", n_steps=4, every=2, lr=0.1, batch_size=5, generator=g
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has only the older switches")
def test_the_newer_switches_of_tf32_stand_in_no_way(tmp_path):
    code = (
        "import sys, torch; from torch.nn.functional import cross_entropy; from sgdvi_lite import sgd\n"
        "backends, g = torch.backends, torch.Generator().manual_seed(0)\n"
        "backends.cudnn.conv.fp32_precision, backends.cudnn.rnn.fp32_precision = 'tf32', 'ieee'\n"
        "model, x, y = torch.nn.Linear(3, 2), torch.randn(20, 3), torch.arange(20) % 2\n"
        "options = {'lr': 0.1, 'batch_size': 5, 'generator': g, 'progress': False}\n"
        "made = sgd.record(model, cross_entropy, x, y, sys.argv[1], n_steps=4, every=2, **options)\n"
        "sgd.run(model, cross_entropy, x, y, epochs=1, **options)\n"
        "assert made.done == 4 and backends.cudnn.conv.fp32_precision == 'tf32' and not backends.cudnn.deterministic"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=True)

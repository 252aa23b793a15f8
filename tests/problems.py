"""Problems with known answers, and the networks of the tests."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sgdvi_lite import nets

SHAPES = {
    "small-lenet": (1, 28, 28),
    "small-fc": (1, 7, 7),
    "tiny-fc": (1, 7, 7),
    "small-one-fc": (1, 7, 7),
    "tiny-one-fc": (1, 7, 7),
    "small-allcnn": (3, 32, 32),
}
CLASSES = dict.fromkeys(SHAPES, 10) | {"tiny-fc": 5, "tiny-one-fc": 4}
WEIGHTS = {
    "small-lenet": 13_338,
    "small-fc": 8_266,
    "tiny-fc": 1_221,
    "small-one-fc": 3_978,
    "tiny-one-fc": 900,
    "small-allcnn": 26_982,
}

# The networks whose other layers have some hundred weights when the large ones are frozen
DEEP = [name for name in nets.NETWORKS if name not in ("small-one-fc", "tiny-one-fc")]


@pytest.fixture
def one_thread():
    """Sums of several threads are not the same twice, bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(name, seed=0):
    """A float64 network in evaluation mode, its batch-norm away from the identity."""
    model = nets.build(name, in_shape=SHAPES[name], classes=CLASSES[name], generator=generator(seed)).double().eval()
    g = generator(seed + 1)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1, generator=g)
            layer.running_var.uniform_(0.5, 2.0, generator=g)
            layer.weight.data.uniform_(0.5, 1.5, generator=g)
            layer.bias.data.normal_(std=0.1, generator=g)
    return model


def examples(name, n, seed=2):
    g = generator(seed)
    x = torch.randn(n, *SHAPES[name], generator=g, dtype=torch.float64)
    return x, torch.randint(CLASSES[name], (n,), generator=g)


def network_problem(name, n):
    return network(name), cross_entropy, *examples(name, n)


def small_problem(name, side):
    """One of DEEP whose small layers alone are trained, on small images; a third of d examples, or 50 more than d."""
    model = network(name)
    for layer in model.modules():
        own = list(layer.parameters(recurse=False))
        if sum(p.numel() for p in own) > 700:
            layer.requires_grad_(False)
    d = nets.count_parameters(model)
    x, y = examples(name, d // 3 if side == "N < d" else d + 50)
    return model, cross_entropy, x[:, :, :8, :8] if name == "small-allcnn" else x, y


def ten_above(D):
    """An eps for the rank of ``D`` whose threshold has ten eigenvalues above it, half-way to the next."""
    values = D.eigenvalues(12)
    return (values[9] * values[10]).sqrt().item() / values[0].item() / D.shape[0]


def gradients_with_spectrum(spectrum, N, seed=0):
    """Gradients whose D has exactly the given non-zero eigenvalues, around a mean that is far from zero."""
    g, r, d = generator(seed), len(spectrum), 2 * len(spectrum)
    left = torch.randn(N, r, generator=g, dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0)).Q
    right = torch.linalg.qr(torch.randn(d, r, generator=g, dtype=torch.float64)).Q
    scale = (N * torch.as_tensor(spectrum, dtype=torch.float64)).sqrt()
    return left * scale @ right.T + 10 * torch.randn(d, generator=g, dtype=torch.float64)


def double_well(strength):
    """Example 19 of the longer version: drift for (n, 2) points, and the potential of its steady state at T = 1."""

    def Phi(x, y):
        return (x**2 - 1) ** 2 / 4 + y**2 / 2

    def drift(p):
        x, y = p.T
        turn = strength * np.exp(Phi(x, y) - (x**2 + y**2) ** 2 / 4)
        return np.stack([x - x**3 - turn * y, -y + turn * x], axis=1)

    return drift, Phi


def fitted_order(sizes, errors):
    """Order of convergence: minus the slope of log error against log size."""
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def same(one, other):
    """Whether two certificates say the same, to the last bit."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def command(epochs, examples, *more):
    """Arguments of the command line for a spectrum of a few seconds."""
    size = ["--net", "tiny-fc", "--pool", "4", "--epochs", str(epochs), "--examples", str(examples)]
    return ["run", "spectrum", *size, "--no-progress", *more]

"""The covariance of the gradients that SGD sees: by closed forms, against D where it is known, and what it leaves."""

import numpy as np
import pytest
import torch
from problems import CLASSES, examples, generator
from references import autograd_gradients, diffusion_from_pairs
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import minibatch_factor, nets, sgd
from sgdvi_lite.minibatch import measured_covariance

N, WAYS = 40, ("with", "without")


def drawn(n, b, sampling="with", seed=5, total=N):
    """Indices of ``n`` batches, each from an epoch of its own unless they are reshuffled."""
    g, found = generator(seed), []
    while len(found) < n:
        found += [*sgd.batches(total, b, sampling, g)]
    return found[:n]


def linear(*before, total=N):
    """A network, and a loss whose gradient for an example is what comes to the last layer."""
    model = nn.Sequential(*before, nn.Linear(3, 1, bias=False)).double()
    x = torch.randn(total, 3, dtype=torch.float64, generator=generator(1)) * torch.tensor([1.0, 2.0, 0.5]) + 3
    return model, lambda output, y: (output[:, 0] * y).mean(), x, torch.ones(total, dtype=torch.float64)


def orthonormal(d, k):
    return torch.linalg.qr(torch.randn(d, k, dtype=torch.float64, generator=generator(2))).Q


def agrees(found, covariance, V):
    """Whether trace, variances and share are those of a matrix, up to four standard errors of a tenth or less."""
    exact, trace = (V.T @ covariance @ V).diagonal().numpy(), covariance.trace().item()
    pairs = [(found.trace, trace), (found.variances, exact), (found.share, exact.sum() / trace)]
    assert all(np.all(estimate.error < 0.1 * estimate.value) for estimate, _ in pairs)
    return all(np.all(abs(estimate.value - value) < 4 * estimate.error) for estimate, value in pairs)


# ---- closed forms


def test_it_is_the_unbiased_covariance_of_the_gradients_that_were_drawn():
    model, loss, x, y = linear()
    batches, V = drawn(7, 4), orthonormal(3, 2)
    found = measured_covariance(model, loss, x.numpy(), y, iter(batches), generator=generator(), directions=V)
    G = np.stack([x[batch].mean(0).numpy() for batch in batches])
    exact = np.cov(G.T)
    inside = np.diagonal(V.numpy().T @ exact @ V.numpy())
    assert found.n == 7 and found.mean == pytest.approx(G.mean(0), rel=1e-13)
    assert found.trace.value == pytest.approx(np.trace(exact), rel=1e-12)
    assert found.variances.value == pytest.approx(inside, rel=1e-12)
    assert found.share.value == pytest.approx(inside.sum() / np.trace(exact), rel=1e-12)


def test_batch_norm_has_the_statistics_of_each_batch():
    norm = nn.BatchNorm1d(3, affine=False)
    model, loss, x, y = linear(norm)
    y = torch.arange(N, dtype=torch.float64)
    batches = drawn(9, 5)
    found = measured_covariance(model.eval(), loss, x, y, batches, generator=generator())

    def by_hand(batch):
        scale = (x[batch].var(0, correction=0) + norm.eps).sqrt()
        return ((x[batch] - x[batch].mean(0)) / scale * y[batch, None]).mean(0)

    exact = np.cov(np.stack([by_hand(batch).numpy() for batch in batches]).T)
    assert found.trace.value == pytest.approx(np.trace(exact), rel=1e-12)


@pytest.mark.parametrize("sampling", WAYS)
def test_dropout_adds_the_noise_of_its_masks_which_no_sampling_takes_away(sampling):
    """An input is kept with probability 3/4 and then 4/3 as large: its variance is a third of its square."""
    b, total = 10, 20
    model, loss, x, y = linear(nn.Dropout(0.25), total=total)
    D = torch.cov(x.T, correction=0)
    exact = minibatch_factor(total, b, sampling == "with") * D + torch.diag((x**2).mean(0)) / 3 / b
    batches, V = drawn(1500, b, sampling, total=total), orthonormal(3, 2)
    found = measured_covariance(model.eval(), loss, x, y, batches, generator=generator(3), directions=V)
    assert agrees(found, exact, V)
    assert not agrees(found, exact - torch.diag((x**2).mean(0)) / 3 / b, V)


# ---- networks


def network_and_matrix(norm):
    model = nets.build(
        "tiny-fc", in_shape=(1, 7, 7), classes=CLASSES["tiny-fc"], generator=generator(), norm=norm
    ).double()
    x, y = examples("tiny-fc", N)
    D = diffusion_from_pairs(autograd_gradients(model.eval(), cross_entropy, x, y))
    return (model, cross_entropy, x, y), D, torch.linalg.eigh(D).eigenvectors[:, -3:]


@pytest.mark.parametrize("norm", ["group", None])
@pytest.mark.parametrize("sampling", WAYS)
def test_it_is_the_factor_times_d_where_examples_do_not_see_each_other(norm, sampling):
    problem, D, V = network_and_matrix(norm)
    found = measured_covariance(*problem, drawn(600, 16, sampling), generator=generator(), directions=V)
    other = "with" if sampling == "without" else "without"
    assert agrees(found, minibatch_factor(N, 16, sampling == "with") * D, V)
    assert not agrees(found, minibatch_factor(N, 16, other == "with") * D, V)


def test_with_batch_norm_it_is_neither_in_size_nor_in_direction():
    (model, loss, x, y), _, _ = network_and_matrix("batch")
    D = diffusion_from_pairs(autograd_gradients(nets.calibrate(model, x).eval(), loss, x, y))
    values, vectors = torch.linalg.eigh(D)
    batches, V = drawn(300, 8), vectors[:, -10:]
    found = measured_covariance(model, loss, x, y, batches, generator=generator(), directions=V)
    assert found.trace.value - minibatch_factor(N, 8) * D.trace().item() > 4 * found.trace.error
    assert (values[-10:].sum() / D.trace()).item() - found.share.value > 4 * found.share.error


# ---- errors


def repeated(n, runs=200):
    """Traces and their errors of many measurements, each of ``n`` batches."""
    model, loss, x, y = linear(total=200)
    batches = drawn(n * runs, 8, total=200)
    parts = (batches[i * n : (i + 1) * n] for i in range(runs))
    traces = [measured_covariance(model, loss, x, y, part, generator=generator()).trace for part in parts]
    return np.array(traces).T, minibatch_factor(200, 8) * x.var(0, correction=0).sum().item()


def test_the_error_is_that_of_repeated_measurements_and_there_is_no_bias():
    """The variance of 200 values is known to 10 %; if three batches were divided by n, a third would be missing."""
    (values, errors), exact = repeated(3)
    assert abs(values.mean() - exact) < 4 * values.std() / 200**0.5
    (values, errors), exact = repeated(20)
    assert np.mean(errors**2) == pytest.approx(values.var(), rel=0.3)


def test_all_batches_of_a_permutation_give_too_large_a_value_and_error():
    """Of single examples the value is the same for each permutation, larger than their variance by n / (n - 1)."""
    model, loss, x, y = linear(total=25)
    for seed in range(3):
        batches = drawn(25, 1, "reshuffled", seed, total=25)
        trace = measured_covariance(model, loss, x, y, batches, generator=generator()).trace
        assert trace.value == pytest.approx(25 / 24 * x.var(0, correction=0).sum().item(), rel=1e-12)
        assert trace.error > 0.1 * trace.value


# ---- what it leaves, and what it refuses


def test_nothing_of_the_callers_is_changed():
    model = nets.build("small-lenet", in_shape=(1, 22, 22), classes=10, generator=generator())
    x, y = torch.randn(12, 1, 22, 22, generator=generator(1)), torch.arange(12) % 10
    nets.calibrate(model, x)
    model.eval()
    model[0].train()
    modes = [module.training for module in model.modules()]
    before, random = {name: t.clone() for name, t in model.state_dict().items()}, torch.random.get_rng_state()
    batches = drawn(4, 6, total=12)
    one, two = (measured_covariance(model, cross_entropy, x, y, batches, generator=generator(7)) for _ in range(2))
    assert torch.equal(one.mean, two.mean) and one.trace == two.trace
    other = measured_covariance(model, cross_entropy, x, y, batches, generator=generator(8))
    assert not torch.equal(one.mean, other.mean)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(random, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": [[0, 1]] * 2}, "number of batches = 2: expected at least 3"),
        ({"batches": []}, "number of batches = 0: expected at least 3"),
        ({"batches": [[0]] * 2 + [[3]]}, r"gradients of batches: NaN or infinity in row 2"),
        ({"directions": torch.eye(4)}, r"directions has shape \(4, 4\): expected \(3, k\)"),
        ({"directions": torch.ones(3)}, r"directions has shape \(3,\): expected \(3, k\)"),
        ({"directions": 1.01 * torch.eye(3)}, r"directions: V\^T V is 0.03 away from the identity: .*torch.linalg.qr"),
        ({"directions": torch.full((3, 1), torch.nan)}, "directions: .* is nan away"),
        ({"y": torch.ones(3)}, "x has 4 examples and y has 3"),
        ({"generator": None}, "generator = None: expected a torch.Generator"),
    ],
)
def test_refusals(change, message):
    model, loss, x, y = linear(total=4)
    x[3, 0] = torch.inf
    given = {"x": x, "y": y, "batches": [[0, 1], [1, 2], [2, 2]], "generator": generator()} | change
    given["batches"] = [np.array(batch) for batch in given["batches"]]
    with pytest.raises((ValueError, TypeError), match=message):
        measured_covariance.__wrapped__(model, loss, **given)

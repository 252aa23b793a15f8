"""Per-example gradients, Gram matrices and spectra against BackPACK, vmap and curvlinops, float32, one thread."""

import pytest
import torch
from problems import WEIGHTS, generator, network_problem

from sgdvi_lite import DiffusionMatrix, data, gradients, nets, sgd
from sgdvi_lite.gradients.ways import by_vmap as _batched

CHUNK = {"tiny-fc": 4000, "small-fc": 1000, "small-lenet": 512, "small-allcnn": 128}


def single(name, n):
    model, loss, x, y = network_problem(name, n)
    return model.float(), loss, x.float(), y


# ---- per-example gradients: every chunk as rows (n, d), as a covariance needs them


def library(model, loss, x, y, chunk):
    source = gradients.Network(model, loss, x, y, chunk)
    buffer = torch.empty(chunk, source.d)
    return sum(float(rows[0, 0]) for rows in source.chunks(out=buffer))


def by_vmap(model, loss, x, y, chunk):
    of_each = _batched(model, loss)
    return sum(float(of_each(a, b)[0].rows[0, 0]) for a, b in zip(x.split(chunk), y.split(chunk), strict=True))


def by_backpack(model, loss, x, y, chunk):
    backpack = pytest.importorskip("backpack", reason="the peer is missing: run make bench")
    model = backpack.extend(model)
    mean = backpack.extend(torch.nn.CrossEntropyLoss(reduction="sum"))
    total = 0.0
    for a, b in zip(x.split(chunk), y.split(chunk), strict=True):
        with backpack.backpack(backpack.extensions.BatchGrad()):
            mean(model(a), b).backward()
        rows = torch.cat([p.grad_batch.flatten(1) for p in model.parameters()], dim=1)
        total += float(rows[0, 0])
        for p in model.parameters():
            del p.grad_batch
            p.grad = None
    return total


@pytest.mark.parametrize("way", [library, by_vmap, by_backpack])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_gradients(benchmark, name, way):
    n = 4 * CHUNK[name]
    benchmark.group = f"per-example gradients of {name}, N = {n:,}, d = {WEIGHTS[name]:,}"
    problem = single(name, n)
    total = benchmark.pedantic(way, (*problem, CHUNK[name]), rounds=5, warmup_rounds=1)
    assert total == pytest.approx(library(*single(name, n), CHUNK[name]), rel=1e-3)


# ---- the (N, N) Gram matrix


def gram_of_library(*problem):
    return DiffusionMatrix.from_model(*problem, backend="gram")._backend.matrix


def gram_of_rows(model, loss, x, y):
    G = _batched(model, loss)(x, y)[0].rows
    G -= G.mean(0)
    return G @ G.T / len(G)


@pytest.mark.parametrize("way", [gram_of_library, gram_of_rows])
@pytest.mark.parametrize("name", ["small-fc", "small-lenet"])
def test_gram(benchmark, name, way):
    benchmark.group = f"Gram matrix of {name}, N = 2,000"
    problem = single(name, 2000)
    K = benchmark.pedantic(way, problem, rounds=5, warmup_rounds=1)
    exact = gram_of_rows(*problem)
    assert (K - exact).abs().max() <= 1e-4 * exact.abs().max()


# ---- the spectrum of a trained network


@pytest.fixture(scope="module")
def trained(mnist):
    """small-fc after two epochs on MNIST at 7 x 7, and 20,000 examples."""
    images = data.standardise(data.average_pool(mnist, 7))
    model = nets.build("small-fc", in_shape=images.x_train.shape[1:], classes=10, generator=generator())
    loss = torch.nn.functional.cross_entropy
    options = {"lr": 0.1, "batch_size": 128, "momentum": 0.9, "generator": generator(1), "progress": False}
    sgd.run(model, loss, images.x_train, images.y_train, epochs=2, **options)
    return model.eval(), loss, images.x_train[:20_000], images.y_train[:20_000]


def rank_of_library(problem, k):
    return DiffusionMatrix.from_model(*problem, backend="dense").rank_certificate().values


def spectrum_of_library(problem, k):
    return DiffusionMatrix.from_model(*problem, backend="dense").eigenvalues()[:k]


def partial_spectrum_of_curvlinops(problem, k):
    """The peer is told how many eigenvalues there are; it gives no certificate."""
    EFLinearOperator = pytest.importorskip("curvlinops", reason="the peer is missing: run make bench").EFLinearOperator
    from scipy.sparse.linalg import LinearOperator, eigsh

    model, _, x, y = problem
    weights = [p for p in model.parameters() if p.requires_grad]
    loss = torch.nn.CrossEntropyLoss()
    fisher = EFLinearOperator(model, loss, weights, [(x, y)], check_deterministic=False).to_scipy()
    mean = torch.cat([g.flatten() for g in torch.autograd.grad(loss(model(x), y), weights)]).numpy()
    D = LinearOperator(fisher.shape, matvec=lambda v: fisher @ v - mean * (mean @ v), dtype=fisher.dtype)
    return torch.from_numpy(eigsh(D, k=k, tol=1e-3, return_eigenvectors=False)[::-1].copy())


@pytest.fixture(scope="module")
def exact(trained):
    return rank_of_library(trained, None)


@pytest.mark.parametrize("way", [rank_of_library, spectrum_of_library, partial_spectrum_of_curvlinops])
def test_spectrum(benchmark, trained, exact, way):
    benchmark.group = "small-fc, 20,000 examples of MNIST, d = 8,266: eigenvalues above the rank's threshold"
    benchmark.extra_info["rank"] = len(exact)
    values = benchmark.pedantic(way, (trained, len(exact)), rounds=1, warmup_rounds=0)
    assert (values - exact).abs().max() <= 1e-3 * exact.min() + 1e-6 * exact.max()

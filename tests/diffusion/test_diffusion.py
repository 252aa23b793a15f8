from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DEEP, generator, gradients_with_spectrum, network_problem, same, small_problem, ten_above
from references import autograd_gradients, diffusion_from_pairs, minibatch_variance
from scipy.sparse.linalg import eigsh

from sgdvi_lite import DiffusionMatrix, LimitError, gradients, minibatch_factor, nets, temperature
from sgdvi_lite.diffusion import eigenvalues, lanczos
from sgdvi_lite.diffusion.base import Gradients
from sgdvi_lite.diffusion.dense import Dense
from sgdvi_lite.diffusion.ranks import Ranks
from sgdvi_lite.gradients.source import Given, Network

BACKENDS = ["dense", "gram", "recomputed"]


def random_gradients(N, d, seed=0, dtype=torch.float64):
    return torch.randn(N, d, generator=generator(seed), dtype=dtype)


# ---- the factor and the temperature


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-9, 9), min_size=1, max_size=5),
    b=st.integers(1, 4),
    replacement=st.booleans(),
)
def test_the_factor_by_enumeration_of_all_batches(values, b, replacement):
    if not replacement and b > len(values):
        return
    N = len(values)
    mean = Fraction(sum(values), N)
    D = sum((v - mean) ** 2 for v in values) / Fraction(N)
    exact = minibatch_variance(values, b, replacement)
    assert minibatch_factor(N, b, replacement) * float(D) == pytest.approx(float(exact), rel=1e-13, abs=1e-13)


def test_the_whole_data_set_without_replacement_has_no_noise():
    assert minibatch_factor(7, 7, replacement=False) == 0
    assert minibatch_factor(1, 1, replacement=False) == 0
    assert minibatch_factor(7, 7) == 1 / 7


def test_the_temperature_is_half_the_learning_rate_times_the_factor():
    assert temperature(0.2, 4) == pytest.approx(0.025)
    assert temperature(0.2, 4, N=10, replacement=False) == pytest.approx(0.1 * minibatch_factor(10, 4, False))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minibatch_factor(0, 1), "N = 0: expected an integer >= 1"),
        (lambda: minibatch_factor(5, 0), "b = 0: expected an integer >= 1"),
        (
            lambda: minibatch_factor(5, 6, replacement=False),
            r"b = 6: expected an integer in \[1, 5\]; without replacement",
        ),
        (lambda: temperature(0.0, 1), "lr = 0.0: expected a finite number > 0"),
        (lambda: temperature(float("nan"), 1), "lr = nan"),
        (lambda: temperature(0.1, 1, replacement=False), "N = None: expected the number of examples"),
    ],
)
def test_bad_batches(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- the matrix


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("N", "d"), [(5, 12), (12, 5), (6, 6), (1, 3)])
def test_every_operation_agrees_with_the_average_over_pairs(backend, N, d):
    G = random_gradients(N, d) + 3
    exact = diffusion_from_pairs(G)
    D = DiffusionMatrix.from_gradients(G, backend=backend)
    spectrum = torch.linalg.eigvalsh(exact).flip(0).clamp_min(0)
    v, V = random_gradients(d, 1, seed=1)[:, 0], random_gradients(d, 3, seed=2)
    close = {"rtol": 0, "atol": 1e-12}
    assert D.shape == (d, d) and D.N == N and D.backend == backend and D.dtype == torch.float64
    assert torch.allclose(D.dense(), exact, **close)
    assert torch.allclose(D @ v, exact @ v, **close) and torch.allclose(D @ V, exact @ V, **close)
    assert torch.allclose(D.eigenvalues(d), spectrum, **close)
    assert torch.allclose(D.eigenvalues(2), spectrum[:2], **close)
    assert D.trace() == pytest.approx(exact.trace().item(), abs=1e-12)
    assert D.frobenius_norm() == pytest.approx(torch.linalg.matrix_norm(exact).item(), abs=1e-12)
    assert D.rank() == min(N - 1, d)


# a dense D of small-allcnn takes 6 GB; its gram back-end stands for it
NETWORKS = [(name, "gram") for name in nets.NETWORKS] + [
    (name, "dense") for name in ("tiny-fc", "small-fc", "small-lenet")
]


@pytest.mark.parametrize(("name", "backend"), NETWORKS)
def test_the_networks_agree_with_a_plain_autograd_loop(name, backend):
    problem = network_problem(name, 5)
    G = autograd_gradients(*problem)
    D = DiffusionMatrix.from_model(*problem, backend=backend)
    V = random_gradients(D.shape[0], 2)
    exact = sum((G[k] - G).T @ ((G[k] - G) @ V) for k in range(5)) / (2 * 5**2)
    assert (D @ V - exact).abs().max() <= 1e-10 * exact.abs().max()
    assert D.trace() == pytest.approx((G - G.mean(0)).square().sum().item() / 5, rel=1e-10)


@pytest.mark.parametrize("N", [1000, 1300])
def test_the_back_ends_agree_on_both_sides_of_N_equal_d(N):
    problem = network_problem("tiny-fc", N)
    dense, *others = (DiffusionMatrix.from_model(*problem, backend=b, chunk=333) for b in BACKENDS)
    d, largest = dense.shape[0], dense.eigenvalues(1).item()
    assert 1000 < d < 1300
    for other in others:
        close = {"rtol": 0, "atol": 1e-9 * largest}
        k = d if other.backend == "gram" else 40
        assert torch.allclose(dense.dense(), other.dense(), **close)
        assert torch.allclose(dense.eigenvalues(k), other.eigenvalues(k), **close)
        for eps in (1e-5, 1e-6):
            assert dense.rank(eps) == other.rank(eps) > 50
        for quantity in ("trace", "frobenius_norm", "stable_rank", "participation_ratio"):
            assert getattr(dense, quantity)() == pytest.approx(getattr(other, quantity)(), rel=1e-9)
        assert dense.mean_and_std() == pytest.approx(other.mean_and_std(), rel=1e-9)
    assert DiffusionMatrix.from_model(*problem).backend == ("gram" if N < d else "dense")


@pytest.mark.parametrize("side", ["N < d", "N > d"])
@pytest.mark.parametrize("name", DEEP)
def test_the_back_ends_agree_on_every_network_on_both_sides_of_N_equal_d(name, side):
    """With the large layers frozen; those are trained in ``test_agreement.py``."""
    problem = small_problem(name, side)
    dense, *others = (DiffusionMatrix.from_model(*problem, backend=b) for b in BACKENDS)
    d, values = dense.shape[0], dense.eigenvalues()
    assert 400 < d < 1000 and (dense.N < d) == (side == "N < d")
    for other in others:
        assert (other.dense() - dense.dense()).abs().max() <= 1e-9 * values[0]
        assert (other.eigenvalues(12) - values[:12]).abs().max() <= 1e-9 * values[0]
        assert other.rank(ten_above(dense)) == dense.rank(ten_above(dense)) == 10
        assert other.trace() == pytest.approx(dense.trace(), rel=1e-9)
        assert other.frobenius_norm() == pytest.approx(dense.frobenius_norm(), rel=1e-9)


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_gram_and_recomputed_agree_on_every_network(name):
    problem = network_problem(name, 30)
    gram, recomputed = (DiffusionMatrix.from_model(*problem, backend=b) for b in ("gram", "recomputed"))
    largest = gram.eigenvalues(1).item()
    assert torch.allclose(gram.eigenvalues(12), recomputed.eigenvalues(12), rtol=0, atol=1e-9 * largest)
    for eps in (1e-9, 1e-7, 1e-6):
        assert gram.rank(eps) == recomputed.rank(eps) <= 29
    assert gram.trace() == pytest.approx(recomputed.trace(), rel=1e-9)
    assert recomputed.rank_certificate(1e-7).kind != "full"


def test_block_lanczos_on_a_stored_matrix_counts_what_all_eigenvalues_count(monkeypatch):
    G = gradients_with_spectrum(torch.exp(-torch.arange(400) / 20).tolist(), N=900)
    full = DiffusionMatrix.from_gradients(G)
    assert full.rank_certificate(1e-4).kind == "full"
    monkeypatch.setattr(eigenvalues, "FULL", 100)
    for backend in ("dense", "gram"):
        D = DiffusionMatrix.from_gradients(G, backend)
        found = D.rank_certificate(1e-4)
        assert found.kind in ("deterministic", "probabilistic")
        assert D.plan.solver == "block Lanczos" and same(D.plan.certificate, found)
        assert D.how.endswith(f"; eigenvalues by block Lanczos, {found.kind} certificate, {found.products} products")
        assert found.count == full.rank(1e-4) == 51
        assert torch.allclose(found.values, full.eigenvalues(51), rtol=1e-9)
        assert torch.allclose(D.eigenvalues(20), full.eigenvalues(20), rtol=1e-9)
        assert D.rank() == full.rank() == 400
        assert D.plan.solver == "at once" and D.how.endswith("; all eigenvalues at once")


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_eigenvalue_too_close_to_the_threshold_for_float32_is_counted_in_float64(monkeypatch, backend, side):
    """Float32 products are off by more than 1e-6 of the eigenvalue; float64 products with what is stored are not."""
    monkeypatch.setattr(eigenvalues, "FULL", 100)
    model, loss, x, y = network_problem("tiny-fc", 1000)
    D = DiffusionMatrix.from_model(model.float(), loss, x.float(), y, backend, chunk=300)
    exact = torch.linalg.eigvalsh(D.dense().double())
    eps = exact[-12].item() * (1 + side * 1e-6) / (exact[-1].item() * D.shape[0])
    dtypes, grow = [], lanczos.Run.grow
    monkeypatch.setattr(lanczos.Run, "grow", lambda run: dtypes.append(run.problem.like.dtype) or grow(run))
    found = D.rank_certificate(eps)
    assert dtypes == [torch.float32, torch.float64]
    assert found.count == (11 if side > 0 else 12) and found.kind != "full"


@pytest.mark.parametrize("side", [-1, 1])
@pytest.mark.parametrize("backend", ["dense", "gram"])
def test_all_eigenvalues_are_found_in_float64_where_float32_cannot_tell(backend, side):
    model, loss, x, y = network_problem("tiny-fc", 1000)
    D = DiffusionMatrix.from_model(model.float(), loss, x.float(), y, backend, chunk=300)
    exact = torch.linalg.eigvalsh((D.dense() if backend == "dense" else D._backend.matrix).double())
    for k in range(40, 60):
        eps = exact[-k].item() * (1 + side * 1e-9) / (exact[-1].item() * D.shape[0])
        found = D.rank_certificate(eps)
        assert (found.kind, found.count) == ("full", k - (side > 0))


def test_multiple_eigenvalues_are_the_same_for_all_back_ends():
    x = torch.cat([torch.eye(150), -torch.eye(150)]).double()
    layer = torch.nn.Linear(150, 1, bias=False).double()
    for backend in BACKENDS:
        D = DiffusionMatrix.from_model(layer, lambda out, y: out.mean(), x, torch.zeros(300), backend)
        assert D.rank(1e-6) == 150 and torch.allclose(D.eigenvalues(3), torch.full((3,), 1 / 150).double(), rtol=1e-9)


@pytest.mark.parametrize("backend", ["dense", "gram"])
def test_where_block_lanczos_does_not_end_a_stored_matrix_gives_all_eigenvalues(monkeypatch, backend):
    monkeypatch.setattr(eigenvalues, "FULL", 100)
    D = DiffusionMatrix.from_gradients(torch.randn(400, 350, generator=generator(), dtype=torch.float64), backend)
    exact = torch.linalg.eigvalsh(D.dense()).flip(0)
    assert torch.allclose(D.eigenvalues(10), exact[:10], rtol=1e-9) and D.plan.solver == "at once"
    assert D.stable_rank() == pytest.approx((exact.sum() / exact[0]).item())


def test_eigenvalues_that_are_known_already_cost_no_further_products(monkeypatch):
    D = DiffusionMatrix.from_gradients(gradients_with_spectrum([4.0, 2.0, 1.0, 1e-6], N=20), "recomputed")
    assert D.rank(1e-3) == 3
    monkeypatch.setattr(type(D._backend), "matmul", lambda *_: pytest.fail("the matrix was multiplied again"))
    assert D.eigenvalues(2).tolist() == pytest.approx([4.0, 2.0], rel=1e-9)
    assert D.stable_rank() == pytest.approx(7.000001 / 4)


def test_a_large_mean_gradient_costs_no_digits():
    """Outer products cannot be centred; where their mean dominates, the rows are formed and centred after all."""
    layer = torch.nn.Linear(6, 3).double()
    x = 1e6 + random_gradients(8, 6)
    y = torch.zeros(8, 3, dtype=torch.float64)
    gram = DiffusionMatrix.from_model(layer, torch.nn.functional.mse_loss, x, y, backend="gram")
    exact = diffusion_from_pairs(autograd_gradients(layer, torch.nn.functional.mse_loss, x, y))
    assert (gram.dense() - exact).abs().max() <= 1e-9 * exact.abs().max()
    assert gram.trace() == pytest.approx(exact.trace().item(), rel=1e-9)


def test_float32_sums_keep_their_digits():
    """torch.linalg.matrix_norm in float32 is off by 1e-4 on a matrix of this size."""
    G = torch.randn(300, 2500, generator=generator())
    exact = (G - G.mean(0)).double()
    norm = torch.linalg.matrix_norm(exact @ exact.T).item() / 300
    for backend in ("dense", "gram"):
        assert DiffusionMatrix.from_gradients(G, backend).frobenius_norm() == pytest.approx(norm, rel=2e-6)


# ---- memory and what was chosen


def test_auto_takes_what_fits_and_says_so():
    problem = network_problem("tiny-fc", 2000)
    roomy, tight = (DiffusionMatrix.from_model(*problem, memory=m, chunk=20) for m in (1e9, 4e6))
    assert (roomy.plan.backend, roomy.plan.best, roomy.plan.asked) == ("dense", "dense", False)
    assert (tight.plan.backend, tight.plan.best, tight.plan.limit) == ("recomputed", "dense", 4_000_000)
    work = gradients.Network(*problem, 20).working_bytes  # what a chunk takes to compute
    assert 0 < work and roomy.plan.needed == tight.plan.needed == (1221**2 + 20 * 1221) * 8 + work
    assert roomy.how.startswith("dense, N = 2,000 >= d = 1,221, 12.2 MB; gradients layer by layer")
    assert tight.how.startswith("recomputed, N = 2,000 >= d = 1,221, dense needs 12.2 MB, and 4 MB may be used")
    assert tight.trace() == pytest.approx(roomy.trace(), rel=1e-12)


def test_the_former_name_of_a_back_end_is_accepted():
    D = DiffusionMatrix.from_model(*network_problem("tiny-fc", 20), "lanczos")
    assert D.backend == D.plan.backend == "recomputed" and D.how.startswith("recomputed, as asked, ")
    assert "backend='recomputed'" in repr(D)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_back_end_does_not_change_once_it_is_built(backend):
    D = DiffusionMatrix.from_gradients(torch.eye(3), backend)
    assert D._backend.stored == (backend != "recomputed")
    with pytest.raises(FrozenInstanceError):
        D._backend.like = torch.zeros(1)


def test_memory_is_foreseen_without_computing_a_gradient(monkeypatch):
    monkeypatch.setattr(Network, "parts", lambda *_: pytest.fail("gradients were computed"))
    with pytest.raises(MemoryError, match="backend 'gram' with N = 50 and d = 1,221 needs"):
        DiffusionMatrix.from_model(*network_problem("tiny-fc", 50), "gram", memory=1e4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: DiffusionMatrix.from_model(*p, backend="dense", memory=1e6),
            r"backend 'dense' with N = 50 and d = 1,221 needs 12.5 MB, and 1 MB may be used: use backend='recomputed'",
        ),
        (
            lambda p: DiffusionMatrix.from_model(*p, backend="lanczos", memory=1e6),
            r"backend 'recomputed' .* needs 2.06 MB, and 1 MB may be used: lower chunk",
        ),
    ],
)
def test_too_little_memory_is_foreseen(call, message):
    with pytest.raises(MemoryError, match=message):
        call(network_problem("tiny-fc", 50))


def test_a_full_spectrum_that_does_not_fit_is_foreseen():
    D = DiffusionMatrix.from_model(*network_problem("tiny-fc", 1300), memory=1.5e7, chunk=20)
    with pytest.raises(MemoryError, match=r"all eigenvalues of a matrix of size 1,221 needs 23.9 MB"):
        D.eigenvalues()


def test_a_krylov_space_that_does_not_fit_says_how_far_it_got():
    D = DiffusionMatrix.from_model(*network_problem("tiny-fc", 1300), backend="recomputed", memory=4e6, chunk=20)
    with pytest.raises(LimitError, match=r"its limit is 68: \d+ eigenvalues have settled"):
        D.rank(1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prescribed_spectrum_is_found(backend):
    spectrum = [4.0, 1.0, 1e-3, 1e-9]
    D = DiffusionMatrix.from_gradients(gradients_with_spectrum(spectrum, N=20), backend=backend)
    assert D.eigenvalues(4).tolist() == pytest.approx(spectrum, rel=1e-5)
    assert D.rank() == 4 and D.rank(eps=torch.finfo(torch.float32).eps) == 3
    assert D.stable_rank() == pytest.approx(5.001 / 4, rel=1e-8)


@settings(deadline=None)
@given(chunk=st.integers(1, 13), offset=st.floats(-1e4, 1e4))
def test_streaming_neither_depends_on_chunks_nor_loses_digits_to_the_mean(chunk, offset):
    G = random_gradients(13, 4)
    D = Dense.build(Gradients(Given(G + offset, chunk), Ranks(None, 13))).dense()
    assert torch.allclose(D, diffusion_from_pairs(G), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_gradients_have_no_noise(backend):
    D = DiffusionMatrix.from_gradients(torch.ones(4, 3, dtype=torch.float64), backend=backend)
    assert D.trace() == 0 and D.rank() == 0 and D.stable_rank() == 0 and D.participation_ratio() == 0
    assert D.sample(2, generator()).abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_samples_have_covariance_D_within_five_standard_errors(backend):
    n, D = 40_000, DiffusionMatrix.from_gradients(random_gradients(6, 4), backend=backend)
    drawn, exact = D.sample(n, generator(3)), D.dense()
    error = ((exact.diag()[:, None] * exact.diag() + exact**2) / n).sqrt()
    assert ((drawn.T @ drawn / n - exact).abs() <= 5 * error).all()
    assert torch.equal(drawn, D.sample(n, generator(3)))


def test_scipy_sees_the_same_matrix():
    D = DiffusionMatrix.from_gradients(random_gradients(30, 9))
    top = eigsh(D.to_scipy(), k=2, return_eigenvectors=False)
    assert sorted(top, reverse=True) == pytest.approx(D.eigenvalues(2).tolist(), rel=1e-10)


def test_the_gradients_are_not_modified_and_float32_stays_float32():
    G = random_gradients(5, 3, dtype=torch.float32)
    before = G.clone()
    for backend in BACKENDS:
        D = DiffusionMatrix.from_gradients(G, backend=backend)
        assert D.dense().dtype == D.eigenvalues(3).dtype == D.sample(1, generator()).dtype == torch.float32
    assert torch.equal(G, before)


def test_it_says_what_it_is():
    assert repr(DiffusionMatrix.from_gradients(torch.eye(2))) == (
        "DiffusionMatrix(d=2, N=2, backend='dense', dtype=torch.float32)"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: DiffusionMatrix.from_gradients(torch.zeros(3)),
            r"shape \(3,\) and torch.float32: expected .* \(N, d\)",
        ),
        (lambda: DiffusionMatrix.from_gradients(torch.zeros(0, 3)), r"shape \(0, 3\)"),
        (lambda: DiffusionMatrix.from_gradients(torch.zeros(3, 0)), r"shape \(3, 0\)"),
        (
            lambda: DiffusionMatrix.from_gradients(torch.zeros(2, 2, dtype=torch.int64)),
            "torch.int64: expected floats",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.tensor([[0.0], [float("nan")]])),
            "gradients: NaN or infinity in row 1",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.tensor([[float("inf")]])),
            "gradients: NaN or infinity in row 0",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.eye(2), backend="magic"),
            "backend = 'magic': expected one of auto, dense, gram, recomputed$",
        ),
        (
            lambda: DiffusionMatrix.from_model(*network_problem("tiny-fc", 2), backend="magic"),
            "backend = 'magic'",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.eye(2)) @ torch.ones(3),
            r"V has shape \(3,\): expected \(2,\)",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.eye(2)) @ torch.ones(2).double(),
            "V is torch.float64, D is torch.float32: expected the same",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.eye(2)).eigenvalues(3),
            r"k = 3: expected an integer in \[1, 2\]",
        ),
        (
            lambda: DiffusionMatrix.from_gradients(torch.eye(2), "recomputed").eigenvalues(),
            r"k = None: backend 'recomputed' gives leading eigenvalues",
        ),
        (lambda: DiffusionMatrix.from_gradients(torch.eye(2), memory=0), "memory = 0: expected a finite number > 0"),
        (lambda: DiffusionMatrix.from_gradients(torch.eye(2)).rank(eps=1e-16), "compute them in float64"),
        (
            lambda: DiffusionMatrix.from_gradients(torch.eye(2)).sample(0, generator()),
            "n = 0: expected an integer >= 1",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Gradients that are kept beside a matrix, which is formed only when it is asked for; and what a search costs."""

import gc
import weakref

import pytest
import torch
from problems import generator, gradients_with_spectrum, network_problem, same

from sgdvi_lite import DiffusionMatrix
from sgdvi_lite.diffusion import certificates, eigenvalues, krylov, lanczos, plan
from sgdvi_lite.diffusion.dense import Dense, DenseOfKept


@pytest.fixture
def small(monkeypatch):
    """From this size on a matrix counts as large."""
    monkeypatch.setattr(eigenvalues, "FULL", 100)
    monkeypatch.setattr(plan, "FULL", 100)


@pytest.fixture
def unformed(small, monkeypatch):
    monkeypatch.setattr(DenseOfKept, "covariance", lambda kept: pytest.fail("the matrix was formed"))


@pytest.mark.parametrize("backend", ["auto", "dense", "gram"])
def test_a_rank_is_found_without_the_matrix(backend, unformed, monkeypatch):
    monkeypatch.setattr("sgdvi_lite.diffusion.gram._inner_products", lambda kept: pytest.fail("the matrix was formed"))
    G = gradients_with_spectrum(torch.exp(-torch.arange(400) / 20).tolist(), N=900)
    D = DiffusionMatrix.from_gradients(G, backend)
    found = D.rank_certificate(1e-4)
    assert found.count == 51 and found.kind == "probabilistic" and not D._backend.formed
    assert D.trace() == pytest.approx(torch.exp(-torch.arange(400.0).double() / 20).sum().item(), rel=1e-6)
    assert (D @ torch.ones(800).double()).shape == (800,) and len(D.eigenvalues(20)) == 20


def test_the_text_of_the_plan_says_that_the_gradients_are_kept(small):
    G = torch.randn(300, 150, generator=generator())
    D = DiffusionMatrix.from_gradients(G)
    assert D.backend == "dense" and D.plan.kind is DenseOfKept
    assert D.plan.needed == (2 * 300 * 150 + 2 * 300 * 150 + 150**2) * 4
    assert D.how.startswith("dense, N = 300 >= d = 150, 810 kB with the gradients; gradients given")
    tight = DiffusionMatrix.from_gradients(G, memory=8e5)
    assert tight.plan.kind is Dense and tight.how.startswith("dense, N = 300 >= d = 150, 270 kB; gradients given")


@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_kept_and_streamed_agree(small, mean):
    layer = torch.nn.Linear(15, 8).double()
    x, y = mean + torch.randn(400, 15, generator=generator(1)).double(), torch.zeros(400, 8).double()
    problem = layer, torch.nn.functional.mse_loss, x, y
    kept = DiffusionMatrix.from_model(*problem)
    streamed = DiffusionMatrix.from_model(*problem, memory=5e5, chunk=100)
    assert (kept.plan.kind, streamed.plan.kind) == (DenseOfKept, Dense)
    largest = streamed.eigenvalues(1).item()
    V = torch.randn(128, 3, generator=generator(2)).double()
    for one, other in ((kept @ V, streamed @ V), (kept.dense(), streamed.dense())):
        assert (one - other).abs().max() <= 1e-9 * other.abs().max()
    assert kept.trace() == pytest.approx(streamed.trace(), rel=1e-9)
    assert kept.frobenius_norm() == pytest.approx(streamed.frobenius_norm(), rel=1e-9)
    assert (kept.eigenvalues() - streamed.eigenvalues()).abs().max() <= 1e-9 * largest
    assert kept.rank(1e-5) == streamed.rank(1e-5)


def test_once_the_matrix_is_formed_the_search_multiplies_with_it(small, monkeypatch):
    D = DiffusionMatrix.from_gradients(gradients_with_spectrum(torch.exp(-torch.arange(400) / 20).tolist(), N=900))
    D.frobenius_norm()
    monkeypatch.setattr(DenseOfKept, "matmul", lambda *_: pytest.fail("the gradients were multiplied with"))
    assert D.rank(1e-4) == 51


def test_a_large_mean_costs_no_memory_for_all_rows(monkeypatch):
    """Factors stay factors: their rows are formed some at a time."""
    monkeypatch.setattr("sgdvi_lite.diffusion.kept.NUMBERS", 300)
    sizes, rows = [], torch.nn.functional.mse_loss
    layer = torch.nn.Linear(6, 5).double()
    x, y = 1e6 + torch.randn(40, 6, generator=generator()).double(), torch.zeros(40, 5).double()
    gram = DiffusionMatrix.from_model(layer, rows, x[:20], y[:20], "gram")
    for parts in gram._backend.blocks(torch.float64):
        sizes.append(parts[0][0].shape)
    assert gram._backend.centre and max(n * d for n, d in sizes) <= 300
    assert DiffusionMatrix.from_model(layer, rows, x[:20], y[:20], "dense").trace() == pytest.approx(gram.trace())


# ---- what a search costs


def test_how_does_not_stay_behind_when_an_earlier_certificate_answers(small):
    D = DiffusionMatrix.from_gradients(gradients_with_spectrum(torch.exp(-torch.arange(400) / 20).tolist(), N=900))
    first = D.rank_certificate(1e-4)
    D.rank_certificate(1e-3)
    assert not same(D.plan.certificate, first)
    D.eigenvalues(51)
    assert same(D.plan.certificate, first) and f"{first.products} products" in D.how
    D.eigenvalues()
    D.rank_certificate(1e-4)
    assert same(D.plan.certificate, first)
    D.eigenvalues()
    assert D.how.endswith("all eigenvalues at once")


def test_eigenvalues_have_the_dtype_of_the_gradients_also_after_a_search_in_float64(small):
    model, loss, x, y = network_problem("tiny-fc", 400)
    D = DiffusionMatrix.from_model(model.float(), loss, x.float(), y, "dense", chunk=100)
    exact = torch.linalg.eigvalsh(D.dense().double())
    found = D.rank_certificate(exact[-12].item() * (1 + 1e-6) / (exact[-1].item() * D.shape[0]))
    assert found.values.dtype == torch.float64 and D.eigenvalues(5).dtype == torch.float32


def test_the_memory_of_a_repeat_in_float64_is_foreseen():
    D = DiffusionMatrix.from_gradients(torch.randn(600, 500, generator=generator()), "dense", memory=4.75e6)
    values = D.eigenvalues(50)
    eps = values[40].item() * (1 + 1e-9) / (values[0].item() * 500)
    with pytest.raises(
        MemoryError, match=r"all eigenvalues in float64 of a matrix of size 500 needs 5 MB, and 4\.75 MB"
    ):
        D.rank(eps)


def test_a_space_in_float32_is_gone_before_one_in_float64_is_made(monkeypatch):
    A = torch.diag(torch.logspace(0, -4, 200, dtype=torch.float64))
    t, spaces = A[20, 20].item() * (1 - 1e-9), []

    class Counted(krylov.Krylov):
        def __init__(self, *arguments, **options):
            gc.disable()  # what is alive now is referred to, not only waiting to be collected
            spaces.append((len([w for w in map(lambda s: s[1](), spaces) if w is not None]), weakref.ref(self)))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(lanczos, "Krylov", Counted)
    problem = lanczos.Problem(
        lambda X: A.to(X.dtype) @ X, 200, A.float(), lambda values: t, A.trace().item(), A.norm().item()
    )
    try:
        found = lanczos.Search(problem, 200, generator(), block=8).run()
    finally:
        gc.enable()
    assert found.count == 21 and found.values.dtype == torch.float64
    assert [alive for alive, _ in spaces][:2] == [0, 0]


def test_few_products_for_an_eigenvalue():
    """A spectrum like that of a trained network, of which a fifth lies above the threshold."""
    spectrum = torch.arange(1, 1501).double() ** -1.5
    t = spectrum[299].item() * 0.999
    problem = lanczos.Problem(lambda X: spectrum[:, None] * X, 1500, spectrum, lambda v: t, spectrum.sum().item())
    found = lanczos.Search(problem, 1500, generator(1)).run()
    assert found.count == 300 and found.failure_probability <= lanczos.FAILURE
    assert found.products < 2.7 * 300


def test_a_kept_space_is_written_from_the_cpu():
    space = krylov.Krylov(lambda X: X, torch.randn(20, 4, generator=generator()), 8)
    space.extend()
    state = space.state()
    assert state.pop("last") == 4
    assert all(t.device.type == "cpu" for t in state.values())
    assert state["Q"].untyped_storage().nbytes() == 20 * 4 * 4 and state["Q"].data_ptr() != space.Q.data_ptr()


# ---- the probability that a certificate is wrong


def test_the_shares_of_all_attempts_add_up_to_one():
    """Attempt a is accepted if its own bound is at most P over a (a + 1): the sum of these is at most P."""
    total = 1e-9
    own = [total / certificates.of_any_attempt(1e-30, a) * 1e-30 for a in range(1, 2000)]
    assert 0.999 * total < sum(own) <= total * (1 + 1e-12)
    assert certificates.of_any_attempt(0.4, 3) == 1.0


@pytest.mark.parametrize("spectrum", ["one above a flat rest", "falling slowly"])
def test_searches_that_probe_again_and_again_are_wrong_no_more_often_than_stated(spectrum, monkeypatch):
    """Nothing is set aside though an eigenvalue exceeds the ceiling: each certificate is wrong, few may be given."""
    n, trials = 40, 300
    values = torch.full((n,), 0.3) if spectrum.startswith("one") else torch.linspace(0.98, 0, n)
    values = values.double()
    values[0] = 1.0
    monkeypatch.setattr(lanczos, "FAILURE", 0.3)
    monkeypatch.setattr(lanczos, "PROBES", 1)
    monkeypatch.setattr(lanczos, "STEPS", 8)
    wrong = 0
    for seed in range(trials):
        problem = lanczos.Problem(lambda X: values[:, None] * X, n, values, lambda v: 1.0, values.sum().item())
        run = lanczos.Run(lanczos.Search(problem, n, generator(seed), block=1))
        wrong += any([run.probe(values.new_empty(n, 0), 0.999) <= 0.3 for _ in range(4)])
        assert run.attempts == 4
    assert wrong / trials <= 0.3 + 5 * (0.3 * 0.7 / trials) ** 0.5

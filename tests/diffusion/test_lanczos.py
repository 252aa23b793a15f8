"""Leading eigenvalues with certificates: exact where the spectrum is known, refused where in doubt."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import generator

from sgdvi_lite.diffusion import certificates, lanczos

D = 300
SPECTRA = {
    "power law": 1 / torch.arange(1, D + 1, dtype=torch.float64) ** 3,
    "exponential": torch.exp(-torch.arange(D, dtype=torch.float64) / 4),
    "low rank": torch.cat([torch.arange(20, 0, -1), torch.zeros(D - 20)]).double(),
    "plateau": torch.cat([torch.ones(1), torch.full((70,), 1e-3), torch.full((D - 71,), 1e-6)]).double(),
    "zero": torch.zeros(D, dtype=torch.float64),
}


def matrix(spectrum, dtype=torch.float64, seed=0):
    Q = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator(seed), dtype=torch.float64))[0]
    return ((Q * spectrum) @ Q.T).to(dtype)


def certified(A, eps, frobenius=True, limit=None, **options):
    threshold = lambda values: values[0].item() * len(A) * eps  # noqa: E731
    norm = A.double().square().sum().sqrt().item() if frobenius else None
    problem = lanczos.Problem(multiplied(A), len(A), A, threshold, A.double().trace().item(), norm)
    return lanczos.Search(problem, limit or len(A), generator(1), block=16, **options).run()


def multiplied(A):
    return lambda X: A.to(X.dtype) @ X


@pytest.mark.parametrize("frobenius", [True, False], ids=["with norm", "without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "zero"])
def test_counts_and_values_are_those_of_the_known_spectrum(name, dtype, frobenius):
    spectrum, eps = SPECTRA[name], 1e-6
    found = certified(matrix(spectrum, dtype), eps, frobenius)
    exact = spectrum[spectrum > spectrum[0] * D * eps]
    assert found.count == len(exact)
    assert found.failure_probability <= lanczos.FAILURE
    error = (found.values.double() - exact).abs()
    rounding = 20 * torch.finfo(dtype).eps * spectrum[0].item()
    assert (error <= found.residuals.double() + rounding).all()
    assert (error <= 1e-3 * exact + rounding).all()
    assert dtype == torch.float32 or (error <= 1e-9 * spectrum[0]).all()
    assert found.kind in ("full", "deterministic", "probabilistic")


def test_ritz_values_lie_below_the_eigenvalues():
    spectrum = SPECTRA["power law"]
    A = matrix(spectrum)
    krylov = lanczos.Krylov(lambda X: A @ X, torch.randn(D, 4, generator=generator(), dtype=torch.float64), 40)
    while krylov.extend():
        values = krylov.decomposed()[0]
        assert (values <= spectrum[: len(values)] * (1 + 1e-12)).all()
    assert krylov.size == 40
    assert (krylov.Q.T @ krylov.Q - torch.eye(40, dtype=torch.float64)).abs().max() < 1e-13


def test_what_the_matrix_makes_of_a_space_is_known_from_its_last_block():
    """Also after others have joined it: the matrix in the basis, and all inner products of the residuals."""
    A = matrix(SPECTRA["power law"])
    krylov = lanczos.Krylov(lambda X: A @ X, torch.randn(D, 4, generator=generator(), dtype=torch.float64), 60)
    for step in range(9):
        assert krylov.extend()
        if step == 4:
            krylov.widen(torch.randn(D, 3, generator=generator(1), dtype=torch.float64))
    krylov.widen(torch.randn(D, 2, generator=generator(2), dtype=torch.float64))
    values, Y = krylov.decomposed()
    vectors = krylov.Q @ Y
    residuals, coupling = A @ vectors - vectors * values, krylov.coupling(Y)
    assert krylov.size == 5 * 4 + 4 * 7 and coupling.shape == (7, 48)
    assert (krylov.H - krylov.Q.T @ A @ krylov.Q).abs().max() < 1e-14
    assert (coupling.T @ coupling - residuals.T @ residuals).abs().max() < 1e-14 < residuals.square().max()
    assert (krylov.residuals(values, Y) - torch.linalg.vector_norm(residuals, dim=0)).abs().max() < 1e-14


EXHAUSTED = {
    "identity": torch.ones(150),
    "one and many": torch.cat([torch.ones(1), torch.full((149,), 0.252)]),
    "three values": torch.cat([torch.ones(40), torch.full((40,), 0.5), torch.full((70,), 0.1)]),
    "rank two": torch.cat([torch.tensor([1.0, 0.3]), torch.zeros(148)]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("name", EXHAUSTED)
def test_multiple_eigenvalues_that_exhaust_the_krylov_space_are_counted(name, diagonal, t, dtype):
    """The Krylov space of few distinct eigenvalues is small; what fills it up has to be orthogonal all the same."""
    spectrum = EXHAUSTED[name].double()
    A = torch.diag(spectrum).to(dtype) if diagonal else matrix(spectrum, dtype)
    problem = lanczos.Problem(multiplied(A), 150, A, lambda values: t, spectrum.sum().item())
    found = lanczos.Search(problem, 150, generator(1), block=16).run()
    assert found.count == int((spectrum > t).sum())
    assert (found.values <= 1 + 1e-5).all()


def test_a_basis_stays_orthonormal_when_nothing_new_comes_and_beside_what_is_set_aside():
    V = torch.linalg.qr(torch.randn(60, 10, generator=generator(), dtype=torch.float64))[0]
    krylov = lanczos.Krylov(torch.zeros_like, torch.ones(60, 8, dtype=torch.float64), 50, beside=V)
    while krylov.extend():
        both = torch.cat([V, krylov.Q], dim=1)
        assert (both.T @ both - torch.eye(both.shape[1], dtype=torch.float64)).abs().max() < 1e-13
    assert krylov.size == 50


def test_where_nothing_new_comes_random_numbers_take_the_place():
    """The QR factors of a zero block are unit vectors, which here lie in the space already."""
    start = torch.eye(60, dtype=torch.float64)[:, :8]
    krylov = lanczos.Krylov(torch.zeros_like, start, 24)
    while krylov.extend():
        assert (krylov.Q.T @ krylov.Q - torch.eye(krylov.size, dtype=torch.float64)).abs().max() < 1e-13
    assert krylov.size == 24


def test_a_block_that_adds_something_and_nothing_loses_neither():
    """Half of the start is mapped to zero, whose QR factors lie in the space; the other half leads out of it."""
    A = torch.zeros(60, 60, dtype=torch.float64)
    A[20:24, 4:8] = A[4:8, 20:24] = torch.eye(4)
    krylov = lanczos.Krylov(lambda X: A @ X, torch.eye(60, dtype=torch.float64)[:, :8], 24)
    assert krylov.extend() and krylov.extend()
    made = A @ krylov.Q[:, :8]
    assert made.norm() == 2 and (made - krylov.Q @ (krylov.Q.T @ made)).abs().max() < 1e-13


def test_the_failure_probability_allows_for_each_step_to_be_the_last(monkeypatch):
    monkeypatch.setattr(lanczos, "failure_probability", lambda *_: 1e-12)
    found = certified(matrix(SPECTRA["power law"]), 1e-6, frobenius=False)
    assert found.failure_probability == pytest.approx(2 * lanczos.STEPS * 1e-12)  # half of all is the first attempt's


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=30), st.floats(-1, 1), st.floats(-1, 1))
def test_the_bound_on_the_rest_allows_for_rounding_of_both_sums(numbers, a, b):
    rest = torch.tensor(sorted(numbers), dtype=torch.float32).double()
    slack = 5 * torch.finfo(torch.float32).eps
    trace, frobenius = (1 + a * slack) * rest.sum().item() + 3, (1 + b * slack / 2) * rest.square().sum().item() + 9
    found = torch.tensor([3.0])
    bound = certificates.left_over(found, trace, math.sqrt(frobenius), len(rest))
    assert bound >= rest.max().item() * (1 - 1e-7) - 1e-7


def test_a_small_tail_is_certified_by_trace_and_norm_alone():
    assert certified(matrix(SPECTRA["low rank"]), 1e-6).kind == "deterministic"
    assert certified(matrix(SPECTRA["low rank"]), 1e-6, frobenius=False).kind == "probabilistic"


def test_an_eigenvector_hidden_from_the_first_run_is_found_by_the_second():
    """A run that starts orthogonal to an eigenvector never sees it; the certificate does, and the search goes on."""
    A = torch.diag(torch.cat([torch.tensor([1.0, 0.5]), torch.zeros(98)]).double())
    calls, randn = [], torch.randn

    def start_blind(*size, **options):
        calls.append(size)
        block = randn(*size, **options)
        if len(calls) == 1:
            block[1] = 0
        return block

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", start_blind)
        found = certified(A, 1e-3, frobenius=False)
    assert found.count == 2 and found.values.tolist() == pytest.approx([1.0, 0.5], rel=1e-9)


def test_a_space_that_is_too_small_says_how_far_it_got():
    with pytest.raises(lanczos.LimitError, match=r"has 48 vectors, its limit is 50: \d+ eigenvalues have settled"):
        certified(matrix(SPECTRA["plateau"]), 1e-6, limit=50)


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=30))
def test_the_bound_from_two_sums_is_never_below_the_largest(numbers):
    bound = certificates.largest_bound(sum(numbers), sum(x * x for x in numbers), len(numbers))
    assert bound >= max(numbers) * (1 - 1e-7) - 1e-7


def test_the_bound_from_two_sums_is_attained():
    assert certificates.largest_bound(4 + 3 * 1, 16 + 3 * 1, 4) == pytest.approx(4)


@pytest.mark.parametrize(("ratio", "steps"), [(0.5, 2), (0.5, 3), (0.8, 3), (0.3, 2)])
def test_single_probes_fail_no_more_often_than_the_bound_says(ratio, steps):
    """A hard case, one large eigenvalue above a flat rest: 2,000 starting vectors, against the bound of one probe."""
    n, trials = 50, 2000
    spectrum = torch.full((n,), ratio * 0.95, dtype=torch.float64)
    spectrum[0] = 1.0
    z = torch.randn(trials, n, generator=generator(), dtype=torch.float64)
    powers = torch.stack([z * spectrum**k for k in range(steps)], dim=2)
    Q = torch.linalg.qr(powers)[0]
    largest = torch.linalg.eigvalsh(Q.mT @ (spectrum[:, None] * Q))[:, -1]
    failures = (largest <= ratio).double().mean().item()
    bound = certificates.failure_probability(ratio, n, steps, probes=1)
    assert failures <= bound + 5 * math.sqrt(max(bound, 1 / trials) / trials)


def coupled(seed, coupling, end=0.6, d=12, k=5):
    """A matrix whose first unit vectors are Ritz vectors with values 0.85 to 1.15, over a rest that ends at ``end``."""
    draw = torch.randn(d - k, k, generator=generator(seed), dtype=torch.float64)
    A = torch.zeros(d, d, dtype=torch.float64)
    A[:k, :k] = torch.diag(torch.linspace(1.15, 0.85, k, dtype=torch.float64))
    rest = torch.randn(d - k, d - k, generator=generator(seed + 1000), dtype=torch.float64)
    A[k:, k:] = end * rest @ rest.T / torch.linalg.matrix_norm(rest, 2) ** 2
    A[k:, :k] = coupling * draw / torch.linalg.matrix_norm(draw, 2)
    A[:k, k:] = A[k:, :k].T
    return A, torch.eye(d, dtype=torch.float64)[:, :k]


@pytest.mark.parametrize("coupling", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(20))
def test_the_count_lies_between_that_of_the_ritz_values_and_the_bound(seed, coupling):
    A, V = coupled(seed, coupling)
    values, residuals = A.diagonal()[:5], A @ V - V * A.diagonal()[:5]
    exact = torch.linalg.eigvalsh(A)
    for t in torch.linspace(0.62, 1.3, 35).tolist():
        count = int((exact > t).sum())
        certain = certificates.ceiling(values, residuals, t) >= 0.6
        assert int((values > t).sum()) <= count and (not certain or int((values > t).sum()) == count)


def test_the_ceiling_is_attained():
    """Ritz value 0.9, rest 0.6, coupling c: the eigenvalue exceeds 1 if and only if (1 - 0.9) (1 - 0.6) < c^2."""
    for c, count in ((0.199, 0), (0.201, 1)):
        A = torch.tensor([[0.9, c], [c, 0.6]], dtype=torch.float64)
        values, residuals = A[:1, 0], torch.tensor([[0.0], [c]], dtype=torch.float64)
        assert int((torch.linalg.eigvalsh(A) > 1).sum()) == count
        assert (certificates.ceiling(values, residuals, 1.0) >= 0.6) == (count == 0)


def certify_coupled(coupling, end, frobenius):
    """Certificate of the Ritz values of a coupled matrix at a threshold just above the third, 1."""
    A, V = coupled(3, coupling, end)
    values, residuals = A.diagonal()[:5], A @ V - V * A.diagonal()[:5]
    norm = torch.linalg.matrix_norm(A).item() if frobenius else None
    problem = lanczos.Problem(multiplied(A), 12, A, lambda values: 1.001, A.trace().item(), norm)
    run = lanczos.Run(lanczos.Search(problem, 12, generator()))
    run.krylov.restore({"Q": V, "W": A @ V, "H": torch.diag(values), "next": A @ V, "last": 5})
    return *run.certify(values, residuals, 1.001), run.before


@pytest.mark.parametrize(("frobenius", "kind"), [(False, "probabilistic"), (True, "deterministic")])
def test_a_ritz_value_that_its_residual_may_lift_over_the_threshold_is_not_counted_yet(frobenius, kind):
    found, p, products = certify_coupled(1e-3, 0.1, frobenius)
    assert found == kind and p == 0 and (products > 0) == (kind == "probabilistic")
    assert certify_coupled(0.08, 0.1, frobenius) == ("undecided", 1.0, 0)


def test_the_rest_has_to_end_where_the_bound_on_the_count_takes_it_to_end():
    """A rest between that end and the threshold gives no certificate."""
    A, V = coupled(3, 0.007)
    end = certificates.ceiling(A.diagonal()[:5], A @ V - V * A.diagonal()[:5], 1.001)
    assert lanczos.CEILING < end < 0.99
    assert certify_coupled(0.007, end - 0.01, False)[1] == 0
    assert certify_coupled(0.007, end + 0.01, False)[1] == 1


def test_where_the_residuals_leave_the_count_open_the_same_space_grows(monkeypatch):
    """An eigenvalue 1e-4 below the threshold: the first Ritz vectors cannot tell, the search ends all the same."""
    spectrum = torch.cat([torch.logspace(0, -2, 150), torch.zeros(D - 150)]).double()
    eps = spectrum[80].item() * 1.0001 / D
    kinds, certify = [], lanczos.Run.certify
    monkeypatch.setattr(lanczos.Run, "certify", lambda *a: kinds.append(certify(*a)) or kinds[-1])
    monkeypatch.setitem(lanczos.TOLERANCE, torch.float64, 0.2)
    found = certified(matrix(spectrum), eps, frobenius=False)
    assert found.count == 80 and kinds[0] == ("undecided", 1.0) and kinds[-1][0] == "probabilistic"
    assert found.products < D


def test_independent_probes_multiply_and_no_margin_gives_no_certificate():
    one = certificates.failure_probability(0.5, 1000, 6, 1)
    assert 0 < one < 1
    assert certificates.failure_probability(0.5, 1000, 6, 8) == pytest.approx(one**8)
    assert certificates.failure_probability(1.0, 1000, 6, 8) == 1.0

"""The closed forms against exact rational arithmetic, simulation and the laws that they obey."""

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from problems import generator

from sgdvi_lite import OrnsteinUhlenbeck, sde, thermo

R = sp.Rational
CASES = {
    "Hessian in the plane": ([[1, 0], [0, 3]], [[1, R(1, 2)], [R(1, 2), 1]]),
    "not symmetric": ([[1, -2], [3, 1]], [[2, R(1, 3)], [R(1, 3), 1]]),
    "singular, controllable": ([[1, 0], [0, 2]], [[1, 1], [1, 1]]),
    "three": ([[2, 1, 0], [-1, 3, 1], [0, R(1, 2), 1]], [[1, R(1, 2), 0], [R(1, 2), 2, R(1, 4)], [0, R(1, 4), 1]]),
    "four": (
        [[1, 0, 0, 0], [0, 2, 0, 1], [0, 0, 3, 0], [0, 1, 0, 5]],
        [[1, R(1, 2), 0, 0], [R(1, 2), 1, R(1, 3), 0], [0, R(1, 3), 1, R(1, 5)], [0, 0, R(1, 5), 2]],
    ),
}
T = R(1, 10)


def exact(F, D):
    """Solve F S + S F^T = 2 D over the rationals, entry by entry; return F, D, S, Q and U."""
    F, D = sp.Matrix(F), sp.Matrix(D)
    d = F.rows
    names = {(i, j): sp.Symbol(f"s{i}{j}") for i in range(d) for j in range(i, d)}
    S = sp.Matrix(d, d, lambda i, j: names[min(i, j), max(i, j)])
    S = S.subs(sp.solve(list(F * S + S * F.T - 2 * D), list(names.values())))
    return F, D, S, F * S - D, S.inv()


def tensor(M):
    return torch.tensor(np.array(M.tolist(), dtype=float) if isinstance(M, sp.MatrixBase) else M, dtype=torch.float64)


def process(name="Hessian in the plane"):
    F, D = CASES[name]
    return OrnsteinUhlenbeck(tensor(sp.Matrix(F)), tensor(sp.Matrix(D)), float(T))


def close(value, M, tolerance=1e-12):
    return (value - tensor(M)).abs().max() <= tolerance * max(1, tensor(M).abs().max())


# ---- against exact rational arithmetic


@pytest.mark.parametrize("name", CASES)
def test_the_decomposition_is_exact(name):
    F, D, S, Q, U = exact(*CASES[name])
    assert Q == -Q.T and ((D + Q) * U - F).expand() == sp.zeros(*F.shape)
    ou = process(name)
    assert close(ou.Q, Q) and close(ou.U, U) and close(ou.covariance, T * S) and close(ou.area_rate, T * Q)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("singular")])
def test_entropy_production_is_exact(name):
    _, D, _, Q, U = exact(*CASES[name])
    assert process(name).entropy_production.item() == pytest.approx(float((Q.T * D.inv() * Q * U).trace()), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_frequencies_are_the_imaginary_eigenvalues_of_the_force(name):
    _, _, _, Q, U = exact(*CASES[name])
    roots = [complex(r) for r in sp.Poly((-Q * U).charpoly().as_expr()).nroots(n=30, maxsteps=200)]
    expected = sorted((abs(r.imag) for r in roots if r.imag > 1e-12), reverse=True)
    found = process(name).frequencies
    assert len(found) == len(roots) // 2
    assert found[: len(expected)].tolist() == pytest.approx(expected, rel=1e-12)
    assert (found[len(expected) :].abs() < 1e-12).all()


def test_the_hessian_eigenbasis_has_the_closed_form():
    rates = torch.tensor([1.0, 2.5, 4.0], dtype=torch.float64)
    A = torch.randn(3, 3, generator=generator(), dtype=torch.float64)
    ou = OrnsteinUhlenbeck(torch.diag(rates), A @ A.T, 0.3)
    total, difference = rates[:, None] + rates, rates[:, None] - rates
    assert torch.allclose(ou.Q, A @ A.T * difference / total, rtol=0, atol=1e-13)
    assert torch.allclose(torch.linalg.inv(ou.U), 2 * A @ A.T / total, rtol=0, atol=1e-12)


# ---- in time

START = (torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([[0.5, 0.1], [0.1, 0.2]], dtype=torch.float64))
TIMES = torch.tensor([0.0, 0.3, 1.0, 4.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["Hessian in the plane", "not symmetric", "singular, controllable"])
def test_moments_solve_their_differential_equations(name):
    ou, (mean0, cov0), h = process(name), START, 1e-3
    assert torch.equal(ou.mean(0.0, mean0), mean0) and torch.allclose(ou.cov(0.0, cov0), cov0, rtol=0, atol=1e-15)
    for t in (0.3, 1.0):
        rate = [
            (8 * (f(t + h) - f(t - h)) - f(t + 2 * h) + f(t - 2 * h)) / (12 * h)
            for f in (lambda t: ou.mean(t, mean0), lambda t: ou.cov(t, cov0))
        ]
        C = ou.cov(t, cov0)
        assert torch.allclose(rate[0], -ou.F @ ou.mean(t, mean0), rtol=0, atol=1e-9)
        assert torch.allclose(rate[1], -ou.F @ C - C @ ou.F.T + 2 * ou.T * ou.D, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["Hessian in the plane", "not symmetric", "singular, controllable"])
def test_the_dissipation_is_the_loss_of_free_energy(name):
    ou, h = process(name), 2e-3
    F = lambda t: ou.free_energy(t, *START)  # noqa: E731
    for t in (0.2, 1.0, 3.0):
        steps = [(F(t + k * h) - F(t - k * h)) / (2 * k * h) for k in (1, 2, 3)]
        slope = 1.5 * steps[0] - 0.6 * steps[1] + 0.1 * steps[2]  # sixth order
        assert ou.dissipation(t, *START).item() == pytest.approx(-slope.item(), abs=1e-9)


def test_free_energy_is_T_times_the_relative_entropy_of_thermo():
    ou = process("not symmetric")
    for t in (0.0, 0.7):
        kl = thermo.gaussian_kl(
            *(a.numpy() for a in (ou.mean(t, START[0]), ou.cov(t, START[1]), 0 * START[0], ou.covariance))
        )
        assert ou.free_energy(t, *START).item() == pytest.approx(ou.T * kl, rel=1e-11)
    assert ou.free_energy(0.0, torch.zeros(2).double(), ou.covariance).item() == pytest.approx(0, abs=1e-14)
    assert ou.dissipation(0.0, torch.zeros(2).double(), ou.covariance).item() == pytest.approx(0, abs=1e-14)


def test_a_vector_of_times_adds_a_leading_dimension():
    ou = process("not symmetric")
    for method, start in ((ou.mean, START[:1]), (ou.cov, START[1:]), (ou.free_energy, START), (ou.dissipation, START)):
        together = method(TIMES, *start)
        assert torch.allclose(together, torch.stack([method(t.item(), *start) for t in TIMES]), rtol=1e-12, atol=1e-14)


# ---- against simulation


def test_simulated_paths_have_the_moments_and_the_area_within_three_standard_errors():
    ou, n, dt, steps = process("not symmetric"), 200_000, 2e-3, 500
    root = torch.linalg.cholesky(2 * ou.T * ou.D)
    x0 = torch.randn(n, 2, generator=generator(1), dtype=torch.float64) @ torch.linalg.cholesky(ou.covariance).T
    move = torch.eye(2) - dt * ou.F  # the scheme's own stationary covariance, to separate its bias from the noise
    lifted = torch.eye(4, dtype=torch.float64) - torch.kron(move, move)
    own = torch.linalg.solve(lifted, (2 * dt * ou.T * ou.D).reshape(-1)).reshape(2, 2)
    assert (own - ou.covariance).abs().max() < 4 * dt * ou.covariance.abs().max()
    path = sde.euler_maruyama(lambda x: -x @ ou.F.T, root, x0, dt, steps, generator=generator(2), every=steps)
    x = path[-1]
    C = x.T @ x / n
    error = ((own.diag()[:, None] * own.diag() + own**2) / n).sqrt()
    assert ((C - own).abs() <= 3 * error + 0.1 * (own - ou.covariance).abs()).all()
    y = sde.euler_maruyama(lambda x: -x @ ou.F.T, root, x, dt, 1, generator=generator(3))
    area = (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]) / (2 * dt)
    assert abs(area.mean() - ou.area_rate[0, 1]) <= 3 * area.std() / n**0.5
    assert abs(area.mean() + ou.area_rate[0, 1]) > 5 * area.std() / n**0.5


# ---- many at once


def test_a_batch_is_a_loop():
    g = generator(4)
    A, B = (torch.randn(3, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    F, D = A @ A.mT + torch.eye(4) + 0.3 * (B - B.mT), B @ B.mT
    many, mean0, cov0 = OrnsteinUhlenbeck(F, D, 0.2), torch.ones(4).double(), torch.eye(4).double()
    for i in np.ndindex(3, 2):
        one = OrnsteinUhlenbeck(F[i], D[i], 0.2)
        for name in ("Q", "U", "covariance", "entropy_production", "frequencies", "area_rate"):
            assert torch.allclose(getattr(many, name)[i], getattr(one, name), rtol=1e-9, atol=1e-12)
        for name in ("free_energy", "dissipation"):
            together = getattr(many, name)(TIMES[1:], mean0, cov0)[:, *i]
            assert torch.allclose(together, getattr(one, name)(TIMES[1:], mean0, cov0), rtol=1e-8)


# ---- where something is missing


def test_a_saddle_has_Q_and_U_but_no_stationary_law():
    F = torch.diag(torch.tensor([1.0, -2.0]).double())
    ou = OrnsteinUhlenbeck(F, tensor([[1.0, 0.5], [0.5, 1.0]]), 1.0)
    assert torch.allclose((ou.D + ou.Q) @ ou.U, F) and torch.linalg.eigvalsh(ou.U).prod() < 0
    assert ou.cov(1.0, torch.zeros(2, 2).double())[1, 1].item() == pytest.approx((np.exp(4) - 1) / 2)
    for name in ("covariance", "entropy_production", "frequencies", "area_rate"):
        with pytest.raises(ValueError, match=r"F has the eigenvalues \[-2.0\] without a positive real part"):
            getattr(ou, name)
    with pytest.raises(ValueError, match="expected a stable F"):
        ou.free_energy(1.0, torch.zeros(2).double(), torch.eye(2).double())


def test_noise_that_does_not_reach_a_direction():
    ou = OrnsteinUhlenbeck(
        torch.diag(torch.tensor([1.0, 2.0]).double()), torch.diag(torch.tensor([1.0, 0.0]).double()), 1.0
    )
    assert close(ou.covariance, [[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"no noise reaches the direction \[0.0, 1.0\].*restrict F and D"):
        _ = ou.U


def test_singular_noise_with_a_density_always_produces_infinite_entropy():
    g = generator(5)
    for rank in (1, 2, 3):
        A, B = torch.randn(4, rank, generator=g).double(), torch.randn(4, 4, generator=g).double()
        F = torch.eye(4).double() + B @ B.T + B - B.T
        assert OrnsteinUhlenbeck(F, A @ A.T, 1.0).entropy_production.item() == np.inf


def test_the_sum_of_squared_frequencies_is_bounded_and_rank_one_attains_it():
    rates, v = torch.tensor([0.5, 1.0, 2.0, 3.0]).double(), torch.tensor([[1.0], [0.5], [-1.0], [2.0]]).double()
    bound = (rates.sum() ** 2 - rates.square().sum()) / 2
    one = OrnsteinUhlenbeck(torch.diag(rates), v @ v.T, 1.0)
    more = OrnsteinUhlenbeck(torch.diag(rates), v @ v.T + 0.1 * torch.eye(4), 1.0)
    assert one.frequencies.square().sum().item() == pytest.approx(bound.item(), rel=1e-10)
    assert more.frequencies.square().sum() < bound


def test_singular_noise_that_drives_a_current_produces_infinite_entropy():
    assert process("singular, controllable").entropy_production.item() == np.inf
    still = OrnsteinUhlenbeck(tensor([[2.0, 0.0], [0.0, 3.0]]), tensor([[1.0, 0.0], [0.0, 2.0]]), 1.0)
    assert still.entropy_production.item() == 0 and still.frequencies.tolist() == [0]


GOOD = {"F": tensor([[1.0, 0.0], [0.0, 2.0]]), "D": tensor([[1.0, 0.0], [0.0, 1.0]]), "T": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": 0.0}, "T = 0.0: expected a finite number > 0"),
        ({"F": torch.eye(3).double()}, r"D has shape \(2, 2\), torch.float64 on cpu: expected \(3, 3\)"),
        ({"F": torch.ones(2).double()}, r"F has shape \(2,\): expected square matrices"),
        ({"F": torch.eye(2)}, r"F has shape .*, torch.float32 on cpu: expected \(2, 2\), torch.float64"),
        ({"F": tensor([[1.0, np.nan], [0.0, 1.0]])}, "F has a NaN or an infinity"),
        ({"D": tensor([[1.0, 0.5], [0.2, 1.0]])}, "D is not symmetric: it differs from its transpose by 0.3"),
        ({"D": tensor([[1.0, 2.0], [2.0, 1.0]])}, "D has the eigenvalue -1: expected all >= 0"),
        ({"F": tensor([[1.0, 0.0], [0.0, -1.0]])}, r"F has the eigenvalues \[1.0, -1.0\], which sum to zero"),
        ({"F": tensor([[1.0, 0.0], [0.0, 0.0]])}, r"F has the eigenvalues \[0.0, 0.0\], which sum to zero"),
        ({"F": tensor([[0.0, 1.0], [-1.0, 0.0]])}, r"eigenvalues \[1j, -1j\], which sum to zero"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        OrnsteinUhlenbeck(**(GOOD | change))


def test_bad_times_and_starts():
    ou = process()
    with pytest.raises(ValueError, match=r"t = -1.0: expected a time >= 0"):
        ou.mean(-1.0, START[0])
    for bad, message in (
        (torch.ones(3).double(), r"mean0 has shape \(3,\), torch.float64 on cpu: expected \(2,\), torch.float64"),
        (torch.ones(2), "mean0 has shape .* torch.float32 on cpu: expected"),
        (tensor([np.nan, 0.0]), "mean0 has a NaN or an infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            ou.mean(1.0, bad)
    with pytest.raises(ValueError, match=r"cov0 has shape \(2,\).*expected \(2, 2\)"):
        ou.cov(1.0, START[0])
    with pytest.raises(ValueError, match=r"cov0 is not symmetric: it differs from its transpose by 0\.5"):
        ou.free_energy(1.0, START[0], tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match=r"cov0 has the eigenvalue -1: expected all >= 0"):
        ou.cov(1.0, -torch.eye(2).double())
    with pytest.raises(
        ValueError, match=r"cov0: the covariance at time t has the eigenvalue 0: expected all > 0 relative to"
    ):
        ou.free_energy(0.0, START[0], torch.zeros(2, 2).double())


# ---- scales far apart

FAR = {
    "flat": ([["1e-14", 0], [0, 1]], [[1, "0.5"], ["0.5", 1]]),
    "nearly flat, turning": ([["1e-10", "-1e-3"], ["1e-3", 2]], [[1, "0.5"], ["0.5", 1]]),
    "stiff": ([["1e-7", 0], [0, "1e6"]], [[1, "0.5"], ["0.5", 1]]),
    "sheared": ([[1, "1e8"], [0, 2]], [[1, 0], [0, 1]]),
    "weak noise": ([[1, "0.5"], ["0.2", 2]], [[1, 0], [0, "1e-12"]]),
    "weaker noise": ([[1, "0.5"], ["0.2", 2]], [[1, 0], [0, "1e-20"]]),
}


def far(name):
    return tuple([[R(entry) for entry in row] for row in M] for M in FAR[name])


@pytest.mark.parametrize("name", FAR)
def test_scales_far_apart_keep_their_digits(name):
    F, D, S, Q, U = exact(*far(name))
    ou = OrnsteinUhlenbeck(tensor(F), tensor(D), 1.0)
    digits = 1e-5 if name == "nearly flat, turning" else 1e-12  # sqrt(det F) / |F|^2 is 5e-4 there: S is less certain
    for found, M in ((ou.covariance, S), (ou.U, U), (ou.Q, Q)):
        scale = (tensor(M).diagonal().abs().sqrt() + 1e-300) if M != Q else tensor(S).diagonal().sqrt() * 0 + 1
        gap = (found - tensor(M)).abs()
        gap = gap / scale[:, None] / scale if M != Q else gap / tensor(Q).abs().max()
        assert gap.max() < digits
    production = float((Q.T * D.inv() * Q * U).trace())
    assert ou.entropy_production.item() == pytest.approx(production, rel=max(digits, 1e-11))


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize("t", [1e-9, 1e-3, 1.0])
def test_the_covariance_in_time_is_exact_for_scales_far_apart(name, t):
    F, D = (mpmath.matrix([[mpmath.mpf(entry) for entry in row] for row in M]) for M in FAR[name])
    with mpmath.workdps(60):
        if mpmath.mnorm(F * t, 1) > 2000:
            t = t * 1e-6
        block = mpmath.zeros(4)
        block[:2, :2], block[:2, 2:], block[2:, 2:] = -F * t, 2 * D * t, F.T * t
        E = mpmath.expm(block)
        cov = E[:2, :2] * E[:2, :2].T + E[:2, 2:] * E[:2, :2].T
    expected = tensor([[float(cov[i, j]) for j in range(2)] for i in range(2)])
    ou = OrnsteinUhlenbeck(*(tensor([[float(entry) for entry in row] for row in M]) for M in FAR[name]), 1.0)
    scale = expected.diagonal().sqrt()
    found = ou.cov(t, torch.eye(2).double())
    assert ((found - expected).abs() / scale[:, None] / scale).max() < 1e-13


def test_slow_directions_keep_their_digits_beside_fast_ones_at_all_times_together():
    ou = OrnsteinUhlenbeck(np.diag([1e-7, 1e6]), np.eye(2), 1.0)
    times = np.array([0.0, 1e-9, 1.0, 1e7, 1e8, 1e12])
    expected = np.stack([np.exp(-1e-7 * times), np.exp(-1e6 * times)], 1)
    assert np.allclose(ou.mean(times, np.ones(2)).numpy(), expected, rtol=1e-12, atol=1e-300)
    late = OrnsteinUhlenbeck(1e10 * np.eye(2), 1e10 * np.eye(2), 1.0).cov(1e100, 2 * np.eye(2))
    assert np.allclose(late, np.eye(2), rtol=0, atol=1e-14)
    spread = [-np.expm1(-2e-7 * times) / 1e-7, -np.expm1(-2e6 * times) / 1e6]
    cov = ou.cov(times, np.zeros((2, 2))).numpy()
    assert np.allclose(np.diagonal(cov, axis1=1, axis2=2), np.stack(spread, 1), rtol=1e-11, atol=0)


def test_at_a_saddle_a_late_time_is_refused_and_nothing_is_nan():
    ou = OrnsteinUhlenbeck(tensor([[1.0, 0.0], [0.0, -2.0]]), tensor([[1.0, 0.0], [0.0, 1.0]]), 1.0)
    assert torch.isfinite(ou.cov(100.0, torch.eye(2).double())).all()
    with pytest.raises(ValueError, match="t: the moments at the latest are beyond float64"):
        ou.cov(torch.tensor([1.0, 1e3]), torch.eye(2).double())


@pytest.mark.parametrize(
    "F",
    [
        [[1.0, 1.0], [1.0, 1.0]],
        [[0.0, 0.0], [0.0, 1e6]],
        [[1e-14, 1.0], [-1.0, 1e-14]],
        [[3.0, 1.0], [0.0, -3.0]],
    ],
)
def test_what_rounding_cannot_tell_from_a_sum_of_zero_is_refused(F):
    with pytest.raises(ValueError, match="which sum to zero"):
        OrnsteinUhlenbeck(tensor(F), tensor([[1.0, 0.0], [0.0, 1.0]]), 1.0)


# ---- arrays, and an object that does not change


def test_arrays_are_welcome_and_graphs_are_cut():
    ou = process("not symmetric")
    arrays = OrnsteinUhlenbeck(ou.F.numpy(), ou.D.numpy(), np.float64(ou.T))
    traced = OrnsteinUhlenbeck(ou.F.requires_grad_(), ou.D.requires_grad_(), ou.T)
    for other in (arrays, traced):
        assert torch.equal(other.U, ou.U) and not other.U.requires_grad
        assert torch.equal(other.cov(TIMES.numpy(), START[1].numpy()), ou.cov(TIMES, START[1]))
    with pytest.raises(ValueError, match=r"F has shape .*, torch.float32 on cpu: expected \(2, 2\), torch.float64"):
        OrnsteinUhlenbeck(np.eye(2, dtype=np.float32), np.eye(2), 1.0)


def test_neither_arguments_nor_attributes_nor_results_can_change_it():
    F, D = tensor([[1.0, -2.0], [3.0, 1.0]]), tensor([[2.0, 0.5], [0.5, 1.0]])
    ou = OrnsteinUhlenbeck(F, D, 1.0)
    U, cov = ou.U, ou.covariance.clone()
    for value in (F, D, ou.F, ou.D, ou.U, ou.Q, ou.covariance):
        value.mul_(7)
    assert torch.equal(ou.U, U) and torch.equal(ou.covariance, cov)
    for name in ("T", "F", "D", "U", "Q"):
        with pytest.raises(AttributeError):
            setattr(ou, name, 2.0)

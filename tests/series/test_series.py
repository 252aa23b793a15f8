"""Time series: exact laws, closed forms, coverage of the error bars over many seeds."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import generator
from references import direct_autocorrelation, kronecker_lyapunov, periodograms, shoelace
from scipy.stats import chi2

from sgdvi_lite import OrnsteinUhlenbeck, series, sgd

TURNING = series.LinearProcess([[0.9, -0.1], [0.1, 0.9]], [[1.0, 0.2], [0.2, 0.5]])
COUPLED = np.array([[0.8, 0.15], [0.15, 0.6]])
REVERSIBLE = series.LinearProcess(COUPLED, np.eye(2))  # A C = C A^T, as A is symmetric and the noise isotropic


def ar1(phi):
    return series.LinearProcess([[phi]], [[1.0]])


def sampled(F, D, T, dt):
    """The Ornstein-Uhlenbeck process at multiples of dt, exactly; and the process itself."""
    ou = OrnsteinUhlenbeck(torch.tensor(F).double(), torch.tensor(D).double(), T)
    A = torch.linalg.matrix_exp(-ou.F * dt)
    return series.LinearProcess(A.numpy(), (ou.covariance - A @ ou.covariance @ A.T).numpy()), ou


def is_standard_normal(z):
    """Mean 0 within three errors; variance 1 within three errors, or a little more, as for Student's t."""
    z = np.asarray(z)
    assert abs(z.mean()) < 3 / np.sqrt(len(z))
    assert 1 - 3 * np.sqrt(2 / len(z)) < z.var() < 1.1 + 3 * np.sqrt(2 / len(z))


# ---- the current


ROTATING = ([[1.0, 0.4], [-0.4, 1.0]], [[1.0, 0.0], [0.0, 1.0]])


def test_the_area_of_an_ou_process_with_known_rotation_is_unbiased_within_its_error_bar():
    process, ou = sampled(*ROTATING, T=0.5, dt=0.1)
    z = []
    for seed in range(200):
        area, error = series.stochastic_area(process.sample(6000, generator=generator(seed)))
        z.append((area - process.area())[0, 1] / error[0, 1])
    is_standard_normal(z)
    assert process.area()[0, 1] / 0.1 == pytest.approx(ou.area_rate[0, 1].item(), rel=0.12)  # more as dt -> 0
    fine, _ = sampled(*ROTATING, T=0.5, dt=1e-4)
    assert fine.area()[0, 1] / 1e-4 == pytest.approx(ou.area_rate[0, 1].item(), rel=2e-4)


def test_the_area_is_seen_far_above_its_error():
    process, _ = sampled(*ROTATING, T=0.5, dt=0.1)
    area, error = series.stochastic_area(process.sample(50_000, generator=generator()))
    assert abs(area[0, 1]) > 10 * error[0, 1]


FORCE = [[2.0, 0.7], [0.7, 1.0]]
REVERSIBLE_ONES = {
    "white noise": lambda g: series.white_noise(6000, COUPLED, generator=g),
    "symmetric force": lambda g: sampled(FORCE, [[1.0, 0.0], [0.0, 1.0]], 0.5, 0.1)[0].sample(6000, generator=g),
    "commuting noise": lambda g: sampled(FORCE, FORCE, 0.5, 0.1)[0].sample(6000, generator=g),
    "reversible fit": lambda g: FITTED.sample(6000, generator=g),
    "momentum alone": lambda g: series.momentum_process(np.diag([1.0, 0.3]), np.eye(2), 0.3, 0.6).sample(
        6000, generator=g
    ),
}
FITTED = series.fit_linear(TURNING.sample(5000, generator=generator(1)), reversible=True)


@pytest.mark.parametrize("kind", REVERSIBLE_ONES)
def test_a_reversible_process_has_no_area_within_its_error_bar(kind):
    z = []
    for seed in range(100):
        area, error = series.stochastic_area(REVERSIBLE_ONES[kind](generator(seed)))
        z.append(area[0, 1] / error[0, 1])
    is_standard_normal(z)


def test_curvature_and_noise_that_do_not_commute_make_a_current_with_momentum_too():
    noise = np.array([[1.0, 0.5], [0.5, 1.0]])
    for rates in ({"momentum": 0.0}, {"momentum": 0.6}, {"momentum": 0.6, "nesterov": True}):
        process = series.momentum_process(np.diag([1.0, 0.3]), noise, 0.3, **rates)
        area, error = series.stochastic_area(process.sample(100_000, generator=generator()))
        assert abs(process.area()[0, 1]) > 5 * error[0, 1]
        assert abs(area - process.area())[0, 1] < 3 * error[0, 1]


def test_the_area_of_a_closed_polygon_is_that_of_its_triangles():
    corners = torch.randn(40, 2, generator=generator(), dtype=torch.float64).numpy()
    loop = np.concatenate([corners, corners[:1]])
    area, _ = series.stochastic_area(loop, n_batches=2)
    assert area[0, 1] * 40 == pytest.approx(shoelace([tuple(p) for p in loop]), rel=1e-12)


@given(st.integers(4, 60), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_areas_are_antisymmetric_and_change_sign_with_time(n, lag, seed):
    x = torch.randn(2 * n + lag, 3, generator=generator(seed), dtype=torch.float64).numpy()
    area, error = series.stochastic_area(x, lag, n_batches=2)
    back, back_error = series.stochastic_area(series.time_reversed(x), lag, n_batches=2)
    assert np.allclose(area, -area.T, atol=1e-14) and (error >= 0).all()
    assert np.allclose(area, -back, atol=1e-12) and np.allclose(error, back_error, atol=1e-12)


def test_the_area_is_the_antisymmetric_part_of_the_lagged_covariance():
    x = TURNING.sample(3001, generator=generator())
    C = series.lagged_covariance(x, 1)
    assert np.allclose(series.stochastic_area(x, n_batches=30)[0], (C - C.T) / 2, atol=1e-13)


def test_the_velocity_field_of_a_linear_process_is_linear():
    z, V = [], TURNING.current_velocity()
    for seed in range(20):
        field = series.velocity_field(TURNING.sample(40_000, generator=generator(seed)), cells=6)
        exact = np.stack([field.X, field.Y], -1) @ V.T
        often = field.count > 1500
        z += list(((field.velocity - exact) / field.error)[often].ravel())
    z = np.array(z)
    assert len(z) > 300 and abs(z.mean()) < 0.3 and 0.8 < z.var() < 1.4


def test_the_velocity_field_of_a_reversible_process_vanishes():
    field = series.velocity_field(REVERSIBLE.sample(60_000, generator=generator()), cells=5)
    often = field.count > 500
    assert np.abs((field.velocity / field.error)[often]).max() < 4
    assert field.count.sum() <= 60_000 - 2 and np.isnan(field.velocity[field.count == 0]).all()


# ---- spectra and autocorrelation


def test_welch_is_the_mean_of_windowed_periodograms():
    x = ar1(0.7).sample(1000, generator=generator())[:, 0]
    assert np.allclose(series.spectrum(x, 64).density, periodograms(x, 64), rtol=1e-10)


def test_the_interval_has_welchs_degrees_of_freedom():
    """For Hann windows that overlap by half, 36 K^2 / (19 K - 1) of them with K windows; fewer at the lowest."""
    found = series.spectrum(series.white_noise(64 * 5, [[1.0]], generator=generator())[:, 0], 64)
    assert (found.high / found.low)[0] > 1.1 * (found.high / found.low)[1]
    found = series.PowerSpectrum(*(part[1:] for part in found))
    nu = 36 * 9**2 / (19 * 9 - 1)
    above, below = chi2.ppf([0.975, 0.025], nu)
    assert np.allclose(found.low, found.density * nu / above) and np.allclose(found.high, found.density * nu / below)


@pytest.mark.parametrize("process", [ar1(0.8), ar1(-0.5), series.momentum_process([[0.5]], [[1.0]], 0.2, 0.9)])
def test_the_spectrum_of_increments_covers_the_exact_one_as_often_as_it_says(process):
    covered = []
    for seed in range(20):
        found = series.increment_spectrum(process.sample(20_000, generator=generator(seed))[:, 0])
        exact = process.increment_spectrum(found.frequency)[:, 0]
        covered.append((found.low < exact) & (exact < found.high))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_the_exact_spectrum_of_increments_is_the_closed_form_of_ar1():
    f, phi = np.linspace(0.01, 0.49, 30), 0.8
    exact = 2 * (2 - 2 * np.cos(2 * np.pi * f)) / (1 + phi**2 - 2 * phi * np.cos(2 * np.pi * f))
    assert np.allclose(ar1(phi).increment_spectrum(f)[:, 0], exact, rtol=1e-12)


def test_increments_of_brownian_motion_are_white_and_those_of_white_noise_are_not():
    walk = series.increment_spectrum(series.brownian(40_000, [[2.0]], generator=generator())[:, 0])
    assert np.mean((walk.low < 4) & (walk.high > 4)) > 0.9
    noise = series.increment_spectrum(series.white_noise(40_000, [[2.0]], generator=generator())[:, 0])
    exact = 8 * (1 - np.cos(2 * np.pi * noise.frequency))
    assert np.mean((noise.low < exact) & (noise.high > exact))[()] > 0.9 and noise.density[2] < 0.1


def test_autocorrelation_is_that_of_its_definition():
    x = ar1(0.6).sample(201, generator=generator())
    assert np.allclose(series.autocorrelation(x[:, 0], 30), direct_autocorrelation(x[:, 0].tolist(), 30), atol=1e-13)
    both = series.autocorrelation(np.hstack([x, -3 * x + 1]), 30)
    assert both.shape == (31, 2) and np.allclose(both[:, 0], both[:, 1])


def test_bartletts_band_of_a_moving_average_holds_what_it_says():
    """Of an MA(2) process, whose correlation has died out from lag 3 on; white noise's band holds too little."""
    inside, white = [], []
    for seed in range(300):
        e = series.white_noise(802, [[1.0]], generator=generator(seed))[:, 0]
        x = e[2:] + 0.9 * e[1:-1] + 0.8 * e[:-2]
        rho = series.autocorrelation(x, 10)
        exact = np.array([2.45, 1.62, 0.8] + [0.0] * 8) / 2.45
        inside.append(np.abs(rho[3:]) < series.autocorrelation_band(exact, 800, 0.95)[3:])
        white.append(np.abs(rho[3:]) < 1.96 / 800**0.5)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)
    assert np.mean(white) < 0.88


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.4])
def test_the_integrated_time_of_ar1(phi):
    exact, n = (1 + phi) / (1 - phi), 100_000
    found = series.integrated_time(ar1(phi).sample(n, generator=generator(3))[:, 0])
    assert abs(found - exact) < 4 * exact * np.sqrt(2 * (2 * 5 * exact + 3) / n) + 1e-3


def test_a_series_too_short_raises_with_its_estimate():
    x = ar1(0.99).sample(1000, generator=generator())
    with pytest.raises(
        series.ShortSeriesError, match=r"1000 samples and an autocorrelation time of about .* record long"
    ):
        series.integrated_time(x)
    try:
        series.integrated_time(x)
    except series.ShortSeriesError as error:
        assert error.estimate.shape == (1,) and error.estimate[0] > 20
        assert str(round(float(error.estimate[0]), 1))[:2] in str(error)
    assert series.integrated_time(x, tolerance=1.0) == error_estimate(x)


def error_estimate(x):
    with pytest.raises(series.ShortSeriesError) as told:
        series.integrated_time(x)
    return told.value.estimate


def test_stretches_drop_what_is_left_over_at_the_start():
    value, error = series.batch_means([100.0, 1.0, 2.0, 3.0, 4.0], n_batches=2)
    assert value == 2.5 and error == pytest.approx(np.std([1.5, 3.5], ddof=1) / 2**0.5)
    x = torch.randn(6, 2, generator=generator(), dtype=torch.float64).numpy()
    z = x - x.mean(0)
    cross = [(a[0] * b[1] - a[1] * b[0]) / 2 for a, b in pairwise(z)]
    assert series.stochastic_area(x, n_batches=2)[0][0, 1] == pytest.approx(np.mean(cross[1:]))


def test_batch_means_have_the_error_of_a_correlated_mean():
    phi, z = 0.8, []
    for seed in range(200):
        value, error = series.batch_means(ar1(phi).sample(6000, generator=generator(seed))[:, 0])
        z.append(value / error)
    is_standard_normal(z)
    assert error == pytest.approx(np.sqrt(1 / (1 - phi) ** 2 / 6000), rel=0.5)


# ---- linear processes


@pytest.mark.parametrize("rates", [(0.0, False), (0.8, False), (0.8, True)])
def test_momentum_on_a_quadratic_is_what_the_optimiser_does(rates):
    """The linear process moves as torch.optim.SGD does, kick by kick."""
    momentum, nesterov = rates
    H, lr = np.array([[1.0, 0.3], [0.3, 0.5]]), 0.2
    process = series.momentum_process(H, np.eye(2), lr, momentum, nesterov=nesterov)
    x = torch.nn.Parameter(torch.tensor([1.0, -2.0]).double())
    optimizer = torch.optim.SGD([x], lr, momentum, nesterov=nesterov)
    state = np.array([1.0, -2.0, 0.0, 0.0])
    kick = lr * (1 + momentum) if nesterov else lr
    for xi in series.white_noise(20, np.eye(2), generator=generator()):
        x.grad = torch.from_numpy(H) @ x.detach() + torch.from_numpy(xi)
        optimizer.step()
        state = process.A @ state + np.concatenate([-kick * xi, xi])
        assert np.allclose(state[:2], x.detach().numpy(), atol=1e-13)
    root = np.vstack([-kick * np.eye(2), np.eye(2)])
    assert np.allclose(process.noise, root @ root.T)


@pytest.mark.parametrize(("mu", "nesterov"), [(0.0, False), (0.8, False), (0.8, True)])
def test_epochs_of_reshuffled_batches_have_the_exact_law(mu, nesterov):
    """SGD on f_k = h |x - a_k|^2 / 2, in two directions, seen once an epoch: its noise is h times a mean of the a."""
    N, b, lr, h = 24, 4, 0.1, torch.tensor([3.0, 0.5], dtype=torch.float64)
    a = torch.randn(N, 2, generator=generator(3), dtype=torch.float64)
    a = a - a.mean(0)
    noise = (N - b) / (b * (N - 1)) * (h * a).T.cov(correction=0)
    process = series.epoch_process(torch.diag(h), noise, lr, mu, N // b, nesterov=nesterov)
    x = sgd.replicas(lambda x, i: h * (x - a[i].mean(1)), torch.zeros(4000, 2).double(), N, lr, b, 100 * N // b,
                     momentum=mu, nesterov=nesterov, sampling="reshuffled", generator=generator(4),
                     every=N // b)  # fmt: skip
    found, expected = x[-1].T.cov().numpy(), process.covariance
    spread = np.sqrt((expected**2 + np.outer(*2 * [np.diag(expected)])) / 4000)
    assert (abs(found - expected) < 4.5 * spread).all()
    lagged = (x[-2] - x[-2].mean(0)).T @ (x[-1] - x[-1].mean(0)) / 4000
    assert (abs(lagged.numpy() - process.autocovariance(1)) < 4.5 * spread).all()


@pytest.mark.parametrize("x", [0.1, 1.0, 5.0, 30.0])
def test_a_reshuffled_mode_has_its_part_of_the_variance_of_independent_batches(x):
    """1 - tanh(x/2) / (x/2), times K / (K - 1), for small steps: with momentum if it is short beside an epoch."""
    K, mu = 4000, 0.5
    mode = [[1.0]], [[1.0]], x / K * (1 - mu), mu
    part = series.epoch_process(*mode, K).covariance / series.momentum_process(*mode).covariance
    assert part[0, 0] == pytest.approx(1 - np.tanh(x / 2) / (x / 2), rel=0.02)


def test_too_few_steps_for_an_epoch_of_reshuffled_batches():
    with pytest.raises(ValueError, match="steps = 1: expected an integer >= 2"):
        series.epoch_process([[1.0]], [[1.0]], 0.1, 0.0, 1)


def test_a_trend_is_a_normal_number_if_there_is_none_and_large_for_what_settles_late():
    g = generator(5)
    steady = ar1(0.9).sample(400_000, generator=g)[:, 0].reshape(100, 4000)
    z = np.array([series.trend(x) for x in steady])
    assert abs(z.mean()) < 0.4 and 0.8 < z.std() < 1.25
    late = steady[0] + 10 * np.exp(-np.arange(4000) / 300)
    assert series.trend(late) < -5 and series.trend(-late) > 5 and series.trend(np.ones(4000)) == 0
    with pytest.raises(ValueError, match=r"x has shape \(40, 2\): expected \(n,\)"):
        series.trend(np.ones((40, 2)))


def test_probabilities_are_corrected_by_holm_s_method():
    p = [0.04, 0.001, 0.5, 0.02]
    assert np.allclose(series.holm(p), [0.08, 0.004, 0.5, 0.06])
    g, wrong = np.random.default_rng(0), 0
    for null in g.random((4000, 5)):
        wrong += series.holm(null).min() < 0.05
    assert 0.04 < wrong / 4000 < 0.06
    with pytest.raises(ValueError, match=r"expected probabilities in \[0, 1\]"):
        series.holm([0.5, 1.5])


def test_the_covariance_of_a_linear_process_solves_its_equation():
    for process in (TURNING, REVERSIBLE):
        assert np.allclose(process.covariance, kronecker_lyapunov(process.A, process.noise), atol=1e-12)
    process = series.momentum_process(np.diag([1.0, 0.3]), COUPLED, 0.3, 0.7, nesterov=True)
    assert np.allclose(process.covariance, kronecker_lyapunov(process.A, process.noise)[:2, :2], atol=1e-11)


def test_momentum_on_a_line_is_ar2():
    mu, lr, h = 0.7, 0.2, 0.9
    x = series.momentum_process([[h]], [[1.0]], lr, mu)
    a, b = 1 + mu - lr * h, -mu
    variance = lr**2 * (1 - b) / ((1 + b) * ((1 - b) ** 2 - a**2))
    assert x.covariance[0, 0] == pytest.approx(variance, rel=1e-12)
    C = [x.autocovariance(k)[0, 0] for k in range(4)]
    assert C[2] == pytest.approx(a * C[1] + b * C[0], rel=1e-12)
    assert C[3] == pytest.approx(a * C[2] + b * C[1], rel=1e-12)


def test_the_fit_has_the_covariances_of_the_series_and_the_reversible_one_no_area():
    x = TURNING.sample(4000, generator=generator())
    fit, reversible = series.fit_linear(x), series.fit_linear(x, reversible=True)
    C0, C1 = np.cov(x.T, bias=True), series.lagged_covariance(x, 1) * 3999 / 4000
    assert np.allclose(fit.covariance, C0, rtol=1e-9) and np.allclose(fit.autocovariance(1), C1, rtol=1e-9, atol=1e-9)
    assert np.allclose(reversible.covariance, C0, rtol=1e-9)
    assert np.allclose(reversible.autocovariance(1), (C1 + C1.T) / 2, rtol=1e-9)
    for lag in (1, 2, 5):
        assert np.abs(reversible.area(lag)).max() < 1e-12
    assert np.allclose(fit.mean, x.mean(0))
    assert abs(fit.area()[0, 1]) > 0.01
    assert series.fit_linear(x[:, 0]).A.shape == (1, 1)


def test_samples_have_the_laws_of_their_process():
    x = TURNING.sample(200_000, generator=generator())
    for lag in (1, 4):
        assert np.allclose(series.lagged_covariance(x, lag), TURNING.autocovariance(lag), atol=0.12)
    shifted = series.LinearProcess([[0.5]], [[1.0]], mean=[7.0]).sample(5000, generator=generator())
    assert abs(shifted.mean() - 7) < 0.15
    assert np.array_equal(TURNING.sample(9, generator=generator(4)), TURNING.sample(9, generator=generator(4)))


# ---- surrogates


@pytest.mark.parametrize("n", [300, 301])
@pytest.mark.parametrize("together", [True, False])
def test_surrogates_keep_the_periodogram_exactly(n, together):
    x = TURNING.sample(n, generator=generator())
    y = series.phase_surrogate(x, generator=generator(1), together=together)
    a, b = np.fft.rfft(x, axis=0), np.fft.rfft(y, axis=0)
    assert np.allclose(np.abs(a), np.abs(b), rtol=1e-9, atol=1e-9) and np.allclose(x.mean(0), y.mean(0))
    assert np.corrcoef(x[:, 0], y[:, 0])[0, 1] < 0.5
    cross = np.allclose(a[:, 0] * a[:, 1].conj(), b[:, 0] * b[:, 1].conj(), rtol=1e-9, atol=1e-7)
    assert cross == together


def test_surrogates_keep_the_circular_area_together_and_lose_it_apart():
    def area(x):
        return 0.5 * np.mean(x[:, 0] * np.roll(x[:, 1], -1) - x[:, 1] * np.roll(x[:, 0], -1))

    x = TURNING.sample(2000, generator=generator())
    x = x - x.mean(0)
    assert area(series.phase_surrogate(x, generator=generator(1))) == pytest.approx(area(x), rel=1e-9)
    apart = [area(series.phase_surrogate(x, generator=generator(k), together=False)) for k in range(60)]
    assert abs(np.mean(apart)) < 3 * np.std(apart) / 60**0.5 and abs(area(x)) > 3 * np.std(apart)


def test_halves_of_a_surrogate_share_one_circular_area_unless_the_phases_are_independent():
    def halves(**options):
        made = (series.phase_surrogate(x, generator=generator(k), **options) for k in range(200))
        areas = [[series.stochastic_area(half)[0][0, 1] for half in np.array_split(y, 2)] for y in made]
        return np.corrcoef(np.transpose(areas))[0, 1]

    x = series.LinearProcess(0.5 * np.eye(2), np.eye(2)).sample(3000, generator=generator())
    assert halves() < -0.9
    assert abs(halves(together=False)) < 4 / 200**0.5


def test_surrogates_of_a_nonlinear_series_are_gaussian():
    x = np.sin(0.1 * np.arange(4000) + 3 * np.sin(0.013 * np.arange(4000))) ** 3
    y = series.phase_surrogate(x, generator=generator())
    kurtosis = [np.mean((v - v.mean()) ** 4) / v.var() ** 2 for v in (x, y)]
    assert kurtosis[0] < 2.5 < kurtosis[1] < 3.8


# ---- Yaida's relation


def quadratic_run(rates, n=40_000, seed=0):
    """SGD by replicas of one on f_k = (x - a_k)^2 / 2 with PyTorch's momentum: both sides of the relation."""
    g, a = generator(seed), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 0.0], dtype=torch.float64)
    lr, (mu, nesterov) = 0.1, rates
    noise = a[torch.randint(6, (n,), generator=g)].tolist()
    x = v = 0.0
    left, right = np.empty(n), np.empty(n)
    for k, target in enumerate(noise):
        grad = x - target
        left[k] = x * grad + (lr * mu * v * grad if nesterov else 0.0)
        v = mu * v + grad
        right[k] = lr * (1 + mu) / 2 * v * v
        x -= lr * (grad + mu * v if nesterov else v)
    return left, right


@pytest.mark.parametrize("rates", [(0.0, False), (0.9, False), (0.9, True)])
def test_yaidas_relation_holds_in_a_stationary_state(rates):
    found = series.stationarity(*quadratic_run(rates))
    assert found.ratio == pytest.approx(1, abs=0.01) and abs(found.z) < 3


def test_the_relation_with_momentum_has_the_factor_that_it_should():
    """Without (1 + mu) the ratio would be 1.9: the test can tell."""
    left, right = quadratic_run((0.9, False))
    assert series.stationarity(left, right / 1.9).z > 10


def test_a_run_that_still_drifts_is_not_stationary():
    left, right = quadratic_run((0.0, False), n=400)
    x = 30 * 0.9 ** np.arange(400.0)
    found = series.stationarity(left + x * x, right + 0.05 * x * x)
    assert found.ratio > 1.5


def test_a_recorded_network_without_decay_drifts_and_says_so(tmp_path):
    """x.g = 0 in front of a batch-norm: the weights can only grow."""
    import recorded

    _, _, made = recorded.start(tmp_path, n_steps=2000, every=20, weight_decay=0.0)
    assert series.stationarity(*made.balance()).ratio < 0.7


# ---- what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: series.spectrum(np.zeros(100)), "x has 100 entries: expected at least 512"),
        (lambda: series.spectrum(np.zeros(600), level=1.0), r"level = 1.0: expected a probability in \(0, 1\)"),
        (lambda: series.spectrum(np.full(600, np.nan)), "x: NaN or infinity in row 0"),
        (lambda: series.autocorrelation(np.ones(9), 3), "a column that is constant"),
        (lambda: series.autocorrelation(np.arange(9.0), 9), r"lags = 9: expected an integer in \[0, 8\]"),
        (lambda: series.stochastic_area(np.zeros((50, 1))), r"shape \(50, 1\): expected \(n, d\) with d >= 2"),
        (lambda: series.stochastic_area(np.zeros(50)), r"shape \(50,\): expected \(n, d\)"),
        (lambda: series.stochastic_area(np.zeros((50, 2))), r"n_batches = 30: expected an integer in \[2, 24\]"),
        (lambda: series.stochastic_area(np.zeros((50, 2)), 49), r"lag = 49: expected an integer in \[1, 48\]"),
        (lambda: series.velocity_field(np.zeros((50, 2))), "hardly varies"),
        (lambda: series.velocity_field(np.zeros((50, 3))), r"shape \(50, 3\): expected \(n, 2\)"),
        (lambda: series.batch_means(np.zeros(8), 5), r"n_batches = 5: expected an integer in \[2, 4\]"),
        (lambda: series.stationarity(np.zeros(8), np.zeros(9)), r"left has shape \(8,\), right \(9,\)"),
        (lambda: series.LinearProcess([[1.0]], [[1.0]]), "eigenvalue of modulus 1: expected all < 1"),
        (lambda: series.LinearProcess([[0.5]], [[-1.0]]), "noise has the eigenvalue -1: expected all >= 0"),
        (lambda: series.LinearProcess(np.eye(2) / 2, [[1.0]]), r"noise \(1, 1\): expected \(m, m\)"),
        (lambda: series.momentum_process([[1.0]], [[1.0]], 5.0, 0.0), "lower the learning rate"),
        (lambda: series.momentum_process([[1.0]], np.eye(2), 0.1, 0.0), r"expected \(d, d\) for both"),
        (lambda: series.fit_linear(np.ones((20, 2))), "covariance that is singular"),
        (lambda: series.white_noise(3, [[1.0, 2.0], [0.0, 1.0]], generator=generator()), "no symmetric matrix"),
        (lambda: series.brownian(0, [[1.0]], generator=generator()), "n = 0: expected an integer >= 1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_former_name_of_a_power_spectrum_still_stands():
    assert series.Spectrum is series.PowerSpectrum
    assert isinstance(series.spectrum(np.arange(600.0) % 7), series.Spectrum)

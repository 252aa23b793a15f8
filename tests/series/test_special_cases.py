"""Series that are exact, constant or alternating, of any scale and type; and laws that hold exactly, by frequency."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from problems import generator
from scipy.signal import lfilter

from sgdvi_lite import series

T = np.arange(1200)
NOISE = series.white_noise(1200, np.eye(2), generator=generator())
WALK = lfilter([1.0], [1.0, -0.5], NOISE, axis=0)


def plane(first, second):
    return np.stack([first, second], axis=1)


# ---- the lowest frequency
#
# A spectrum is a quadratic form q in the series. If x = R e with white e, its expectation is the sum of q over the
# columns of R: an exact law, without a draw.


def expected(spectrum, R, segment):
    found = spectrum(R, segment)
    return found.frequency, found.density.sum(axis=1)


@pytest.mark.parametrize("segment", [4, 5, 16, 17])
@pytest.mark.parametrize("length", [2, 2.5, 7])
def test_the_spectrum_of_white_noise_is_unbiased_at_every_frequency(segment, length):
    n = int(length * segment)
    assert np.allclose(expected(series.spectrum, np.eye(n), segment)[1], 2, rtol=1e-12)
    walk = np.tril(np.ones((n + 1, n)), -1)
    assert np.allclose(expected(series.increment_spectrum, walk, segment)[1], 2, rtol=1e-12)


@pytest.mark.parametrize("phi", [0.5, -0.5, -0.9])
def test_the_spectrum_of_ar1_is_unbiased_where_the_window_resolves_it(phi):
    """Within 2 % at low ones; increments rise as f^2, of which the window makes 4/3 and 13/12 at the lowest."""
    lags = abs(np.subtract.outer(np.arange(641), np.arange(641)))
    R = np.linalg.cholesky(phi**lags / (1 - phi**2))
    f, density = expected(series.spectrum, R, 64)
    exact = 2 / abs(np.exp(2j * np.pi * f) - phi) ** 2
    assert np.allclose(density, exact, rtol=0.16) and np.allclose(density[:3], exact[:3], rtol=0.02)
    f, density = expected(series.increment_spectrum, R, 64)
    exact = series.LinearProcess([[phi]], [[1.0]]).increment_spectrum(f)[:, 0]
    assert np.allclose((density / exact)[:2], [4 / 3, 13 / 12], rtol=0.03)
    assert np.allclose(density[2:], exact[2:], rtol=0.16)


@pytest.mark.parametrize("n", [128, 1280])
def test_the_interval_holds_the_density_as_often_as_it_says_at_every_frequency(n):
    noise = series.white_noise(n, np.eye(400), generator=generator(1))
    walk = np.vstack([np.zeros((1, 400)), np.cumsum(noise, axis=0)])
    for found in (series.spectrum(noise, 64), series.increment_spectrum(walk, 64)):
        covered = ((found.low < 2) & (2 < found.high)).mean(axis=1)
        assert np.abs(covered - 0.95).max() < 4 * (0.95 * 0.05 / 400) ** 0.5


def test_a_strong_line_does_not_leak_to_the_lowest_frequency():
    line = 1000 * np.sin(2 * np.pi * 0.2345 * T)
    quiet, loud = (series.spectrum(x, 128).density[0] for x in (NOISE[:, 0], NOISE[:, 0] + line))
    assert loud == pytest.approx(quiet, rel=0.5)


# ---- the integrated time


@pytest.mark.parametrize("phi", [-0.5, -0.8, -0.9, -0.95])
def test_the_integrated_time_of_a_series_that_alternates(phi):
    n, lasting = 100_000, (1 + 3 * phi**2) / (1 - phi**2)
    exact = (1 + phi) / (1 - phi)
    x = lfilter([1.0], [1.0, -phi], series.white_noise(n + 500, np.eye(4), generator=generator()), axis=0)[500:]
    assert np.allclose(series.integrated_time(x), exact, rtol=4 * np.sqrt(2 * (2 * 5 * lasting + 3) / n))


@pytest.mark.parametrize("rates", [(1.8, 0.0), (0.1, 0.9), (0.1, 0.99)])
def test_the_integrated_time_of_sgd_on_a_quadratic(rates):
    """At the zero of frequency the variance of a sum tells: lr^2 / (lr h)^2 of the noise, whatever the momentum."""
    process = series.momentum_process([[1.0]], [[1.0]], *rates)
    exact = 1 / process.covariance[0, 0]
    found = series.integrated_time(process.sample(100_000, generator=generator())[:, 0])
    assert found == pytest.approx(exact, rel=0.5 if rates[1] == 0.99 else 0.2)


@pytest.mark.parametrize(
    "x",
    [
        (-1.0) ** T,
        0.3 + 0.1 * (-1.0) ** T,
        np.sin(2 * np.pi * T / 40),
        T // 7 % 2 * 1.0,
        1e-3 * T,
        np.array([1.0, 2.0, 1.0, 4.0]),
    ],
)
def test_a_series_whose_correlation_does_not_die_out_has_no_time(x):
    with pytest.raises(series.ShortSeriesError, match="record longer"):
        series.integrated_time(x)


def test_a_slow_mode_under_white_noise_is_seen_in_the_means_of_stretches():
    slow = lfilter([1.0], [1.0, -0.99], series.white_noise(100_000, np.eye(1), generator=generator()), axis=0)
    x = slow / slow.std() + 7 * series.white_noise(100_000, np.eye(1), generator=generator(1))
    with pytest.raises(series.ShortSeriesError, match="average x over stretches if") as told:
        series.integrated_time(x)
    assert told.value.estimate[0] == pytest.approx(1 + 198 / 50, rel=4 * (2 / 29) ** 0.5)


def test_white_noise_is_seldom_taken_for_slow():
    noise = series.white_noise(2000, np.eye(200), generator=generator(5))
    assert abs(series.integrated_time(noise).mean() - 1) < 4 * 0.15 / 200**0.5


# ---- what is constant


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -1e9])
@pytest.mark.parametrize("n", [4, 999])
def test_a_constant_series_is_constant_however_its_mean_is_rounded(value, n):
    x = np.full(n, value)
    for call in (partial(series.autocorrelation, lags=2), series.integrated_time):
        with pytest.raises(ValueError, match="a column that is constant"):
            call(x)
    with pytest.raises(ValueError, match="a column that is constant"):
        series.strongest_line(np.full(999, value), 0.3)
    assert (series.spectrum(np.full(999, value), 64).density == 0).all()


def test_what_does_not_vary_has_no_directions_and_no_plane():
    constant, line = np.full((600, 2), 0.1), plane(NOISE[:, 0], np.full(1200, 0.1))
    with pytest.raises(ValueError, match="x is constant"):
        series.principal_components(constant)
    for call in (series.area_scores, series.chosen_plane):
        with pytest.raises(ValueError, match="x is constant"):
            call(constant)
    for x in (constant, line, plane(NOISE[:, 0], 3 * NOISE[:, 0] + 0.1)):
        with pytest.raises(ValueError, match="x lies on a line"):
            series.area_by_lag(x, [1])
    with pytest.raises(ValueError, match="covariance that is singular"):
        series.fit_linear(line)


def test_the_balance_of_constant_sides():
    same = series.stationarity(np.ones(40), np.ones(40))
    assert same.ratio == 1 and same.z == 0 and 0 < same.error < 1e-14
    assert series.stationarity(np.full(40, 0.3), np.full(40, 0.1) * 3).z == pytest.approx(0, abs=1)
    assert series.stationarity(2 * np.ones(40), np.ones(40)).z > 1e10
    assert series.stationarity(np.zeros(40), np.ones(40)).ratio == 0
    for right in (np.zeros(40), np.resize([0.1, -0.1], 40)):
        with pytest.raises(ValueError, match="right has the mean 0"):
            series.stationarity(np.ones(40), right)


def test_what_sweeps_no_area_scores_zero_and_a_circle_scores_beyond_doubt():
    own, new = series.area_scores(
        plane(np.resize([1.0, -1.0, 1.0, -1.0], 1200), np.resize([1.0, 1.0, -1.0, -1.0], 1200))
    )
    assert abs(own) < 3 and abs(new) < 3
    assert min(series.area_scores(plane(np.cos(np.pi * T / 20), np.sin(np.pi * T / 20)))) > 1e6


def test_a_line_without_noise_has_nothing_to_stand_out_from():
    for x in ((-1.0) ** T, np.cos(np.pi * T / 20)):
        with pytest.raises(ValueError, match="exactly periodic"):
            series.strongest_line(x, 0.2, 51)


# ---- scale, type and memory of what comes


CALLS = {
    "autocorrelation": lambda x: series.autocorrelation(x, 3),
    "integrated_time": series.integrated_time,
    "spectrum": lambda x: series.spectrum(x, 64),
    "increment_spectrum": lambda x: series.increment_spectrum(x, 64),
    "strongest_line": lambda x: series.strongest_line(x, 0.2, 51),
    "batch_means": series.batch_means,
    "stochastic_area": series.stochastic_area,
    "lagged_covariance": lambda x: series.lagged_covariance(x, 1),
    "velocity_field": lambda x: series.velocity_field(x, 3),
    "principal_components": series.principal_components,
    "chosen_plane": series.chosen_plane,
    "area_scores": series.area_scores,
    "area_by_lag": lambda x: series.area_by_lag(x, [1, 2]),
    "fit_linear": lambda x: series.fit_linear(x).A,
    "phase_surrogate": lambda x: series.phase_surrogate(x, generator=generator()),
    "time_reversed": series.time_reversed,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
FREE = ("autocorrelation", "integrated_time", "strongest_line", "area_scores", "area_by_lag", "fit_linear")
POWERS = {"spectrum": 2, "increment_spectrum": 2, "stochastic_area": 2, "lagged_covariance": 2}


def numbers(found):
    return [np.asarray(part, float) for part in (found if isinstance(found, tuple) else (found,))]


@every_call
@pytest.mark.parametrize(
    "same",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1][::-1],
        np.ndarray.tolist,
        np.ma.array,
        lambda x: torch.tensor(x, requires_grad=True),
    ],
)
def test_the_layout_and_the_kind_of_an_array_do_not_matter(call, same):
    with warnings.catch_warnings(action="error"):
        for one, other in zip(numbers(call(WALK)), numbers(call(same(WALK))), strict=True):
            assert np.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)


@every_call
def test_integers_and_short_floats_are_numbers(call):
    small = np.round(WALK * 3)
    for kind in (np.int64, np.int8, np.float32, np.float16):
        for one, other in zip(numbers(call(small)), numbers(call(small.astype(kind))), strict=True):
            assert np.allclose(one, other, equal_nan=True)
    bfloat = torch.tensor(small).bfloat16()
    assert np.allclose(numbers(call(small))[0], numbers(call(bfloat))[0], equal_nan=True)


@every_call
def test_what_comes_is_not_changed(call):
    x = WALK.copy()
    x.flags.writeable = False
    call(x)
    y = WALK.copy()
    call(y)
    assert np.array_equal(y, WALK)


@pytest.mark.parametrize("name", [*FREE, *POWERS])
@pytest.mark.parametrize("scale", [2.0**-200, 2.0**200])
def test_units_do_not_matter(name, scale):
    for one, other in zip(numbers(CALLS[name](WALK)), numbers(CALLS[name](WALK * scale)), strict=True):
        if "spectrum" in name and one.ndim == 1:
            continue  # the frequencies
        assert np.allclose(one, other / scale ** POWERS.get(name, 0), rtol=1e-9, atol=1e-12)


@every_call
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (WALK * 1e200, "x has the size .*e\\+20.: expected 0, or .*; choose another unit"),
        (WALK * 1e-200, "x has the size .*e-.*: expected 0, or .*; choose another unit"),
        (np.where(T[:, None] == 5, np.nan, WALK), "x: NaN or infinity in row 5"),
        (np.where(T[:, None] == 7, -np.inf, WALK), "x: NaN or infinity in row 7"),
        (np.ma.array(WALK, mask=WALK > 2), r"x \(float64, or masked\): expected an array of real numbers"),
        (WALK * 1j, r"x \(complex128, or masked\): expected an array of real numbers"),
        (torch.tensor(WALK) * 1j, r"x \(complex128"),
        (WALK.astype(str), r"x \(<U.*\): expected an array of real numbers"),
        ([[1.0, 2.0], [3.0]], "expected an array of real numbers"),
        (WALK[:0], "expected"),
        (WALK[:, :0], r"x has shape \(1200, 0\): expected"),
        (np.array(3.0), r"x has shape \(\): expected \(n, "),
    ],
)
def test_what_is_no_series_is_refused(call, bad, message):
    with pytest.raises(ValueError, match=message), warnings.catch_warnings(action="error"):
        call(bad)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("time_reversed", "autocorrelation")])
def test_a_series_of_a_few_points_is_refused(name, n):
    with pytest.raises(ValueError, match="expected"):
        CALLS[name](WALK[:n])


def test_integers_of_numpy_are_integers():
    for kind in (np.int8, np.int64, np.uint8):
        assert np.array_equal(series.spectrum(WALK, kind(100)).density, series.spectrum(WALK, 100).density)
        assert np.array_equal(series.batch_means(WALK, kind(20)), series.batch_means(WALK, 20))
        assert np.array_equal(series.autocorrelation(WALK, kind(9)), series.autocorrelation(WALK, 9))
    assert np.array_equal(series.area_by_lag(WALK, np.array([1, 3])), series.area_by_lag(WALK, [1, 3]))
    assert np.array_equal(series.area_by_lag(WALK, torch.tensor([1, 3])), series.area_by_lag(WALK, [1, 3]))


# ---- linear processes


def test_a_process_does_not_follow_the_arrays_it_was_made_of():
    A, noise, mean = np.diag([0.5, 0.5]), np.eye(2), np.ones(2)
    process = series.LinearProcess(A, noise, mean=mean)
    A *= 3
    noise *= 2
    mean += 1
    assert process.A[0, 0] == 0.5 and process.covariance[0, 0] == pytest.approx(4 / 3) and process.mean[0] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: series.LinearProcess([[np.nan]], [[1.0]]), "A: NaN or infinity in row 0"),
        (lambda: series.LinearProcess([[0.5]], [[np.inf]]), "noise: NaN or infinity in row 0"),
        (lambda: series.LinearProcess([[0.5j]], [[1.0]]), r"A \(complex128"),
        (lambda: series.LinearProcess([[0.5]], [[1.0]], mean=[1.0, 2.0]), r"mean has shape \(2,\): expected \(1,\)"),
        (lambda: series.LinearProcess([[0.5]], [[1.0]]).autocovariance(-1), "lag = -1: expected an integer >= 0"),
        (
            lambda: series.LinearProcess([[0.5]], [[1.0]]).increment_spectrum(np.array(0.1)),
            r"shape \(\): expected \(m,\)",
        ),
        (lambda: series.white_noise(3, [[1.0, 2.0]], generator=generator()), "no symmetric matrix"),
        (lambda: series.white_noise(3, [[np.nan]], generator=generator()), "covariance: NaN or infinity"),
        (lambda: series.white_noise(3, np.zeros((0, 0)), generator=generator()), r"expected \(d, d\)"),
        (lambda: series.autocorrelation_band([0.5, 0.1], 100), "rho does not begin with 1"),
        (lambda: series.area_by_lag(WALK, np.array(3)), r"lags has shape \(\): expected \(m,\)"),
        (lambda: series.area_by_lag(WALK, []), r"lags has shape \(0,\): expected \(m,\)"),
        (lambda: series.strongest_line(WALK, 0.2, 51, chance=0.0), "chance = 0.0: expected a probability"),
        (lambda: series.integrated_time(WALK, c=0.0), "c = 0.0: expected a finite number > 0"),
        (lambda: series.integrated_time(WALK, tolerance=np.nan), "tolerance = nan: expected a finite number > 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()

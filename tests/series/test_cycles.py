"""Planes, areas by lag and lines: exact answers, slow twins, false alarms as seldom as said."""

import tracemalloc

import numpy as np
import pytest
from problems import generator

from sgdvi_lite import series

BLOCK = np.array([[0.9, -0.1], [0.1, 0.9]])
TURNING = series.LinearProcess(np.kron(np.eye(2), BLOCK) * [[1], [1], [0.5], [0.5]], np.eye(4))
MIX = np.linalg.qr(np.arange(24.0).reshape(6, 4) % 7 + np.eye(6, 4))[0]  # four directions of six


def turning(n, seed=0):
    return TURNING.sample(n, generator=generator(seed)) @ MIX.T


def test_principal_components_are_uncorrelated_and_have_the_variance_of_the_series():
    x = turning(500) * np.arange(1.0, 7.0)
    z = series.principal_components(x, 20)
    C = z.T @ z / (len(x) - 1)
    assert z.shape == (500, 4)  # four directions vary
    assert np.allclose(C, np.diag(C.diagonal()), atol=1e-9 * C.max()) and (np.diff(C.diagonal()) < 0).all()
    assert np.trace(C) == pytest.approx(np.trace(np.cov(x.T)))
    assert np.allclose(np.linalg.svd(x - x.mean(0))[1][:4], np.sqrt((z**2).sum(0)))


def test_few_samples_in_many_dimensions_take_the_smaller_matrix(monkeypatch):
    sizes, eigh = [], np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda A: sizes.append(len(A)) or eigh(A))
    x = np.random.default_rng(0).normal(size=(80, 500)) * np.linspace(3, 1, 500)
    z = series.principal_components(x, 8)
    U, S, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert sizes == [80] and np.allclose(np.abs(z), np.abs(U[:, :8] * S[:8]), atol=1e-9 * S[0])
    plane = series.turning_plane(x, 8)
    assert plane.shape == (500, 2) and np.allclose(np.cov((x @ plane).T), np.eye(2), atol=1e-9)


def test_areas_and_components_take_little_memory_beside_what_they_give():
    x = np.random.default_rng(0).normal(size=(200, 400)).astype(np.float32)
    for call, numbers in ((series.stochastic_area, 8 * 400**2), (series.principal_components, 2.2 * 200 * 400)):
        tracemalloc.start()
        call(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * numbers


def test_the_area_and_its_error_are_mean_and_error_of_those_of_the_stretches():
    x = turning(300)
    start, end = (x - x.mean(0))[:-1], (x - x.mean(0))[1:]
    parts = [a.T @ b / len(a) for a, b in zip(np.split(start[-290:], 10), np.split(end[-290:], 10), strict=True)]
    areas = np.array([(part - part.T) / 2 for part in parts])
    area, error = series.stochastic_area(x, n_batches=10)
    assert np.allclose(area, areas.mean(0), rtol=0, atol=1e-13)
    assert np.allclose(error, areas.std(0, ddof=1) / 10**0.5, rtol=1e-10, atol=1e-13)


def test_the_plane_has_the_largest_area_of_all_planes():
    """The slow twin: the eigenvalues i a of the area matrix in whitened coordinates, by an inverse square root."""
    x = turning(5000)[:, :4]
    C0, area = np.cov(x.T), series.stochastic_area(x).value
    values, vectors = np.linalg.eigh(C0)
    white = vectors / np.sqrt(values) @ vectors.T
    largest = np.linalg.eigvals(white @ area @ white).imag.max()
    plane = series.turning_plane(x)
    assert (plane.T @ area @ plane)[0, 1] == pytest.approx(largest, rel=1e-9)
    assert np.allclose(plane.T @ C0 @ plane, np.eye(2), atol=1e-9)


def test_only_the_leading_directions_are_searched():
    """The first two directions do not turn; the others do, and are small."""
    x = np.hstack([series.white_noise(3000, np.eye(2), generator=generator(1)) * [100.0, 50.0], turning(3000)])
    narrow, wide = (series.turning_plane(x, k) for k in (2, 20))
    assert abs((narrow * x.std(0)[:, None])[2:]).max() < 0.01
    assert abs((wide * x.std(0)[:, None])[:2]).max() < 0.1


def test_the_halves_are_in_the_plane_of_the_first():
    x = turning(2001)
    first, second = series.chosen_plane(x)
    plane = series.turning_plane(x[:1001])
    assert np.array_equal(first, x[:1001] @ plane) and np.array_equal(second, x[1001:] @ plane)


def test_a_current_is_found_in_new_data_and_a_reversible_process_only_where_the_plane_was_chosen():
    own, new = series.area_scores(turning(20_000))
    assert own > 10 and new > 10
    reverse = series.area_scores(series.time_reversed(turning(20_000)))
    assert reverse.new > 10  # it turns the other way, in a plane that is turned over
    scores = np.array(
        [series.area_scores(series.white_noise(2000, np.eye(20), generator=generator(seed))) for seed in range(60)]
    )
    own, new = scores.T
    assert own.mean() > 3
    assert abs(new.mean()) < 3 / np.sqrt(60) and 1 - 3 * np.sqrt(2 / 60) < new.var() < 1.1 + 3 * np.sqrt(2 / 60)


def test_the_area_by_lag_is_that_of_the_process():
    lags = [1, 5, 15, 40]
    process = series.LinearProcess(BLOCK, [[1.0, 0.0], [0.0, 0.5]])
    unit = np.sqrt(np.linalg.det(process.covariance))
    value, error = series.area_by_lag(process.sample(100_000, generator=generator(3)), lags)
    exact = np.array([process.area(lag)[0, 1] for lag in lags]) / unit
    assert (abs(value - exact) < 4 * error).all() and (error < 0.05).all()


def test_the_area_has_no_units():
    x = turning(3000)[:, :2]
    one, other = series.area_by_lag(x, [3]), series.area_by_lag(x @ np.array([[2.0, 1.0], [0.0, 3.0]]), [3])
    assert one.value == pytest.approx(other.value) and one.error == pytest.approx(other.error)


def test_noise_passes_the_limit_as_seldom_as_it_says():
    """With the chance of 5 %, about one in twenty series may; the limit is cautious, so fewer do."""
    slow = series.LinearProcess([[0.95]], [[1.0]])
    found = [series.strongest_line(slow.sample(4000, generator=generator(s)), 0.03, chance=0.05) for s in range(100)]
    assert sum(line.ratio > line.limit for line in found) <= 5 + 3 * np.sqrt(5)
    assert found[0].limit == pytest.approx((1 + 3 / (np.log(2) * 201**0.5)) * np.log2((2001 - 120) / 0.05))


def test_a_hidden_cycle_is_found_at_its_frequency():
    noise = series.LinearProcess([[0.9]], [[1.0]]).sample(6000, generator=generator(2))
    wave = 0.3 * noise.std() * np.sqrt(2) * np.sin(2 * np.pi * np.arange(6000) / 40)  # 9 % of its variance
    line = series.strongest_line(noise + wave[:, None], 0.02)
    assert line.ratio > 1.2 * line.limit and line.frequency == pytest.approx(1 / 40)


CONSTANT = np.ones((500, 2))
WALK = np.cumsum(np.ones((500, 1)), axis=0) * [1.0, 2.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: series.principal_components(np.ones(9)), r"x has shape \(9,\): expected \(n, d\)"),
        (lambda: series.principal_components(CONSTANT), "x is constant: expected a series that varies"),
        (lambda: series.principal_components(turning(9), 0), "k = 0: expected an integer >= 1"),
        (lambda: series.turning_plane(WALK), "varies in one direction only: expected two"),
        (lambda: series.area_by_lag(WALK, [1]), "x lies on a line: expected a series that fills"),
        (lambda: series.area_by_lag(turning(50), [1]), r"x has shape \(50, 6\): expected \(n, 2\)"),
        (lambda: series.strongest_line(turning(900), 0.2, width=200), "width = 200: expected an odd number"),
        (lambda: series.strongest_line(turning(300), 0.2), "x has 300 entries: expected at least 402"),
        (lambda: series.strongest_line(turning(900), 0.01), r"lowest = 0.01: expected cycles a sample in \[0.112, 0.5"),
        (lambda: series.strongest_line(turning(900), 0.6), "lowest = 0.6: expected cycles a sample"),
        (lambda: series.strongest_line(CONSTANT, 0.3), "x has a column that is constant"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()

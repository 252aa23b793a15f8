import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import generator

from sgdvi_lite import DiffusionMatrix, linalg

spectra = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8).map(lambda v: torch.tensor(v, dtype=torch.float64))
DIMENSIONS = [linalg.stable_rank, linalg.participation_ratio, linalg.entropy_rank]


@pytest.mark.parametrize("dimension", DIMENSIONS)
@settings(deadline=None)
@given(spectrum=spectra)
def test_an_effective_dimension_lies_between_one_and_the_rank(dimension, spectrum):
    assert 1 - 1e-12 <= dimension(spectrum) <= len(spectrum) * (1 + 1e-12)


@pytest.mark.parametrize("dimension", DIMENSIONS)
@settings(deadline=None)
@given(spectrum=spectra, c=st.floats(1e-6, 1e6))
def test_an_effective_dimension_has_no_unit(dimension, spectrum, c):
    assert dimension(c * spectrum) == pytest.approx(dimension(spectrum), rel=1e-12)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_equal_eigenvalues_are_counted_and_zeros_are_not(dimension):
    assert dimension(torch.tensor([2.0, 2.0, 2.0, 0.0, 0.0], dtype=torch.float64)) == pytest.approx(3)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_the_zero_matrix_has_dimension_zero(dimension):
    assert dimension(torch.zeros(3)) == 0
    assert linalg.numerical_rank(torch.zeros(3), d=3, eps=1e-7) == 0


@settings(deadline=None)
@given(spectrum=spectra)
def test_stable_rank_bounds_participation_from_below_and_entropy_from_above(spectrum):
    stable, ratio, entropy = (dimension(spectrum) for dimension in DIMENSIONS)
    assert stable <= ratio * (1 + 1e-9)
    assert ratio <= entropy * (1 + 1e-9)


def test_numerical_rank_agrees_with_numpy():
    import numpy as np

    rng = np.random.default_rng(0)
    A = rng.normal(size=(12, 5)) * np.logspace(0, -14, 5)
    A = A @ A.T
    spectrum = linalg.eigenvalues(torch.from_numpy(A))
    eps = np.finfo(float).eps
    assert linalg.numerical_rank(spectrum, d=12, eps=eps) == np.linalg.matrix_rank(A, hermitian=True)


def test_the_threshold_counts_strictly_larger_eigenvalues():
    spectrum = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    assert linalg.numerical_rank(spectrum, d=10, eps=0.05) == 1
    assert linalg.numerical_rank(spectrum, d=10, eps=0.0499) == 2


@settings(deadline=None)
@given(spectrum=spectra, zeros=st.integers(0, 5))
def test_mean_and_std_from_traces_are_those_of_all_eigenvalues(spectrum, zeros):
    full = torch.cat([spectrum, spectrum.new_zeros(zeros)])
    frobenius = full.square().sum().sqrt().item()
    mean, std = linalg.mean_and_std(full.sum().item(), frobenius, len(full))
    assert mean == pytest.approx(full.mean().item())
    assert std**2 == pytest.approx(full.var(correction=0).item(), abs=1e-12 * frobenius**2)


def test_eigenvalues_are_sorted_and_rounding_is_not_negative():
    v = torch.linspace(1, 2, 5, dtype=torch.float64)
    spectrum = linalg.eigenvalues(torch.outer(v, v))
    assert spectrum[0] == pytest.approx((v @ v).item())
    assert bool((spectrum[1:] >= 0).all() and (spectrum[1:] < 1e-14 * spectrum[0]).all())


@pytest.mark.parametrize(("N", "d"), [(600, 200), (200, 600), (400, 400)])
def test_the_law_of_marchenko_and_pastur_is_the_spectrum_of_drawn_isotropic_noise(N, d):
    drawn = torch.linalg.svdvals(torch.randn(N, d, generator=generator(), dtype=torch.float64)).square() / N
    law = linalg.marchenko_pastur(N, d)
    assert len(law) == min(N, d) and law.sum().item() == pytest.approx(d)
    assert (drawn - law).abs().mean() < 0.02 * law.mean()


@pytest.mark.parametrize(
    ("spectrum", "message"),
    [
        ([], r"spectrum has shape \(0,\): expected \(n,\) with n >= 1"),
        ([1.0, float("nan")], "spectrum: NaN or infinity"),
        ([1.0, -0.5], "spectrum has the eigenvalue -0.5: expected all >= 0, but for rounding"),
    ],
)
def test_what_is_no_spectrum_of_a_covariance_is_refused(spectrum, message):
    for function in (*DIMENSIONS, lambda values: linalg.numerical_rank(values, d=5, eps=1e-7)):
        with pytest.raises(ValueError, match=message):
            function(torch.tensor(spectrum))


def test_small_floats_do_not_overflow():
    assert linalg.stable_rank(torch.ones(70_000, dtype=torch.float16)) == 70_000
    assert linalg.participation_ratio(torch.full((3,), 1e-30)) == pytest.approx(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"d": 1}, "d = 1: expected an integer >= 2"), ({"eps": 0.0}, "eps = 0.0: expected a finite number > 0")],
)
def test_a_numerical_rank_needs_a_size_and_a_precision(change, message):
    with pytest.raises(ValueError, match=message):
        linalg.numerical_rank(torch.ones(2), **({"d": 2, "eps": 1e-7} | change))
    with pytest.raises(ValueError, match="N = 0: expected an integer >= 1"):
        linalg.marchenko_pastur(0, 5)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), r"matrix has shape \(2, 3\): expected \(n, n\)"),
        (torch.diag(torch.tensor([1.0, math.nan])), "matrix: NaN or infinity in row 1"),
        (torch.eye(2, dtype=torch.int64), "torch.int64: expected floats"),
    ],
)
def test_what_is_no_covariance_has_no_eigenvalues(matrix, message):
    with pytest.raises(ValueError, match=message):
        linalg.eigenvalues(matrix)


@pytest.mark.parametrize("backend", ["dense", "gram"])
def test_negative_rounding_of_a_float32_covariance_is_no_fault(backend):
    """Also where the eigenvalues are computed again in float64, in which they are beyond its own rounding."""
    for seed in range(12):
        G = torch.randn(30, 50, generator=generator(seed)) * torch.logspace(0, -9, 50)
        exact = linalg.numerical_rank(torch.linalg.svdvals((G - G.mean(0)).double()).square(), 50, 1.2e-7)
        assert abs(DiffusionMatrix.from_gradients(G, backend).rank() - exact) <= 1


@pytest.mark.parametrize("d", [5, 60])
def test_clipped_moments_are_those_of_the_whole_list(d):
    spectrum = torch.tensor([3.0, 1.0, 0.02, 1e-4, 0.0], dtype=torch.float64)
    full = np.zeros(d)
    full[:5] = spectrum
    clipped = np.clip(full, 3.0 * d * 1e-3, None)
    assert linalg.clipped_mean_and_std(spectrum, d, 1e-3) == pytest.approx((clipped.mean(), clipped.std()), rel=1e-12)

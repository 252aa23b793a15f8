import numpy as np
import pytest
from problems import double_well, fitted_order
from scipy.linalg import expm, solve_continuous_lyapunov

from sgdvi_lite import FokkerPlanck

BOX = ((-3, 3), (-4, 4))


def gaussian(fp, cov, mean=(0.0, 0.0)):
    points = np.stack([axis.ravel() for axis in fp.grid], axis=1) - mean
    rho = np.exp(-0.5 * np.einsum("ni,ij,nj->n", points, np.linalg.inv(cov), points)).reshape(fp.shape)
    return rho / (rho.sum() * fp.cell_area)


def l1(fp, rho, sigma):
    return np.abs(rho - sigma).sum() * fp.cell_area


def example_19(n, strength):
    drift, Phi = double_well(strength)
    fp = FokkerPlanck(drift, np.eye(2), 1.0, BOX, (n, n))
    exact = np.exp(-Phi(*fp.grid))
    return fp, exact / (exact.sum() * fp.cell_area)


# ---- steady states


def test_a_quartic_potential_is_exact_to_rounding():
    fp, exact = example_19(48, 0.0)
    assert l1(fp, fp.steady_state(), exact) < 1e-12


@pytest.mark.parametrize(("strength", "bound"), [(0.5, 3e-4), (1.5, 1.5e-3)])
def test_example_19_at_128_cells(strength, bound):
    fp, exact = example_19(128, strength)
    assert l1(fp, fp.steady_state(), exact) < bound / 4


@pytest.mark.parametrize("strength", [0.5, 1.5])
def test_the_steady_state_is_of_second_order(strength):
    sizes = [24, 32, 48, 64]
    errors = []
    for n in sizes:
        fp, exact = example_19(n, strength)
        errors.append(l1(fp, fp.steady_state(), exact))
    assert fitted_order(sizes, errors) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("correlation", [-0.9, 0.3, 0.9])
def test_a_full_tensor_and_a_rotating_drift_give_the_lyapunov_covariance(correlation):
    F = np.array([[1.0, -0.8], [0.5, 2.0]])
    D = np.array([[1.0, correlation], [correlation, 1.0]])
    cov = solve_continuous_lyapunov(F, 2 * 0.3 * D)
    errors, sizes = [], [64, 96, 128, 160]
    for n in sizes:
        fp = FokkerPlanck(lambda p: -p @ F.T, D, 0.3, ((-4, 4), (-4, 4)), (n, n))
        errors.append(l1(fp, fp.steady_state(), gaussian(fp, cov)))
    assert errors[-1] < 0.012 and fitted_order(sizes[1:], errors[1:]) > 1.8


def varying(p):
    """I + |x|^2 I - x x^T: its eigenvectors turn with the point."""
    x, y = p.T
    return np.stack([np.stack([1 + y**2, -x * y], 1), np.stack([-x * y, 1 + x**2], 1)], 1)


def test_the_two_conventions_differ_by_the_divergence_of_D():
    printed = FokkerPlanck(lambda p: -p, varying, 0.4, ((-4, 4), (-4, 4)), (48, 48), "printed")
    assert l1(printed, printed.steady_state(), gaussian(printed, 0.4 * np.eye(2))) < 1e-12
    ito = FokkerPlanck(lambda p: -p + 0.4 * (-p), varying, 0.4, ((-4, 4), (-4, 4)), (48, 48), "ito")
    assert np.allclose(ito.effective_drift, printed.effective_drift, atol=1e-9)  # div D = -x, row by row
    assert l1(ito, ito.steady_state(), printed.steady_state()) < 1e-9


def test_a_variance_that_only_ito_has():
    """f = x^2/2, D = 1 + x^2 in x: variance T/(1-T), against T/(1-3T) in the printed form."""

    def D(p):
        return np.stack([np.stack([1 + p[:, 0] ** 2, 0 * p[:, 0]], 1), np.stack([0 * p[:, 0], 1 + 0 * p[:, 0]], 1)], 1)

    T, variance = 0.05, {}
    for convention in ("ito", "printed"):
        fp = FokkerPlanck(lambda p: -p, D, T, ((-4, 4), (-1.2, 1.2)), (400, 24), convention)
        variance[convention] = (fp.steady_state() * fp.grid[0] ** 2).sum() * fp.cell_area
    assert variance["ito"] == pytest.approx(T / (1 - T), rel=2e-3)
    assert variance["printed"] == pytest.approx(T / (1 - 3 * T), rel=2e-3)


# ---- the generator and the evolution


def test_the_generator_is_that_of_a_markov_chain():
    fp = FokkerPlanck(lambda p: -p @ np.array([[1.0, 2.0], [-2.0, 1.0]]), varying, 0.7, BOX, (20, 26))
    A = fp.generator.toarray()
    off = A - np.diag(np.diag(A))
    assert off.min() >= 0
    assert np.abs(A.sum(0)).max() < 1e-12 * np.abs(A).max()


def test_the_evolution_is_the_exponential_of_the_generator():
    fp = FokkerPlanck(lambda p: -p, varying, 0.5, ((-3, 3), (-3, 3)), (18, 18))
    rho0 = gaussian(fp, 0.2 * np.eye(2), (0.5, -0.5))
    out = fp.evolve(rho0, [0.1, 0.7], tolerance=1e-8)
    for t, rho in zip((0.1, 0.7), out, strict=True):
        assert l1(fp, rho, (expm(t * fp.generator.toarray()) @ rho0.ravel()).reshape(fp.shape)) < 1e-8


def test_a_fast_rotation_over_a_long_time_cuts_the_interval_and_is_still_right():
    fp = FokkerPlanck(lambda p: 30 * np.stack([-p[:, 1], p[:, 0]], 1) - p, np.eye(2), 2.0, ((-3, 3), (-3, 3)), (32, 32))
    rho0 = gaussian(fp, 0.1 * np.eye(2), (1.0, 0.0)).ravel() * fp.cell_area
    moved, longest = fp._advance(rho0, 1.0, 1e-8, np.inf)
    assert longest < 1.0
    assert np.abs(moved - expm(fp.generator.toarray()) @ rho0).sum() < 1e-8


def test_intervals_of_like_length_share_a_factor():
    fp, _ = example_19(16, 1.5)
    fp.evolve(gaussian(fp, 0.2 * np.eye(2)), np.linspace(0, 3, 31))
    assert fp._factor.cache_info().currsize == 1


def test_an_ornstein_uhlenbeck_process_moves_as_its_moments_say():
    F, D, T, t = np.array([[1.0, 1.5], [-1.5, 1.0]]), np.eye(2), 0.3, 0.8
    mean0, cov0 = np.array([1.0, 0.5]), 0.2 * np.eye(2)
    move, stationary = expm(-F * t), T * np.eye(2)
    cov = stationary + move @ (cov0 - stationary) @ move.T
    errors, sizes = [], [32, 48, 64, 96]
    for n in sizes:
        fp = FokkerPlanck(lambda p: -p @ F.T, D, T, ((-4, 4), (-4, 4)), (n, n))
        (rho,) = fp.evolve(gaussian(fp, cov0, mean0), [t])
        errors.append(l1(fp, rho, gaussian(fp, cov, move @ mean0)))
    assert errors[-1] < 0.03 and fitted_order(sizes, errors) == pytest.approx(2, abs=0.25)


def test_mass_is_kept_and_all_becomes_positive_even_from_a_single_cell():
    fp, _ = example_19(32, 1.5)
    rho0 = np.zeros(fp.shape)
    rho0[7, 9] = 1 / fp.cell_area
    out = fp.evolve(rho0, [0.0, 0.01, 1.0, 20.0])
    assert np.array_equal(out[0], rho0)
    assert np.allclose(out.sum((1, 2)) * fp.cell_area, 1, atol=1e-13) and out[1:].min() > 0
    assert l1(fp, out[-1], fp.steady_state()) < 1e-4


def test_without_drift_the_walls_keep_everything_in():
    fp = FokkerPlanck(lambda p: 0 * p, np.array([[1.0, 0.5], [0.5, 1.0]]), 1.0, ((0, 1), (0, 2)), (16, 16))
    assert np.allclose(fp.steady_state(), 0.5, rtol=1e-10)


def test_the_grid_has_cell_centres_indexed_ij():
    fp = FokkerPlanck(lambda p: -p, np.eye(2), 1.0, ((0, 1), (0, 2)), (4, 8))
    X, Y = fp.grid
    assert X.shape == Y.shape == (4, 8) and fp.cell_area == 1 / 16
    assert X[:, 0].tolist() == [0.125, 0.375, 0.625, 0.875] and Y[0, :2].tolist() == [0.125, 0.375]


# ---- bad input


def solver(**change):
    good = {"drift": lambda p: -p, "D": np.eye(2), "T": 1.0, "bounds": ((-3, 3), (-3, 3)), "shape": (16, 16)}
    return FokkerPlanck(**(good | change))


def nan_at_right(p):
    return np.where(p > 2.5, np.nan, -p)


BAD = [
    ({"T": 0.0}, "T = 0.0: expected a finite number > 0"),
    ({"T": -1.0}, "T = -1.0: expected a finite number > 0"),
    ({"bounds": ((3, -3), (-3, 3))}, "expected .* with low < high"),
    ({"bounds": ((-3, 3), (0, np.inf))}, "bounds: NaN or infinity in row 1"),
    ({"shape": (3, 16)}, "shape = 3: expected an integer >= 4"),
    ({"D": np.array([[1.0, 0.5], [0.0, 1.0]])}, "D is not symmetric at x ="),
    ({"D": np.array([[1.0, 2.0], [2.0, 1.0]])}, "D is not positive definite at x ="),
    ({"D": np.diag([1.0, 0.0])}, "add a small multiple of the identity"),
    ({"D": -np.eye(2)}, "D is not positive definite"),
    ({"D": np.full((2, 2), np.nan)}, "D: NaN or infinity in row 0"),
    ({"D": np.eye(3)}, r"D has shape \(3, 3\): expected \(2, 2\)"),
    ({"D": lambda p: np.eye(2)}, r"D gave shape \(2, 2\): expected \(256, 2, 2\)"),
    ({"drift": nan_at_right}, "drift: NaN or infinity in row"),
    ({"drift": lambda p: p[:, 0]}, r"drift gave shape \(256,\): expected \(256, 2\)"),
    ({"convention": "stratonovich"}, "convention = 'stratonovich': expected one of ito, printed"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        solver(**change)


@pytest.mark.parametrize(
    ("density", "times", "options", "message"),
    [
        (lambda fp: np.ones((3, 3)), [1.0], {}, r"rho0 has shape \(3, 3\): expected the grid's, \(16, 16\)"),
        (lambda fp: np.ones(fp.shape), [1.0], {}, "rho0 integrates to 36: expected 1; divide it by"),
        (lambda fp: gaussian(fp, np.eye(2)) - 1e-3, [1.0], {}, "rho0 has a negative value"),
        (lambda fp: gaussian(fp, np.eye(2)) * np.nan, [1.0], {}, "rho0: NaN or infinity in row 0"),
        (lambda fp: gaussian(fp, np.eye(2)), [-1.0], {}, "expected increasing numbers >= 0"),
        (lambda fp: gaussian(fp, np.eye(2)), [1.0, 1.0], {}, "expected increasing numbers >= 0"),
        (lambda fp: gaussian(fp, np.eye(2)), [np.nan], {}, "times: NaN or infinity in row 0"),
        (
            lambda fp: gaussian(fp, np.eye(2)),
            [1.0],
            {"tolerance": 0.0},
            r"tolerance = 0.0: expected a number in \[1e-10, 1\)",
        ),
    ],
)
def test_bad_evolutions(density, times, options, message):
    fp = solver()
    with pytest.raises(ValueError, match=message):
        fp.evolve(density(fp), times, **options)

import numpy as np
import pytest
from problems import double_well, fitted_order

from sgdvi_lite import FokkerPlanck, thermo

BOX = ((-3, 3), (-6, 6))


def gaussian(fp, cov, mean=(0.0, 0.0)):
    points = np.stack([axis.ravel() for axis in fp.grid], axis=1) - mean
    rho = np.exp(-0.5 * np.einsum("ni,ij,nj->n", points, np.linalg.inv(cov), points)).reshape(fp.shape)
    return rho / (rho.sum() * fp.cell_area)


def well(n, strength=0.5):
    drift, Phi = double_well(strength)
    fp = FokkerPlanck(drift, np.eye(2), 1.0, BOX, (n, n))
    return fp, Phi(*fp.grid)


def test_gaussians_on_a_grid_have_their_closed_forms():
    fp = FokkerPlanck(lambda p: -p, np.eye(2), 1.0, ((-8, 8), (-8, 8)), (120, 120))
    cov, cov_ss, mean = np.array([[0.7, 0.2], [0.2, 0.5]]), np.eye(2), np.array([0.4, -0.3])
    rho, sigma = gaussian(fp, cov, mean), gaussian(fp, cov_ss)
    assert thermo.entropy(rho, fp.cell_area) == pytest.approx(thermo.gaussian_entropy(cov), rel=1e-9)
    exact = thermo.gaussian_kl(mean, cov, np.zeros(2), cov_ss)
    assert thermo.kl_divergence(rho, sigma, fp.cell_area) == pytest.approx(exact, rel=1e-9)


def test_the_relative_entropy_of_gaussians_knows_the_mean_of_either():
    cov, mean, mean_ss = np.diag([2.0, 0.5]), np.array([1.0, 2.0]), np.array([0.5, 3.0])
    fp = FokkerPlanck(lambda p: -p, np.eye(2), 1.0, ((-12, 14), (-9, 14)), (130, 115))
    on_grid = thermo.kl_divergence(gaussian(fp, cov, mean), gaussian(fp, np.eye(2), mean_ss), fp.cell_area)
    assert thermo.gaussian_kl(mean, cov, mean_ss, np.eye(2)) == pytest.approx(on_grid, rel=1e-9)
    assert thermo.gaussian_kl(mean, cov, mean, cov) == pytest.approx(0, abs=1e-15)


def test_zeros_of_the_first_density_are_allowed_where_the_second_is_positive():
    assert thermo.kl_divergence(np.array([0.0, 1.0]), np.array([0.5, 0.5]), 1.0) == pytest.approx(np.log(2))


def test_entropy_production_does_not_depend_on_the_temperature_of_a_linear_rotation():
    """F = I + lambda J, D = I: j = -lambda J x, E|j|^2 / T = 2 lambda^2 at every T."""
    turn = np.array([[1.0, 0.7], [-0.7, 1.0]])
    for T in (0.2, 0.5):
        fp = FokkerPlanck(lambda p: -p @ turn.T, np.eye(2), T, ((-5, 5), (-5, 5)), (100, 100))
        exact = gaussian(fp, T * np.eye(2))
        assert thermo.entropy_production(fp, exact) == pytest.approx(2 * 0.7**2, rel=1e-6)


def test_free_energy_is_T_times_kl_minus_T_log_Z():
    fp, Phi = well(60)
    T, rho = 0.7, gaussian(fp, 0.3 * np.eye(2), (0.5, 0.2))
    Z = np.exp(-Phi / T).sum() * fp.cell_area
    kl = thermo.kl_divergence(rho, np.exp(-Phi / T) / Z, fp.cell_area)
    assert thermo.free_energy(rho, Phi, T, fp.cell_area) == pytest.approx(T * kl - T * np.log(Z), rel=1e-12)


def test_kl_is_zero_only_for_equal_densities_and_infinite_outside_the_support():
    assert thermo.kl_divergence(np.array([0.5, 0.5]), np.array([0.5, 0.5]), 1.0) == 0
    assert thermo.kl_divergence(np.array([0.5, 0.5]), np.array([1.0, 0.0]), 1.0) == np.inf
    assert thermo.kl_divergence(np.array([0.4, 0.6]), np.array([0.5, 0.5]), 1.0) > 0


def test_dissipation_is_the_fall_of_the_free_energy_to_second_order():
    sizes, errors = [32, 48, 64, 96], []
    for n in sizes:
        fp, _ = well(n, strength=1.0)
        rho_ss, rho = fp.steady_state(), gaussian(fp, 0.2 * np.eye(2), (0.3, -0.3))  # narrow: nothing at the walls
        rate = (fp.generator @ rho.ravel()).reshape(fp.shape)
        fall = -(rate * np.log(rho / rho_ss)).sum() * fp.cell_area
        errors.append(abs(thermo.dissipation(fp, rho, rho_ss) - fall))
    assert fitted_order(sizes, errors) == pytest.approx(2, abs=0.3)


def test_dissipation_holds_for_a_tensor_that_depends_on_the_point():
    def D(p):
        x, y = p.T
        return np.stack([np.stack([1 + y**2, -x * y], 1), np.stack([-x * y, 1 + x**2], 1)], 1)

    for convention in ("ito", "printed"):
        fp = FokkerPlanck(
            lambda p: -p @ np.array([[1, 1], [-1, 2.0]]), D, 0.6, ((-5, 5), (-5, 5)), (90, 90), convention
        )
        rho_ss, rho = fp.steady_state(), gaussian(fp, 0.5 * np.eye(2), (0.5, 0.0))
        rate = (fp.generator @ rho.ravel()).reshape(fp.shape)
        fall = -0.6 * (rate * np.log(rho / rho_ss)).sum() * fp.cell_area
        assert thermo.dissipation(fp, rho, rho_ss) == pytest.approx(fall, rel=0.02)


def test_example_19_has_its_entropy_production_and_circulation():
    """Exact values by quadrature, given in the audit of the paper: 0.6813816115461889 and 0.8241898491191683."""
    sizes, production, circulation, strength = [32, 48, 64, 96], [], [], 0.5
    for n in sizes:
        fp, _ = well(n, strength)
        rho = fp.steady_state()
        X, Y = fp.grid
        J = thermo.current(fp, rho)
        production.append(abs(thermo.entropy_production(fp, rho) / strength**2 - 0.6813816115461889))
        circulation.append(abs((X * J[1] - Y * J[0]).sum() * fp.cell_area / strength - 0.8241898491191683))
    assert production[-1] < 3e-3 and fitted_order(sizes, production) > 1.8
    assert circulation[-1] < 3e-3 and fitted_order(sizes, circulation) > 1.8


def test_without_a_rotating_force_there_is_no_current():
    fp, _ = well(64, strength=0.0)
    rho = fp.steady_state()
    assert thermo.entropy_production(fp, rho) < 1e-4
    assert np.abs(thermo.current(fp, rho)).max() < 5e-3


def test_the_velocity_is_the_current_over_the_density():
    fp, _ = well(32)
    rho = fp.steady_state()
    assert np.allclose(thermo.current(fp, rho), rho * thermo.velocity(fp, rho))


FLAT = np.full((2, 2), 0.25)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: thermo.entropy(2 * FLAT, 1.0), "rho integrates to 2: expected 1; divide it by"),
        (lambda: thermo.entropy(FLAT - 0.5, 1.0), "rho has a negative value"),
        (lambda: thermo.entropy(FLAT * np.nan, 1.0), "rho: NaN or infinity in row 0"),
        (lambda: thermo.entropy(FLAT, 0.0), "cell_area = 0.0: expected a finite number > 0"),
        (lambda: thermo.kl_divergence(FLAT, FLAT * 2, 1.0), "sigma integrates to 2"),
        (lambda: thermo.kl_divergence(FLAT, np.full(4, 0.25), 1.0), r"sigma has shape \(4,\): expected \(2, 2\)"),
        (lambda: thermo.free_energy(FLAT, np.zeros(3), 1.0, 1.0), r"Phi has shape \(3,\): expected \(2, 2\)"),
        (lambda: thermo.free_energy(FLAT, FLAT, 0.0, 1.0), "T = 0.0: expected a finite number > 0"),
        (
            lambda: thermo.gaussian_entropy(np.array([[1.0, 2.0], [2.0, 1.0]])),
            "cov has the eigenvalue -1: expected all > 0",
        ),
        (lambda: thermo.gaussian_entropy(np.array([[1.0, 2.0], [0.0, 1.0]])), "expected a symmetric matrix"),
        (
            lambda: thermo.velocity(well(16)[0], np.zeros((16, 16))),
            "rho has the smallest value 0.0: expected a density",
        ),
        (lambda: thermo.velocity(well(16)[0], np.ones((4, 4))), r"rho has shape \(4, 4\): expected \(16, 16\)"),
        (
            lambda: thermo.dissipation(well(16)[0], np.ones((16, 16)), np.zeros((16, 16))),
            "rho_ss has the smallest value 0.0",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gaussians_of_unlike_dimensions_are_refused_and_not_stretched():
    for mean, cov_ss in (
        (0.5, np.eye(2)),
        (np.zeros(1), np.eye(2)),
        (np.zeros((2, 1)), np.eye(2)),
        (np.zeros(2), np.eye(3)),
    ):
        with pytest.raises(ValueError, match=r"has shape .*: expected"):
            thermo.gaussian_kl(np.asarray(mean), np.eye(2), np.zeros(2), cov_ss)


def test_what_is_lost_or_not_finite_is_refused():
    fp, Phi = well(20)
    rho = gaussian(fp, np.eye(2))
    for bad in (Phi * 1j, np.ma.array(Phi, mask=Phi > 0), np.where(Phi > 0, np.nan, Phi)):
        with pytest.raises(ValueError, match=r"Phi.*: expected an array|Phi: NaN or infinity"):
            thermo.free_energy(rho, bad, 1.0, fp.cell_area)
    for first, second in ((rho[:1], rho), (rho, rho[:1])):
        with pytest.raises(ValueError, match=r"has shape \(1, 20\): expected \(20, 20\)"):
            thermo.dissipation(fp, first, second)

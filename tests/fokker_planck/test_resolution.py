"""Whether the grid resolves the equation where the mass is: the guard follows the error, and refuses."""

import numpy as np
import pytest
from problems import fitted_order

from sgdvi_lite import FokkerPlanck, thermo
from sgdvi_lite.fokker_planck import resolution

BOX = ((-4, 4), (-4, 4))


def rotation(speed, n):
    return FokkerPlanck(lambda p: speed * np.stack([-p[:, 1], p[:, 0]], 1) - p, np.eye(2), 0.5, BOX, (n, n))


def wells(width, n, depth=10.0):
    """Two equal Gaussian wells, mirror images of each other, on a grid that is not."""

    def drift(p):
        pulls = [(p - c) / width**2 * np.exp(-((p - c) ** 2).sum(1) / (2 * width**2))[:, None] for c in CENTRES]
        return -depth * sum(pulls) - 2 * p

    return FokkerPlanck(drift, np.eye(2), 1.0, ((-2.1, 1.9), (-2, 2)), (n, n))


CENTRES = (np.array([-0.83, 0.0]), np.array([0.83, 0.0]))


@pytest.mark.parametrize(("speed", "n"), [(10, 60), (20, 120), (7, 60)])
def test_a_rotation_that_the_cells_blur_is_refused_by_both_methods(speed, n):
    fp = rotation(speed, n)
    with pytest.raises(ValueError, match=r"steady_state: the grid .* the drift blurs it .* use more cells"):
        fp.steady_state()
    X, Y = fp.grid
    exact = np.exp(-(X**2) - Y**2)
    with pytest.raises(ValueError, match=r"evolve: the grid .* the drift blurs it"):
        fp.evolve(exact / (exact.sum() * fp.cell_area), [3.0])


@pytest.mark.parametrize("speed", [1.0, 2.0, 4.0, 5.0])
def test_the_share_that_is_blurred_is_the_error_of_the_variance(speed):
    fp = rotation(speed, 60)
    rho = fp.steady_state()
    error = (rho * fp.grid[0] ** 2).sum() * fp.cell_area / 0.5 - 1
    assert resolution.smeared(fp._links, rho.ravel()) == pytest.approx(error, rel=0.4) and error < resolution.SMEARED


def test_nothing_is_blurred_without_a_current_or_without_a_drift():
    steep = FokkerPlanck(lambda p: -4 * p**3, np.eye(2), 0.5, ((-2, 2), (-2, 2)), (40, 40))
    assert resolution.smeared(steep._links, steep.steady_state().ravel()) < 1e-13
    free = FokkerPlanck(lambda p: 0 * p, np.eye(2), 1.0, BOX, (20, 20))
    lump = np.zeros(free.shape)
    lump[3, 4] = 1 / free.cell_area
    assert free.evolve(lump, [1e-9, 0.1]).min() > 0  # a start in one cell is no fault of the grid


def test_a_uniform_start_under_a_weak_pull_is_resolved():
    """Its walls have the largest drift; the densities are right to one per cent there and then."""

    def moved(n):
        fp = FokkerPlanck(lambda p: -p, np.eye(2), 0.5, ((-4, 4), (-3, 3)), (4 * n, 3 * n))
        (rho,) = fp.evolve(np.full(fp.shape, 1 / 48), [0.1])
        return rho.reshape(40, n // 10, 30, n // 10).mean((1, 3))

    assert np.abs(moved(10) - moved(40)).sum() * 0.04 < 0.015


@pytest.mark.parametrize("speed", [0.0, 1.0, 20.0])
def test_a_current_in_a_uniform_density_blurs_nothing(speed):
    def eddies(p):  # of a stream function that vanishes on the walls
        (x, y), (c, d) = np.sin(np.pi * p).T, np.cos(np.pi * p).T
        return speed * np.stack([x * d, -c * y], 1)

    for n in (16, 31):
        rho = FokkerPlanck(eddies, np.eye(2), 1.0, ((0, 1), (0, 2)), (n, n)).steady_state()
        assert np.abs(2 * rho - 1).max() < 0.02


@pytest.mark.parametrize(("width", "n"), [(0.05, 20), (0.05, 21), (0.1, 21), (0.1, 30), (0.05, 30)])
def test_wells_narrower_than_a_cell_are_refused(width, n):
    with pytest.raises(ValueError, match=r"steady_state: the grid .* between cells it bulges"):
        wells(width, n).steady_state()


@pytest.mark.parametrize("T", [1e-2, 1e-3, 1e-6])
def test_a_bowl_narrower_than_a_cell_is_refused_by_both_methods(T):
    fp = FokkerPlanck(lambda p: -p, np.eye(2), T, ((-3, 3), (-3, 3)), (16, 16))
    with pytest.raises(ValueError, match=r"steady_state: the grid .* is too coarse where the density is"):
        fp.steady_state()
    with pytest.raises(ValueError, match=r"evolve: the grid .* is too coarse where the density is"):
        fp.evolve(np.full(fp.shape, 1 / 36), [5.0])


@pytest.mark.parametrize("n", [32, 41, 60])
def test_wells_that_the_cells_resolve_hold_the_right_mass(n):
    fp, fine = wells(0.5, n, depth=4.0), wells(0.5, 160, depth=4.0)
    left = [(solver.steady_state() * np.clip(0.5 - solver.grid[0] / solver.spacing[0], 0, 1)).sum() * solver.cell_area
            for solver in (fp, fine)]  # fmt: skip
    assert left[0] == pytest.approx(left[1], abs=4e-3) and left[1] == pytest.approx(0.5, abs=1e-3)


def test_gaussians_down_to_three_quarters_of_a_cell_pass_with_the_right_variance():
    for n, variance in ((20, 0.0226), (31, 0.02)):
        fp = FokkerPlanck(lambda p: -p, np.eye(2), 1.0, ((-2, 2), (-2, 2)), (n, n))
        X, Y = fp.grid
        rho = np.exp(-(X**2 + Y**2) / (2 * variance))
        force = -np.stack([X, Y], 2) / variance
        assert resolution.unresolved(force, rho / rho.sum(), fp.spacing) < resolution.NARROW
        assert (rho * X**2).sum() / rho.sum() == pytest.approx(variance, rel=2e-3)


def test_the_error_of_the_entropy_production_has_the_documented_orders():
    sizes, still, turning = [40, 80, 160], [], []
    for n in sizes:
        fp = FokkerPlanck(lambda p: -(p**3), np.eye(2), 1.0, ((-3, 3), (-3, 3)), (n, n))
        still.append(thermo.entropy_production(fp, fp.steady_state()))
        fp = rotation(1.0, n)
        turning.append(thermo.entropy_production(fp, fp.steady_state()) - 2.0)
    assert fitted_order(sizes, still) == pytest.approx(4, abs=0.3)
    assert fitted_order(sizes, np.abs(turning)) == pytest.approx(2, abs=0.3)
    assert (turning[1] - turning[2]) / 3 == pytest.approx(turning[2], rel=0.2)
    assert (still[1] - still[2]) / 15 == pytest.approx(still[2], rel=0.3)

"""The Fokker-Planck solver against fplanck, on Example 19 at lambda = 1.5 and 256 x 256 cells: time beside error."""

import numpy as np
import pytest
from problems import double_well
from scipy.constants import k as boltzmann

from sgdvi_lite import FokkerPlanck

SIDE, BOX, TIME = 256, ((-3, 3), (-4, 4)), 1.0
setattr(np, "product", np.prod)  # noqa: B010  fplanck 0.2.2 still calls the name that NumPy 2 removed
fplanck = pytest.importorskip("fplanck", reason="the peer is missing: pip install 'sgdvi_lite[bench]'")


def ours():
    return FokkerPlanck(double_well(1.5)[0], np.eye(2), 1.0, BOX, (SIDE, SIDE))


def peer():
    def force(x, y):
        return np.moveaxis(double_well(1.5)[0](np.stack([x.ravel(), y.ravel()], 1)).reshape(*x.shape, 2), -1, 0)

    size = [high - low for low, high in BOX]
    spacing = [length / SIDE for length in size]
    reflecting = fplanck.boundary.reflecting
    options = {"temperature": 1 / boltzmann, "drag": 1.0, "extent": size, "resolution": spacing}
    return fplanck.fokker_planck(boundary=reflecting, force=force, **options)


def start(X, Y):
    rho = np.exp(-((X - 0.5) ** 2 + (Y + 0.5) ** 2) / 0.2)
    return rho / rho.sum()


def steady_error(mass, X, Y):
    exact = np.exp(-double_well(1.5)[1](X, Y))
    return np.abs(mass - exact / exact.sum()).sum()


@pytest.mark.parametrize("who", ["library", "fplanck"])
def test_steady_state(benchmark, who):
    benchmark.group = f"steady state, {SIDE} x {SIDE}"
    if who == "library":
        mass = benchmark.pedantic(lambda: ours().steady_state(), rounds=5, warmup_rounds=1) * ours().cell_area
        grid = ours().grid
    else:
        mass, grid = benchmark.pedantic(lambda: peer().steady_state(), rounds=3, warmup_rounds=0), peer().grid
    benchmark.extra_info["L1 error"] = error = steady_error(mass, *grid)
    assert error < 3e-4


@pytest.fixture(scope="module")
def exact_in_time():
    """The library's own evolution at a tolerance far below all errors, and its spatial error by halving the cells."""
    fp = ours()
    fine = fp.evolve(start(*fp.grid) / fp.cell_area, [TIME], tolerance=1e-9)[0]
    return fine * fp.cell_area


@pytest.mark.parametrize("who", ["library", "fplanck"])
def test_evolution(benchmark, who, exact_in_time):
    benchmark.group = f"evolution to t = {TIME}, {SIDE} x {SIDE}"
    if who == "library":
        fp = ours()
        rho0 = start(*fp.grid) / fp.cell_area
        run = lambda: ours().evolve(rho0, [TIME], tolerance=1e-5)[0]  # noqa: E731
        mass = benchmark.pedantic(run, rounds=3, warmup_rounds=1) * fp.cell_area
    else:
        run = lambda: peer().propagate(start, TIME)  # noqa: E731
        mass = benchmark.pedantic(run, rounds=1, warmup_rounds=0)
    benchmark.extra_info["L1 distance from the library at tolerance 1e-9"] = distance = np.abs(
        mass - exact_in_time
    ).sum()
    assert distance < 1e-3

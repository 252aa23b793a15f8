"""Links reach every cell, also with tensors whose offsets leave the grid."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from sgdvi_lite import FokkerPlanck, thermo


def turned(ratio, angle):
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[c, -s], [s, c]])
    return R @ np.diag([1, 1 / ratio]) @ R.T


def solver(D, n, **options):
    return FokkerPlanck(lambda p: -p @ D.T, D, 0.5, ((-3, 3), (-3, 3)), (n, n), **options)  # Phi = |x|^2 / 2


@pytest.mark.parametrize("angle", [0.1, 0.3, np.pi / 8, 1.2, 2.5])
@pytest.mark.parametrize(("ratio", "n"), [(50, 16), (100, 30), (1000, 40)])
def test_a_turned_tensor_reaches_all_cells_and_its_equilibrium_has_no_current(ratio, n, angle):
    D = turned(ratio, angle)
    fp = solver(D, n)
    assert connected_components(fp.generator)[0] == 1
    X, Y = fp.grid
    exact, rho = np.exp(-(X**2) - Y**2), fp.steady_state()
    assert np.abs(rho - exact / (exact.sum() * fp.cell_area)).sum() * fp.cell_area < 1e-11
    assert thermo.entropy_production(fp, rho) < 1e-20


def test_a_varying_tensor_reaches_all_cells():
    D = turned(100, 0.3)
    fp = FokkerPlanck(lambda p: -p @ D.T, lambda p: np.tile(D, (len(p), 1, 1)), 0.5, ((-3, 3), (-3, 3)), (16, 16))
    assert connected_components(fp.generator)[0] == 1
    assert np.allclose(fp.steady_state(), solver(D, 16).steady_state(), atol=1e-9)


def test_a_tensor_that_would_need_a_larger_grid_is_refused_at_once():
    with pytest.raises(ValueError, match=r"D: too anisotropic for the grid: its links do not reach .* use more cells"):
        solver(turned(1e6, 0.3), 16)

"""What the solver asks of the fields, and that nobody can change them afterwards."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from sgdvi_lite import FokkerPlanck
from sgdvi_lite.fokker_planck import fields

BOX = ((-3, 3), (-3, 3))


def solver(**change):
    good = {"drift": lambda p: -p, "D": np.eye(2), "T": 1.0, "bounds": BOX, "shape": (16, 16)}
    return FokkerPlanck(**(good | change))


def diagonal(first, second):
    return lambda p: np.stack([np.stack([first(p), 0 * p[:, 0]], 1), np.stack([0 * p[:, 0], second(p)], 1)], 1)


def variance(fp):
    return (fp.steady_state() * fp.grid[0] ** 2).sum() * fp.cell_area


# ---- nothing is read later, nothing is written


def test_solvers_made_in_a_loop_keep_their_own_drift():
    found = [variance(fp) for fp in [solver(drift=lambda p: -k * p) for k in (1.0, 2.0)]]  # noqa: B023
    assert found == pytest.approx([1.0, 0.5], rel=0.03)


def test_the_functions_are_called_when_the_solver_is_made_and_never_again():
    calls = []

    def drift(p):
        calls.append(len(p))
        return -p

    fp = solver(drift=drift)
    before = len(calls)
    fp.evolve(fp.steady_state(), [0.1, 1.0])
    assert len(calls) == before > 0


@pytest.mark.parametrize("name", ["T", "convention", "shape", "bounds", "generator", "effective_drift", "anything"])
def test_attributes_cannot_be_set(name):
    with pytest.raises(AttributeError, match=f"{name} cannot be set: .* make another"):
        setattr(solver(), name, 2.0)


def test_arrays_are_read_only_or_copies():
    D = np.diag([1.0, 2.0])
    fp = solver(D=D)
    before = fp.steady_state()
    D *= 5
    fp.tensor[:] = 7
    for array in (fp.effective_drift, fp.spacing, *fp.grid, fp.generator.data):
        with pytest.raises(ValueError, match="read-only"):
            array *= 2
    assert np.array_equal(fp.tensor[3, 4], np.diag([1.0, 2.0])) and np.array_equal(fp.steady_state(), before)


def test_functions_may_change_their_argument():
    def shifting(p):
        p *= -1
        return p

    def growing(p):
        p += 100
        return np.broadcast_to(np.eye(2), (len(p), 2, 2))

    usual = solver().steady_state()
    assert np.allclose(solver(drift=shifting, D=growing).steady_state(), usual, rtol=1e-9)


# ---- what is refused, what is not


@pytest.mark.parametrize("step", [0.2, 1.0, 9.0])
def test_a_jump_of_D_is_refused_in_the_ito_form_alone(step):
    D = diagonal(lambda p: 1 + step * (p[:, 0] > 0.1), lambda p: 1 + 0 * p[:, 0])
    with pytest.raises(ValueError, match="D jumps along x: Ito asks for a D"):
        solver(D=D)
    printed = solver(drift=lambda p: -p * np.stack([D(p)[:, 0, 0], D(p)[:, 1, 1]], 1), D=D, convention="printed")
    assert np.allclose(printed.steady_state(), solver().steady_state(), rtol=1e-9)


def test_a_step_that_the_cells_resolve_is_smooth():
    D = diagonal(lambda p: 2 + np.tanh(p[:, 0]), lambda p: 1 + 0 * p[:, 0])
    fp = solver(drift=lambda p: 0 * p, D=D, shape=(40, 8))
    x, rho = fp.grid[0], fp.steady_state()
    assert rho * (2 + np.tanh(x)) / (rho * (2 + np.tanh(x))).mean() == pytest.approx(np.ones(fp.shape), rel=2e-3)


BAD = [
    ({"drift": lambda p: -p + 1j}, r"drift \(complex128, or masked\): expected an array of real numbers"),
    ({"drift": lambda p: np.ma.masked_greater(-p, 2)}, r"drift \(float64, or masked\): expected an array of real"),
    ({"D": np.eye(2) * (1 + 1j)}, r"D \(complex128, or masked\): expected an array of real"),
    ({"D": 1e-200 * np.array([[1, 0.5], [0.4, 1]])}, "D is not symmetric"),
    ({"drift": lambda p: "drift"}, "drift .*: expected an array of real numbers"),
    ({"D": "eye"}, "D .*: expected an array of real numbers"),
    ({"bounds": (-3, 3)}, r"bounds has shape \(2,\): expected .* with low < high"),
    ({"bounds": "box"}, "bounds .*: expected an array of real numbers"),
    ({"bounds": ((-3, 3), (-3, 3 + 1j))}, "bounds .*: expected an array of real numbers"),
    ({"bounds": ((-3, 3), (-3, 3), (-3, 3))}, "bounds = .*: expected .* with low < high"),
    (
        {"drift": lambda p: np.where(np.abs(p) < 1e-9, np.nan, -p)},
        "drift: NaN or infinity in row",
    ),  # between cells
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_fields(change, message):
    with pytest.raises(ValueError, match=message):
        solver(**change)


@pytest.mark.parametrize("scale", [1e-200, 1e-100, 1.0, 1e100, 1e200])
def test_the_unit_of_time_is_free(scale):
    fp = solver(drift=lambda p: -scale * p, D=scale * np.eye(2))
    assert np.allclose(fp.steady_state(), solver().steady_state(), rtol=1e-9)


@pytest.mark.parametrize("scale", [[1e-100, 1e-100], [1e100, 1e100], [1e-6, 1e6]])
def test_the_unit_of_length_is_free_along_either_axis(scale):
    fp = solver(D=np.diag(np.square(scale)), bounds=np.transpose([scale]) * np.array(BOX))
    assert np.allclose(fp.steady_state() * np.prod(scale), solver().steady_state(), rtol=1e-9)


def test_numpy_numbers_and_lists_are_welcome_and_a_tensor_gives_its_values():
    fp = solver(D=[[1, 0], [0, 1]], T=np.float64(1.0), bounds=np.array(BOX), shape=np.array([16, 16]))
    assert np.array_equal(fp.steady_state(), solver().steady_state())
    traced = solver(drift=lambda p: -torch.from_numpy(p).requires_grad_())
    assert np.array_equal(traced.steady_state(), solver().steady_state())
    assert np.array_equal(fields.as_field(torch.eye(2, requires_grad=True)), np.eye(2))


def test_what_is_no_shape_and_no_function_is_refused():
    with pytest.raises(ValueError, match="shape = 16: expected two numbers of cells"):
        fields.box(BOX, 16)
    with pytest.raises(ValueError, match=r"drift is a ndarray: expected a function of points \(n, 2\)"):
        fields.sample("drift", np.eye(2), np.zeros((3, 2)), (2,))


# ---- times


@pytest.mark.parametrize("t", [5e-324, 1e-300, 1e-9, 0.1, 1.0, 1e3, 1e6, 1e12])
def test_a_steady_state_stays(t):
    turning = solver(drift=lambda p: -p + np.stack([-p[:, 1], p[:, 0]], 1))
    free = solver(drift=lambda p: 0 * p, D=np.array([[1.0, 0.5], [0.5, 1.0]]))
    for fp in (turning, free):
        rho = fp.steady_state()
        assert np.abs(fp.evolve(rho, [t])[0] - rho).sum() * fp.cell_area < 1e-9
    uniform = np.full(free.shape, 1 / 36)
    assert np.allclose(free.evolve(uniform, [t])[0], uniform, rtol=1e-9)


def test_a_short_time_changes_little_and_a_long_time_leads_to_the_steady_state():
    fp = solver()
    lump = np.zeros(fp.shape)
    lump[3, 4] = 1 / fp.cell_area
    for t in (1e-300, 1e-12, 1e-3):
        exact = (expm(t * fp.generator.toarray()) @ lump.ravel()).reshape(fp.shape)
        assert np.abs(fp.evolve(lump, [t])[0] - exact).sum() * fp.cell_area < 1e-8
    for t in (1e7, 1e9, 1e12):
        assert np.abs(fp.evolve(lump, [t])[0] - fp.steady_state()).sum() * fp.cell_area < 1e-8


def test_no_time_gives_no_density_and_what_rounding_hides_is_refused():
    fp = solver()
    rho = fp.steady_state()
    assert fp.evolve(rho, []).shape == (0, 16, 16)
    with pytest.raises(RuntimeError, match="rounding hides what changes so slowly: ask for earlier times"):
        fp.evolve(rho, [1e300])
    for bad in ([2.0, 1.0], [1.0, 1.0], [-1.0], [np.inf], [[1.0]]):
        with pytest.raises(ValueError, match=r"times.*: .*expected (increasing|finite) numbers"):
            fp.evolve(rho, bad)

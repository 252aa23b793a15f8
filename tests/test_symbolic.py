import pytest
import sympy as sp
from sympy.calculus.euler import euler_equations

from sgdvi_lite import symbolic as sy

T = sp.Symbol("T", positive=True)
DIMENSIONS = [1, 2, 3]


def fields(d):
    x = sy.coordinates(d)
    return x, sy.scalar_field("rho", x), sy.vector_field("b", x), sy.symmetric_field("D", x)


def zero(expression):
    return sp.simplify(sp.expand(sp.sympify(expression).doit())) == 0


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_divergence_of_a_product(d):
    x, rho, b, D = fields(d)
    assert zero(sy.div(rho * b, x) - rho * sy.div(b, x) - (b.T * sy.grad(rho, x))[0])
    assert all(zero(e) for e in sy.div_rows(rho * D, x) - rho * sy.div_rows(D, x) - D * sy.grad(rho, x))


def test_the_divergence_is_row_wise():
    x = sy.coordinates(2)
    M = sp.Matrix([[0, x[1]], [0, 0]])
    assert sy.div_rows(M, x).T == sp.Matrix([[1, 0]]) and sy.div_rows(M.T, x).T == sp.Matrix([[0, 0]])


@pytest.mark.parametrize("d", [2, 3])
def test_the_double_divergence_of_an_antisymmetric_field_vanishes(d):
    x = sy.coordinates(d)
    Q = sy.antisymmetric_field("q", x)
    assert Q.T == -Q and zero(sy.div(sy.div_rows(Q, x), x))


def test_matrices_of_fields_have_as_many_functions_as_they_may():
    x = sy.coordinates(3)
    D, Q = sy.symmetric_field("D", x), sy.antisymmetric_field("Q", x)
    assert (
        D == D.T and D[0, 2] == sp.Function("D13", real=True)(*x) and len(D.atoms(sp.core.function.AppliedUndef)) == 6
    )
    assert Q == -Q.T and Q[1, 2] == sp.Function("Q23", real=True)(*x) and Q[2, 1] == -Q[1, 2]
    assert len(Q.atoms(sp.core.function.AppliedUndef)) == 3 and Q[0, 0] == 0


@pytest.mark.parametrize("d", DIMENSIONS)
def test_the_conventions_differ_by_a_drift_T_div_D(d):
    x, rho, b, D = fields(d)
    shifted = sy.fokker_planck(rho, b + T * sy.div_rows(D, x), D, T, x, "ito")
    assert zero(shifted - sy.fokker_planck(rho, b, D, T, x, "printed"))
    assert not zero(sy.fokker_planck(rho, b, D, T, x, "ito") - sy.fokker_planck(rho, b, D, T, x, "printed"))


@pytest.mark.parametrize("d", [1, 2])
def test_the_ito_equation_is_the_adjoint_of_the_generator(d):
    """u FP(rho) - rho L u is the divergence of -(u J) - rho T D grad u."""
    x, rho, b, D = fields(d)
    u = sy.scalar_field("u", x)
    flux = -u * sy.current(rho, b, D, T, x) - rho * T * D * sy.grad(u, x)
    difference = u * sy.fokker_planck(rho, b, D, T, x) - rho * sy.generator(u, b, D, T, x)
    assert zero(difference - sy.div(flux, x))


def test_functional_derivatives():
    x = sy.coordinates(2)
    rho, Phi = sp.Function("rho")(*x), sp.Function("Phi")(*x)
    derivative = sy.functional_derivative(rho * Phi + T * rho * sp.log(rho), rho, x)
    assert zero(derivative - Phi - T * sp.log(rho) - T)
    gradient = sy.grad(rho, x)
    assert zero(sy.functional_derivative((gradient.T * gradient)[0] / 2, rho, x) + sy.div(gradient, x))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_functional_derivatives_that_do_not_depend_on_the_density_or_vanish(d):
    x, rho, b, _ = fields(d)
    for density, exact in [(rho, 1), (T * rho, T), (0, 0), (sp.Integer(7), 0), (b[0], 0), (x[0] * rho, x[0])]:
        assert sy.functional_derivative(density, rho, x) == exact
    for flux in (sy.grad(rho, x), rho * b, sy.grad(rho**2, x)):
        assert zero(sy.functional_derivative(sy.div(flux, x), rho, x))  # a divergence has none
    assert zero(sy.functional_derivative(sp.Derivative(rho * sp.sin(x[0]), x[0]), rho, x))  # not yet carried out


def test_functional_derivatives_of_higher_order_and_at_a_time():
    (x1, x2), t = sy.coordinates(2), sp.Symbol("t")
    rho = sp.Function("rho")(x1, x2, t)
    bend = rho.diff(x1, x2)
    assert zero(sy.functional_derivative(bend**2 / 2, rho, sp.Matrix([x1, x2])) - bend.diff(x1, x2))
    assert zero(sy.functional_derivative(rho.diff(x1, 3) ** 2 / 2, rho, sp.Matrix([x1, x2])) + rho.diff(x1, 6))


def test_functional_derivatives_agree_with_sympy_where_it_has_them():
    x, rho, b, _ = fields(2)
    slope = sy.grad(rho, x)
    for density in (rho**2 * b[0], (slope.T * slope)[0] ** 2 + rho * sp.exp(rho), rho.diff(x[0], x[1]) * rho**2):
        (equation,) = euler_equations(density, [rho], list(x))
        assert zero(sy.functional_derivative(density, rho, x) - equation.lhs)


def test_what_has_no_functional_derivative():
    x, rho, b, _ = fields(2)
    for other in (sp.Symbol("rho"), rho**2, sp.Function("rho")(x[0])):
        with pytest.raises(ValueError, match=r"rho = .*: expected an undefined function of x1, x2"):
            sy.functional_derivative(rho, other, x)
    with pytest.raises(ValueError, match=r"density = .*: expected a scalar expression"):
        sy.functional_derivative(rho * b, rho, x)


def test_wrong_shapes_and_names():
    x = sy.coordinates(2)
    with pytest.raises(
        ValueError, match=r"v has shape \(2, 2\): expected \(2, 1\); the divergence of a tensor is div_rows"
    ):
        sy.div(sp.eye(2), x)
    with pytest.raises(ValueError, match=r"M has shape \(2, 1\): expected \(2, 2\)"):
        sy.div_rows(x, x)
    with pytest.raises(ValueError, match="convention = 'ao': expected one of ito, printed"):
        sy.current(x[0], x, sp.eye(2), T, x, "ao")


def test_shapes_are_checked():
    x = sy.coordinates(2)
    for call, message in (
        (lambda: sy.current(x[0], x.T, sp.eye(2), sp.Integer(1), x), r"drift has shape \(1, 2\): expected \(2, 1\)"),
        (lambda: sy.generator(x[0], x, sp.eye(3), sp.Integer(1), x), r"D has shape \(3, 3\): expected \(2, 2\)"),
        (lambda: sy.fokker_planck(x[0], x, sp.eye(1), sp.Integer(1), x), r"D has shape \(1, 1\): expected \(2, 2\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()

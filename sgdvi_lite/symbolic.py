"""Symbolic vector calculus with sympy, so that a derivation reads like the mathematics.

Points, fields and drifts are column vectors (``sympy.Matrix`` of shape (d, 1)), tensors are (d, d). The divergence of
a tensor is taken row by row, ``(div M)_i = sum_j d_j M_ij``. Chapters 2 to 8 use these helpers with undefined
functions in d = 2 and 3.
"""

import sympy as sp
from sympy.core.function import AppliedUndef

from sgdvi_lite import _checks


def coordinates(d: int) -> sp.Matrix:
    """Return the point ``(x1, ..., xd)`` of real symbols.

    Examples
    --------
    >>> from sgdvi_lite import symbolic
    >>> symbolic.coordinates(2).T
    Matrix([[x1, x2]])
    """
    return sp.Matrix(sp.symbols(f"x1:{_checks.count('d', d) + 1}", real=True))


def scalar_field(name: str, x: sp.Matrix, *more: sp.Symbol) -> sp.Expr:
    """Return an undefined function of the point, and of further arguments such as time."""
    return sp.Function(name, real=True)(*x, *more)


def vector_field(name: str, x: sp.Matrix) -> sp.Matrix:
    """Return a vector of undefined functions, shape (d, 1).

    Examples
    --------
    >>> from sgdvi_lite import symbolic
    >>> symbolic.vector_field("b", symbolic.coordinates(2)).T
    Matrix([[b1(x1, x2), b2(x1, x2)]])
    """
    return sp.Matrix([scalar_field(f"{name}{i + 1}", x) for i in range(len(x))])


def symmetric_field(name: str, x: sp.Matrix) -> sp.Matrix:
    """Return a symmetric matrix of undefined functions, shape (d, d)."""
    return sp.Matrix(len(x), len(x), lambda i, j: scalar_field(f"{name}{min(i, j) + 1}{max(i, j) + 1}", x))


def antisymmetric_field(name: str, x: sp.Matrix) -> sp.Matrix:
    """Return an antisymmetric matrix of undefined functions, shape (d, d)."""
    upper = symmetric_field(name, x)
    return sp.Matrix(len(x), len(x), lambda i, j: sp.sign(j - i) * upper[i, j])


def grad(f: sp.Expr, x: sp.Matrix) -> sp.Matrix:
    """Gradient of a scalar, shape (d, 1).

    Examples
    --------
    >>> from sgdvi_lite import symbolic
    >>> x = symbolic.coordinates(2)
    >>> symbolic.grad(x[0] ** 2 * x[1], x).T
    Matrix([[2*x1*x2, x1**2]])
    """
    _check("f", f)
    return sp.Matrix([sp.diff(f, xi) for xi in x])


def div(v: sp.Matrix, x: sp.Matrix) -> sp.Expr:
    """Divergence of a vector field (d, 1).

    Examples
    --------
    >>> from sgdvi_lite import symbolic
    >>> x = symbolic.coordinates(2)
    >>> symbolic.div(x, x)
    2
    """
    _check("v", v, len(x), 1, remedy="; the divergence of a tensor is div_rows")
    return sum((sp.diff(vi, xi) for vi, xi in zip(v, x, strict=True)), sp.Integer(0))


def div_rows(M: sp.Matrix, x: sp.Matrix) -> sp.Matrix:
    """Row-wise divergence of a tensor field (d, d): the vector with entries ``sum_j d_j M_ij``.

    Examples
    --------
    >>> import sympy as sp
    >>> from sgdvi_lite import symbolic
    >>> x = symbolic.coordinates(2)
    >>> symbolic.div_rows(sp.Matrix([[0, x[1]], [x[0] ** 2, 0]]), x).T
    Matrix([[1, 2*x1]])
    """
    _check("M", M, len(x), len(x))
    return sp.Matrix([div(M[i, :].T, x) for i in range(len(x))])


def current(
    rho: sp.Expr, drift: sp.Matrix, D: sp.Matrix, T: sp.Expr, x: sp.Matrix, convention: str = "ito"
) -> sp.Matrix:
    """Probability current: ``b rho - T div(D rho)`` (ito), or ``b rho - T D grad rho`` (printed, the paper's (FP))."""
    _checks.one_of("convention", convention, ("ito", "printed"))
    _check("drift", drift, len(x), 1)
    _check("D", D, len(x), len(x))
    spread = div_rows(D * rho, x) if convention == "ito" else D * grad(rho, x)
    return drift * rho - T * spread


def fokker_planck(
    rho: sp.Expr, drift: sp.Matrix, D: sp.Matrix, T: sp.Expr, x: sp.Matrix, convention: str = "ito"
) -> sp.Expr:
    """Right-hand side of the Fokker-Planck equation, minus the divergence of :func:`current`.

    Examples
    --------
    >>> import sympy as sp
    >>> from sgdvi_lite import symbolic
    >>> x = symbolic.coordinates(1)
    >>> T = sp.Symbol("T", positive=True)
    >>> gibbs = sp.exp(-x[0] ** 2 / (2 * T))
    >>> sp.simplify(symbolic.fokker_planck(gibbs, -x, sp.eye(1), T, x))
    0
    """
    return -div(current(rho, drift, D, T, x, convention), x)


def generator(u: sp.Expr, drift: sp.Matrix, D: sp.Matrix, T: sp.Expr, x: sp.Matrix) -> sp.Expr:
    """Generator of the Ito diffusion on a test function, ``b . grad u + T D : Hess u``; adjoint of the Ito equation."""
    _check("drift", drift, len(x), 1)
    _check("D", D, len(x), len(x))
    return (drift.T * grad(u, x))[0] + T * sum(d * h for d, h in zip(D, grad(u, x).jacobian(x), strict=True))


def functional_derivative(density: object, rho: sp.Expr, x: sp.Matrix) -> sp.Expr:
    r"""Functional derivative of the integral of ``density``, an expression in ``rho`` and its derivatives.

    With u running over ``rho`` and its derivatives of order :math:`|u|` in the point, it is
    :math:`\sum_u (-1)^{|u|}\, \partial_u (\partial\,\text{density} / \partial u)`: Euler and Lagrange's expression.

    Parameters
    ----------
    density
        A scalar expression; a constant and 0 are such.
    rho
        A function of the point, as of :func:`scalar_field`.
    x
        The point, as of :func:`coordinates`.

    Raises
    ------
    ValueError
        If ``rho`` is no undefined function of the point, or ``density`` no scalar.

    Examples
    --------
    >>> import sympy as sp
    >>> from sgdvi_lite import symbolic
    >>> x = symbolic.coordinates(2)
    >>> rho = sp.Function("rho")(*x)
    >>> symbolic.functional_derivative(rho * sp.log(rho), rho, x)
    log(rho(x1, x2)) + 1
    """
    good = isinstance(rho, AppliedUndef) and set(x) <= set(rho.args)
    _checks.argument("rho", rho, good, f"an undefined function of {', '.join(map(str, x))}, as scalar_field makes it")
    density = sp.sympify(density).doit()
    scalar = isinstance(density, sp.Expr) and not density.is_Matrix
    _checks.argument("density", density, scalar, "a scalar expression")
    slopes = [u for u in density.atoms(sp.Derivative) if u.expr == rho and set(u.variables) <= set(x)]
    terms = [(-1) ** len(u.variables) * density.diff(u).diff(*u.variables) for u in slopes]
    return sp.expand(density.diff(rho) + sum(terms))


def _check(name: str, value: object, *shape: int, remedy: str = "") -> None:
    """Raise unless an expression has the shape; that of a scalar is ``()``."""
    found = getattr(value, "shape", ())
    _checks.shape(name, found, found == shape, f"{shape}{remedy}")

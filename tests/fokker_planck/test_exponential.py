import numpy as np
import pytest
from scipy.linalg import expm

from sgdvi_lite.fokker_planck import exponential


def problem(n=60, turn=3.0):
    """A stiff chain with a drift, its resolvent for t = 1 and ratio 10, and a vector."""
    A = 900 * (np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1) - 2 * np.eye(n))
    A += turn * (np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1))
    return A, lambda w: np.linalg.solve(np.eye(n) - 0.1 * A, w), np.random.default_rng(0).normal(size=n)


def test_approximations_converge_faster_than_geometrically():
    A, solve, v = problem()
    errors = [np.abs(u - expm(A) @ v).sum() for u in exponential.exponentials(solve, v, 10)]
    steps = np.log(errors[3]) - np.log(errors[8]), np.log(errors[8]) - np.log(errors[13])
    assert errors[-1] < 1e-12 and steps[1] > 1.1 * steps[0] > 0


def test_an_invariant_vector_stops_the_sequence():
    approximations = list(exponential.exponentials(lambda w: w / 1.1, np.array([3.0, 4.0]), 10))  # A = -1, step = 0.1
    assert len(approximations) == 1
    assert approximations[0] == pytest.approx(np.exp(-1) * np.array([3.0, 4.0]), rel=1e-13)


def test_there_are_never_more_than_allowed():
    _, solve, v = problem(turn=800.0)
    assert len(list(exponential.exponentials(solve, v, 10))) == exponential.BASIS

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdvi_lite.fokker_planck.stencil import bernoulli, selling

angles, ratios = st.floats(0, np.pi), st.floats(1e-3, 1)


def tensor(angle, ratio):
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[c, -s], [s, c]])
    return R @ np.diag([1.0, ratio]) @ R.T


@settings(deadline=None)
@given(angle=angles, ratio=ratios)
def test_the_weights_are_not_negative_and_add_up_to_the_tensor(angle, ratio):
    D = tensor(angle, ratio)
    weights, offsets = selling(D[None])
    assert weights.min() >= 0 and offsets.dtype.kind == "i"
    assert np.allclose(np.einsum("k,ki,kj->ij", weights[0], offsets[0], offsets[0]), D, rtol=0, atol=1e-11)


def test_a_diagonal_tensor_uses_the_axes_only():
    weights, offsets = selling(np.diag([2.0, 3.0])[None])
    used = {tuple(np.abs(e)): w for w, e in zip(weights[0], offsets[0], strict=True) if w > 0}
    assert used == {(1, 0): 2.0, (0, 1): 3.0}


def test_many_tensors_are_decomposed_as_each_alone():
    D = np.stack([tensor(a, r) for a in np.linspace(0, 3, 7) for r in (1, 0.1, 0.001)])
    weights, offsets = selling(D)
    for k in range(len(D)):
        one, where = selling(D[k : k + 1])
        assert np.array_equal(one[0], weights[k]) and np.array_equal(where[0], offsets[k])


def test_a_matrix_without_a_decomposition_is_refused():
    with pytest.raises(ValueError, match="too anisotropic for the grid"):
        selling(np.diag([1.0, -1.0])[None])


@settings(deadline=None)
@given(w=st.floats(-600, 600))
def test_the_bernoulli_function_is_positive_and_obeys_detailed_balance(w):
    forward, backward = bernoulli(np.array([w, -w]))
    assert forward > 0 or w > 500
    assert backward - forward == pytest.approx(w, rel=1e-12, abs=1e-12)


def test_it_is_smooth_where_the_formula_changes():
    w = np.array([0.99e-5, 1.01e-5, -0.99e-5, -1.01e-5])
    assert np.allclose(bernoulli(w), 1 - w / 2 + w**2 / 12, rtol=0, atol=1e-13 + 1e-11 * (np.abs(w) > 1e-5))
    assert np.allclose(bernoulli(w[::2]) - 1, -w[::2] / 2, rtol=0, atol=2e-11)
    assert bernoulli(np.array([0.0]))[0] == 1

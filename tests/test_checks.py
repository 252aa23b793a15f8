"""Checks of arguments: what comes as NumPy's or torch's number is one; what is none is refused in our words."""

import inspect
from fractions import Fraction

import numpy as np
import pytest
import torch

from sgdvi_lite import _checks, minibatch_factor, nets, temperature


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3), torch.tensor(3)])
def test_integers_of_all_libraries_become_those_of_python(value):
    assert _checks.count("n", value) == 3 and type(_checks.count("n", value)) is int


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), torch.tensor(True), 3.0, np.float64(3), "a", None, [3], np.array([3]), 3j, np.nan]
)
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(TypeError, match=r"n = .*: expected an integer in \[1, 9\]"):
        _checks.count("n", value, high=9)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)])
def test_real_numbers_of_all_libraries_are_numbers(value):
    for check in (_checks.positive, _checks.not_negative, _checks.probability):
        assert check("lr", value) == 0.5 and not isinstance(check("lr", value), np.generic | torch.Tensor)
    assert _checks.momentum(value, True) == 0.5


@pytest.mark.parametrize("value", ["a", None, [0.5], 0.5j, True, np.array([0.5]), torch.ones(2)])
def test_what_is_no_number_is_refused_in_our_words(value):
    with pytest.raises(TypeError, match=r"lr = .*: expected a finite number > 0"):
        _checks.positive("lr", value)
    with pytest.raises(TypeError, match=r"momentum = .*: expected a number in \[0, 1\)"):
        _checks.momentum(value, False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, np.float32(-1)])
def test_numbers_out_of_range(value):
    for check in (_checks.positive, _checks.not_negative, _checks.probability):
        with pytest.raises(ValueError, match=r"lr = .*: expected"):
            check("lr", value)


def test_a_name_that_is_no_text_is_none_of_those_allowed():
    for value in (None, ["a"], 3):
        with pytest.raises(ValueError, match=r"kind = .*: expected one of a, b"):
            _checks.one_of("kind", value, {"a": 1, "b": 2})


def test_products_of_small_integers_do_not_overflow():
    N, b = np.int8(100), np.int8(50)
    assert minibatch_factor(N, b, replacement=False) == minibatch_factor(100, 50, replacement=False)
    assert temperature(np.float32(0.5), np.int64(4)) == 0.0625


def test_the_name_of_a_sampling_is_no_replacement():
    with pytest.raises(ValueError, match="replacement = 'without': expected True or False"):
        inspect.unwrap(minibatch_factor)(100, 50, replacement="without")  # without the tests' checks of types


def test_networks_take_arrays_and_integers_of_numpy():
    shape = tuple(np.array([1, 8, 8]))
    model = nets.build("tiny-fc", in_shape=shape, classes=np.int64(3), generator=torch.Generator().manual_seed(0))
    vector = np.arange(nets.count_parameters(model), dtype=np.float32)
    nets.set_flat_parameters(model, vector)
    assert np.array_equal(nets.flat_parameters(model).numpy(), vector)
    x, y = np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, int)
    assert nets.error_rate(model, x, y, np.int64(3)) in (0, 1)
    with pytest.raises(ValueError, match="x has 0 examples and y has 0"):
        nets.error_rate(model, x[:0], y[:0])


def test_a_device_without_numbers_is_refused():
    with pytest.raises(ValueError, match=r"device = 'meta': .*expected cpu"):
        _checks.device("meta")

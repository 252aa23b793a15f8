import pytest
import torch
from problems import CLASSES, SHAPES, WEIGHTS, examples, generator, network

from sgdvi_lite import nets


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_paper_s_number_of_weights(name):
    assert nets.count_parameters(network(name)) == WEIGHTS[name]


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_one_output_for_each_class(name):
    x, _ = examples(name, 3)
    assert network(name)(x).shape == (3, CLASSES[name])


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_seed_fixes_the_weights_and_the_global_state_is_untouched(name):
    before = torch.random.get_rng_state()
    one, two, other = (network(name, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(nets.flat_parameters(one), nets.flat_parameters(two))
    assert not torch.equal(nets.flat_parameters(one), nets.flat_parameters(other))


def test_weights_have_the_variance_of_the_documentation():
    layer = nets.build("small-fc", in_shape=(1, 28, 28), classes=10, generator=generator())[1][0]
    assert layer.weight.var().item() == pytest.approx(1 / (3 * 784), rel=0.02)


def test_small_fc_takes_any_size_of_image():
    model = nets.build("small-fc", in_shape=(1, 8, 8), classes=10, generator=generator())
    assert nets.count_parameters(model) == WEIGHTS["small-fc"] + 15 * 64


def test_the_flat_view_goes_there_and_back():
    model = network("tiny-fc")
    vector = torch.arange(WEIGHTS["tiny-fc"], dtype=torch.float64)
    nets.set_flat_parameters(model, vector)
    assert torch.equal(nets.flat_parameters(model), vector)
    assert torch.equal(model[1][0].weight[0], vector[:49])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "big-net"}, "name = 'big-net': expected one of small-lenet"),
        ({"classes": 1}, "classes = 1: expected an integer >= 2"),
        ({"in_shape": (1, 20, 28)}, "at least 22 x 22 pixels"),
        ({"in_shape": (28, 28)}, r"expected three positive sizes"),
        ({"in_shape": (0, 28, 28)}, r"expected three positive sizes"),
    ],
)
def test_bad_arguments(arguments, message):
    good = {"name": "small-lenet", "in_shape": (1, 28, 28), "classes": 10, "generator": generator()}
    with pytest.raises((ValueError, TypeError), match=message):
        nets.build(**(good | arguments))


def test_a_vector_of_another_length_is_refused_and_nothing_is_written():
    model = network("tiny-fc")
    before = nets.flat_parameters(model)
    with pytest.raises(ValueError, match=r"vector has shape \(3,\): expected \(1221,\)"):
        nets.set_flat_parameters(model, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(nets.flat_parameters(model), before)


def test_shapes_are_those_of_the_smallest_images():
    assert nets.build("small-lenet", in_shape=(1, 22, 22), classes=10, generator=generator()).eval()(
        torch.zeros(2, 1, 22, 22)
    ).shape == (2, 10)
    assert set(SHAPES) == set(nets.NETWORKS)

import pytest
import torch
from problems import CLASSES, SHAPES, WEIGHTS, examples, generator, network
from references import autograd_gradients, diffusion_from_pairs
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import DiffusionMatrix, gradients, nets

NORM_WEIGHTS = {"small-lenet": 304, "small-fc": 256, "tiny-fc": 64, "small-allcnn": 332}
NORM_WEIGHTS |= {"small-one-fc": 128, "tiny-one-fc": 32}
"""Weights of the layers that normalise: two a channel."""
NORM_LAYERS = {"batch": nn.BatchNorm1d | nn.BatchNorm2d, "group": nn.GroupNorm}


def built(name, norm, seed=0):
    return nets.build(name, in_shape=SHAPES[name], classes=CLASSES[name], generator=generator(seed), norm=norm)


def layers(model, kind):
    return [layer for layer in model.modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_paper_s_number_of_weights(name):
    assert nets.count_parameters(network(name)) == WEIGHTS[name]


@pytest.mark.parametrize("norm", ["batch", "group", None])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_number_of_weights_with_each_norm(name, norm):
    model = built(name, norm)
    assert nets.count_parameters(model) == WEIGHTS[name] - (0 if norm else NORM_WEIGHTS[name])
    for kind, layer in NORM_LAYERS.items():
        weights = sum(p.numel() for found in layers(model, layer) for p in found.parameters())
        assert weights == (NORM_WEIGHTS[name] if kind == norm else 0)
    assert model.eval()(examples(name, 3)[0].float()).shape == (3, CLASSES[name])


@pytest.mark.parametrize("norm", ["group", None])
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_the_norm_changes_no_other_weight_and_no_other_layer(name, norm):
    kept = [[m for m in built(name, n).modules() if not isinstance(m, nn.Sequential)] for n in ("batch", norm)]
    kept = [[m for m in one if not isinstance(m, tuple(NORM_LAYERS.values()))] for one in kept]
    assert [str(m) for m in kept[0]] == [str(m) for m in kept[1]]
    pairs = zip(*(nn.ModuleList(one).parameters() for one in kept), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_groups_have_four_channels_or_there_is_one():
    groups = {layer.num_channels: layer.num_groups for layer in layers(built("small-lenet", "group"), nn.GroupNorm)}
    assert groups == {8: 2, 16: 4, 128: 32}
    groups = {layer.num_channels: layer.num_groups for layer in layers(built("small-allcnn", "group"), nn.GroupNorm)}
    assert groups == {12: 3, 24: 6, 10: 1}


def test_gradients_and_D_of_a_network_with_group_norm_are_those_of_the_loop():
    model = built("tiny-fc", "group").double()  # in training mode: group-norm mixes no examples
    x, y = examples("tiny-fc", 9)
    source = gradients.Network(model, cross_entropy, x, y)
    assert source.how.startswith("vmap, since ") and "GroupNorm" in source.how
    rows = torch.cat(list(source.chunks()))
    assert torch.allclose(rows, autograd_gradients(model, cross_entropy, x, y), rtol=0, atol=1e-12)
    D = DiffusionMatrix.from_model(model, cross_entropy, x, y)
    assert torch.allclose(D.dense(), diffusion_from_pairs(rows), rtol=0, atol=1e-12)


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
        ({"norm": "layer"}, "norm = 'layer': expected 'batch', 'group' or None"),
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


def test_labels_are_one_for_each_example_and_weights_are_real():
    model = torch.nn.Linear(2, 2)
    for y in (torch.zeros(3, 1), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match=r"y has shape .*: expected \(N,\), one label for each example"):
            nets.error_rate(model, torch.zeros(3, 2), y)
    with pytest.raises(ValueError, match="vector is complex: expected real weights"):
        nets.set_flat_parameters(model, torch.zeros(6, dtype=torch.complex64))


# ---- running statistics


def test_calibrated_statistics_are_those_of_the_whole_set_in_training_mode():
    """By hand, layer by layer: in one batch the network in evaluation mode is then the one in training mode."""
    model, x = built("small-lenet", "batch").double(), examples("small-lenet", 40)[0]
    for layer in layers(model, nn.Dropout):
        layer.p = 0.5
    global_state = torch.random.get_rng_state()
    assert nets.calibrate(model.eval(), x) is model and not any(m.training for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert all(layer.momentum == 0.1 for layer in layers(model, nn.BatchNorm2d))
    h = x
    for layer in [m for m in model.modules() if not isinstance(m, nn.Sequential | nn.Dropout)]:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            axes = [0, *range(2, h.ndim)]
            assert torch.allclose(layer.running_mean, h.mean(axes), rtol=0, atol=1e-12)
            assert torch.allclose(layer.running_var, h.var(axes), rtol=1e-12)
            shape = [1, -1] + [1] * (h.ndim - 2)
            spread = (h.var(axes, correction=0) + layer.eps).sqrt().view(shape)
            h = (h - h.mean(axes).view(shape)) / spread * layer.weight.view(shape) + layer.bias.view(shape)
        else:
            h = layer(h)


def test_statistics_of_several_batches_count_alike_and_old_ones_not_at_all():
    layer = nn.BatchNorm1d(1)
    layer.running_mean.fill_(1e6)
    x = torch.tensor([[1.0], [3.0], [5.0], [9.0]])
    assert nets.calibrate(layer, x, batch_size=2).running_mean.item() == 4.5 and layer.running_var.item() == 5
    assert layer.training and nets.calibrate(layer, x.numpy()).running_var.item() == pytest.approx(35 / 3)


def test_a_mode_of_its_own_and_the_momentum_come_back_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.3).eval(), nn.Linear(3, 1))
    with pytest.raises(RuntimeError):
        nets.calibrate(model, torch.ones(4, 2))
    assert [m.training for m in model] == [True, False, True] and model[0].momentum == 0.1


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Linear(2, 2), torch.ones(4, 2), "model has no layer with running statistics: expected batch-norm"),
        (nn.GroupNorm(1, 2), torch.ones(4, 2), "model has no layer with running statistics"),
        (nn.BatchNorm1d(2, track_running_stats=False), torch.ones(4, 2), "model has no layer with running statistics"),
        (nn.BatchNorm1d(2), torch.ones(1, 2), r"x has shape \(1, 2\): expected \(N, ...\) with N >= 2"),
        (nn.BatchNorm1d(2), torch.ones(0, 2), "x has shape"),
        (nn.BatchNorm1d(2), torch.tensor(1.0), "x has shape"),
    ],
)
def test_what_cannot_be_calibrated(model, x, message):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        nets.calibrate(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_rate_of_dropout_is_chosen_where_there_is_one():
    shape = {"in_shape": (3, 32, 32), "classes": 10, "generator": generator()}
    assert {m.p for m in layers(nets.build("small-allcnn", **shape, dropout=0.5), nn.Dropout)} == {0.5}
    assert {m.p for m in layers(nets.build("small-allcnn", **shape), nn.Dropout)} == {nets.DROPOUT}
    for name, rate in (("small-fc", 0.1), ("small-allcnn", 1.0), ("small-allcnn", -0.1)):
        with pytest.raises(ValueError, match=f"dropout = {rate}: expected"):
            nets.build(name, **shape, dropout=rate)

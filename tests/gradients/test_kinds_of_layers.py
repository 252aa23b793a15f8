"""Layers of all kinds and options, each in a small network: their gradients are those of the loop."""

import pytest
import torch
from references import autograd_gradients
from test_any_network import Net
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import gradients

N, CLASSES = 5, 4
ACTIVATIONS = [nn.Identity, nn.ReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.ELU, nn.SELU, nn.LogSigmoid, nn.Softplus]
OPTIONS = {
    "plain": {},
    "stride and dilation": {"stride": 2, "dilation": 2},
    "stride and padding": {"stride": 2, "padding": 1},
    "stride, padding and dilation": {"stride": 3, "padding": 2, "dilation": 2},
    "groups, no bias": {"groups": 2, "bias": False},
}
CONVOLUTIONS = {
    f"{kind.__name__}, {name}": (kind, options)
    for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for name, options in OPTIONS.items()
}


def flat(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


def recurrent(kind, part, **options):
    return Net(
        lambda m, x: m.last(part(m.rnn(x))), rnn=kind(5, 6, batch_first=True, **options), last=nn.LazyLinear(CLASSES)
    )


def last_output(found):
    return found[0][:, -1]


OTHERS = {
    **{kind.__name__: ((7,), lambda kind=kind: flat(nn.Linear(7, 6), kind())) for kind in ACTIVATIONS},
    "Linear on (n, 3, 5)": ((3, 5), lambda: flat(nn.Linear(5, 4), nn.Linear(4, 2))),
    "Linear on (n, 3, 2, 5)": ((3, 2, 5), lambda: flat(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2))),
    "Linear on (n, 2, 3, 2, 5)": ((2, 3, 2, 5), lambda: flat(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))),
    "Bilinear": ((5,), lambda: Net(lambda m, x: m.layer(x, x), layer=nn.Bilinear(5, 5, CLASSES))),
    "PReLU": ((5,), lambda: flat(nn.Linear(5, 4), nn.PReLU(4))),
    "BatchNorm1d": ((3, 4), lambda: flat(nn.BatchNorm1d(3))),
    "BatchNorm2d": ((3, 4, 5), lambda: flat(nn.BatchNorm2d(3))),
    "BatchNorm3d": ((3, 2, 4, 2), lambda: flat(nn.BatchNorm3d(3), nn.Linear(2, 3), nn.BatchNorm3d(3), nn.ReLU())),
    "GroupNorm": ((4, 5, 5), lambda: flat(nn.GroupNorm(2, 4))),
    "LayerNorm": ((4, 5), lambda: flat(nn.LayerNorm((4, 5)))),
    "InstanceNorm": ((4, 5, 5), lambda: flat(nn.InstanceNorm2d(4, affine=True))),
    "MaxPool": ((2, 8, 8), lambda: flat(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.ReLU())),
    "AvgPool, padding by reflection": (
        (2, 8, 8),
        lambda: flat(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.AvgPool2d(2)),
    ),
    "two branches": (
        (2, 8, 8),
        lambda: flat(Net(lambda m, x: m.one(x) + m.other(x).relu(), one=nn.Conv2d(2, 3, 3), other=nn.Conv2d(2, 3, 3))),
    ),
    "RNN": ((4, 5), lambda: recurrent(nn.RNN, last_output)),
    "RNN, two layers, relu": ((4, 5), lambda: recurrent(nn.RNN, last_output, num_layers=2, nonlinearity="relu")),
    "LSTM": ((4, 5), lambda: recurrent(nn.LSTM, last_output)),
    "LSTM, projected": ((4, 5), lambda: recurrent(nn.LSTM, last_output, proj_size=3)),
    "LSTM, both ways": ((4, 5), lambda: recurrent(nn.LSTM, last_output, bidirectional=True)),
    "GRU": ((4, 5), lambda: recurrent(nn.GRU, last_output)),
    "GRU cell": (
        (4, 5),
        lambda: Net(
            lambda m, x: m.last(m.cell(x[:, 1], m.cell(x[:, 0]))), cell=nn.GRUCell(5, 6), last=nn.Linear(6, CLASSES)
        ),
    ),
    "MultiheadAttention": (
        (4, 6),
        lambda: Net(
            lambda m, x: m.last(m.net(x, x, x)[0].flatten(1)),
            net=nn.MultiheadAttention(6, 2, batch_first=True),
            last=nn.Linear(24, CLASSES),
        ),
    ),
    "TransformerEncoder": (
        (4, 6),
        lambda: flat(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 2, enable_nested_tensor=False)
        ),
    ),
}
EMBEDDINGS = {
    "Embedding": lambda: flat(nn.Embedding(9, 4)),
    "Embedding, padded, by frequency": lambda: flat(nn.Embedding(9, 4, padding_idx=2, scale_grad_by_freq=True)),
    "Embedding of limited norm": lambda: flat(nn.Embedding(9, 4, max_norm=0.5)),
    "Embedding, sparse": lambda: flat(nn.Embedding(9, 4, sparse=True)),
    "EmbeddingBag": lambda: flat(nn.EmbeddingBag(9, 4)),
}


def squares(output, y):
    return (output - y[:, None]).square().sum()


def assert_gradients(model, loss, x):
    torch.manual_seed(1)
    y = torch.randint(CLASSES, (N,))
    model = model.double().eval()
    model(x)  # lazy layers have a shape now
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    exact = autograd_gradients(model, loss, x, y)
    rows = gradients.per_example_gradients(model, loss, x, y, chunk=3)
    assert exact.any() and torch.allclose(rows, exact, rtol=0, atol=1e-12 * exact.abs().max().item())


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    torch.manual_seed(0)
    kind, options = CONVOLUTIONS[name]
    x = torch.randn(N, 2, *(7,) * int(name.split("d,")[0][-1]), dtype=torch.float64)
    assert_gradients(flat(kind(2, 4, 3, **options), nn.ReLU()), squares, x)


@pytest.mark.parametrize("name", OTHERS)
def test_other_layers(name):
    torch.manual_seed(0)
    shape, build = OTHERS[name]
    assert_gradients(build(), cross_entropy, torch.randn(N, *shape, dtype=torch.float64))


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings(name):
    torch.manual_seed(0)
    assert_gradients(EMBEDDINGS[name](), cross_entropy, torch.randint(9, (N, 6)))

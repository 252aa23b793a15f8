"""Gradients of any network that runs on a batch of one: by which way, and that they are those of the loop."""

import copy
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from references import autograd_gradients
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from sgdvi_lite import gradients

N, FEATURES, CLASSES = 24, 5, 3
LAYERS, VMAP, LOOP = "layer by layer", "vmap, since ", "one by one, since "


class Net(nn.Module):
    """A network from a function of its layers and its input."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def mlp(*between, width=6):
    return nn.Sequential(nn.Linear(FEATURES, width), *between, nn.Linear(width, CLASSES))


def floats(*shape):
    return torch.randn(N, *(shape or (FEATURES,)), dtype=torch.float64)


def tokens(*shape, high=7):
    return torch.randint(high, (N, *shape))


def case(model, x=None, y=None, loss=F.cross_entropy):
    return model, loss, floats() if x is None else x, tokens(high=CLASSES) if y is None else y


def hooked(change, where=0):
    model = mlp(nn.Tanh())
    model[where].weight.register_hook(change)
    return model


def rare_penalty(model):
    """A loss that reaches the weights, for some examples only."""
    return lambda output, y: F.cross_entropy(output, y) + (model[0].weight.square().sum() * (y == 2)).sum()


def with_penalty():
    model = mlp(nn.Tanh()).double()
    return case(model, loss=rare_penalty(model))


def branching_penalty():
    model = mlp(nn.Tanh()).double()
    reaches = lambda y: model[0].weight.square().sum() if y.item() == 2 else 0.0  # noqa: E731
    return case(model, loss=lambda output, y: F.cross_entropy(output, y) + reaches(y))


def clipped_logits(self, x):
    out = self.last(torch.tanh(self.first(x)))
    return out.clamp_(-0.2, 0.2)


def residual_in_place(self, x):
    h = self.first(x)
    h += torch.tanh(h)
    return self.last(h)


def reused(self, x):
    """The first layer's weights again, where the input is large."""
    return self.last(self.first(x) + (x.sum(1, keepdim=True) > 2) * F.linear(x, self.first.weight**2))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def of(forward, **layers):
    return Net(forward, **layers)


def first_and_last():
    return {"first": nn.Linear(FEATURES, 6), "last": nn.Linear(6, CLASSES)}


def tied():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Tanh(), nn.Linear(4, 7, bias=False))
    model[2].weight = model[0].weight
    return model


def normed(norm):
    return nn.Sequential(norm(nn.Linear(FEATURES, 6)), nn.Tanh(), nn.Linear(6, CLASSES))


def pruned():
    model = mlp(nn.Tanh())
    prune.random_unstructured(model[0], "weight", amount=0.5)
    return model


def frozen():
    model = mlp(nn.Tanh())
    model[0].weight.requires_grad_(False)
    return model


def with_backward_hook():
    model = nn.Sequential(nn.LayerNorm(FEATURES), mlp(nn.Tanh()))
    model[1][0].register_full_backward_hook(lambda module, into, out: (2 * into[0],) if into[0] is not None else None)
    return model


def with_forward_hooks():
    model = mlp(nn.Tanh())
    model[0].register_forward_hook(lambda module, args, output: 3 * output)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return model


def attention(self, x):
    h, _ = self.attention(x, x, x)
    return self.last(h.mean(1))


def referring():
    """A layer whose weights are also reached by a list, which no transformation of the network knows."""
    model = of(lambda m, x: m.last(m.first(x)) + F.linear(x, m.weights[0] ** 2)[:, :3], **first_and_last())
    model.double().weights = [model.first.weight]
    return case(model)


class Pair(NamedTuple):
    one: torch.Tensor
    other: torch.Tensor


def small_layer(self, x):
    """The gradient of the first layer is far smaller than that of the last."""
    return self.last(x) + 1e-7 * self.first(x).clamp_(-0.5, 0.5)[:, :CLASSES]


AGREE = {
    "recurrent": (
        LOOP,
        lambda: case(
            of(lambda m, x: m.out(m.rnn(x)[0][:, -1]), rnn=nn.RNN(4, 5, batch_first=True), out=nn.Linear(5, 3)),
            floats(6, 4),
        ),
    ),
    "LSTM": (
        LOOP,
        lambda: case(
            of(lambda m, x: m.out(m.rnn(x)[1][0][-1]), rnn=nn.LSTM(4, 5, batch_first=True), out=nn.Linear(5, 3)),
            floats(6, 4),
        ),
    ),
    "GRU": (
        LOOP,
        lambda: case(
            of(
                lambda m, x: m.out(m.rnn(x)[0][:, -1]),
                rnn=nn.GRU(4, 5, 2, batch_first=True, bidirectional=True),
                out=nn.Linear(10, 3),
            ),
            floats(6, 4),
        ),
    ),
    "attention": (
        VMAP,
        lambda: case(
            of(attention, attention=nn.MultiheadAttention(4, 2, batch_first=True), last=nn.Linear(4, 3)), floats(6, 4)
        ),
    ),
    "tokens": (
        VMAP,
        lambda: case(nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(24, 3)), tokens(6)),
    ),
    "bag of tokens": (VMAP, lambda: case(nn.Sequential(nn.EmbeddingBag(7, 4, mode="max"), nn.Linear(4, 3)), tokens(6))),
    "a language model, tied": (
        VMAP,
        lambda: case(of(lambda m, x: m.net(x).transpose(1, 2), net=tied()), tokens(6), tokens(6)),
    ),
    "dict in, dict out": (
        LAYERS,
        lambda: case(
            of(lambda m, x: {"out": m.first(x["a"] + x["b"])}, first=nn.Linear(FEATURES, 3)),
            {"a": floats(), "b": floats()},
            loss=lambda output, y: F.cross_entropy(output["out"], y),
        ),
    ),
    "tuple in, tuple out": (
        VMAP,
        lambda: case(
            of(lambda m, x: (m.first(x[0]) * x[1], m.first(x[0])), first=nn.Linear(FEATURES, 3)),
            (floats(), floats(1)),
            (tokens(high=3), floats(3)),
            loss=lambda output, y: F.cross_entropy(output[0], y[0]) + F.mse_loss(output[1] ** 2, y[1]),
        ),
    ),
    "named tuple in": (
        LAYERS,
        lambda: case(
            of(lambda m, x: m.first(x.one) + x.other, first=nn.Linear(FEATURES, 3)), Pair(floats(), floats(1))
        ),
    ),
    "object out": (
        VMAP,
        lambda: case(
            of(lambda m, x: SimpleNamespace(logits=m.first(x)), first=nn.Linear(FEATURES, 3)),
            loss=lambda output, y: F.cross_entropy(output.logits, y),
        ),
    ),
    "numpy": (LAYERS, lambda: case(mlp(nn.Tanh()), floats().numpy(), tokens(high=3).numpy())),
    "ReLU in place": (LAYERS, lambda: case(mlp(nn.ReLU(inplace=True)))),
    "relu_ in place": (LAYERS, lambda: case(of(lambda m, x: m.last(m.first(x).relu_()), **first_and_last()))),
    "functional in place": (
        LAYERS,
        lambda: case(of(lambda m, x: m.last(F.relu(m.first(x), inplace=True)), **first_and_last())),
    ),
    "clipped logits": (LAYERS, lambda: case(of(clipped_logits, **first_and_last()))),
    "residual in place": (LAYERS, lambda: case(of(residual_in_place, **first_and_last()))),
    "Hardtanh in place": (LAYERS, lambda: case(mlp(nn.Hardtanh(inplace=True)))),
    "small layer": (LAYERS, lambda: case(of(small_layer, first=nn.Linear(FEATURES, 6), last=nn.Linear(FEATURES, 3)))),
    "masked by a hook": (LOOP, lambda: case(hooked(lambda g: g * (torch.arange(FEATURES) % 2)))),
    "clipped by a hook": (LOOP, lambda: case(hooked(lambda g: g.clamp(-0.3, 0.3), 2))),
    "a backward hook beside LayerNorm": (LOOP, lambda: case(with_backward_hook())),
    "forward hooks": (LAYERS, lambda: case(with_forward_hooks())),
    "old weight_norm": (VMAP, lambda: case(normed(nn.utils.weight_norm))),
    "old spectral_norm": (VMAP, lambda: case(normed(nn.utils.spectral_norm).eval())),
    "weight_norm": (VMAP, lambda: case(normed(parametrizations.weight_norm))),
    "spectral_norm": (VMAP, lambda: case(normed(parametrizations.spectral_norm).eval())),
    "orthogonal": (VMAP, lambda: case(normed(parametrizations.orthogonal))),
    "pruned": (VMAP, lambda: case(pruned())),
    "frozen": (VMAP, lambda: case(frozen())),
    "functional reuse": (VMAP, lambda: case(of(reused, **first_and_last()))),
    "a reference to a weight": (LOOP, referring),
    "a layer twice": (
        VMAP,
        lambda: case(
            of(lambda m, x: m.last(m.layer(torch.tanh(m.layer(x)))), layer=nn.Linear(5, 5), last=nn.Linear(5, 3))
        ),
    ),
    "an unused layer": (
        VMAP,
        lambda: case(of(lambda m, x: m.last(m.first(x)), unused=nn.Linear(2, 2), **first_and_last())),
    ),
    "an unused output": (
        LAYERS,
        lambda: case(
            of(lambda m, x: (m.last(m.first(x)), m.other(x))[0], other=nn.Linear(FEATURES, 1), **first_and_last())
        ),
    ),
    "a bare parameter": (
        VMAP,
        lambda: case(
            of(
                lambda m, x: m.scale * m.first(x) + m.shift,
                first=nn.Linear(FEATURES, 3),
                scale=nn.Parameter(torch.tensor(2.0)),
                shift=nn.Parameter(torch.zeros(3)),
            )
        ),
    ),
    "a loss that reaches weights": (LOOP, with_penalty),
    "a loss that reaches weights in a branch": (LOOP, branching_penalty),
    "control flow": (
        LOOP,
        lambda: case(
            of(lambda m, x: m.last(torch.tanh(m.first(x))) if x.sum() > 0 else m.last(m.first(x)), **first_and_last())
        ),
    ),
    "an untrained branch": (
        LOOP,
        lambda: case(of(lambda m, x: m.first(x) if x.sum() > 0 else x[:, :3], first=nn.Linear(FEATURES, 3))),
    ),
    "any over the batch": (
        LOOP,
        lambda: case(of(lambda m, x: m.last(m.first(x)) * (2.0 if (x > 2).any() else 1.0), **first_and_last())),
    ),
    "sorted over the batch": (
        VMAP,
        lambda: case(of(lambda m, x: m.last(m.first(x)) + x.sort(0).values[:, :3] ** 2, **first_and_last())),
    ),
    "batch mean taken off": (
        VMAP,
        lambda: case(of(lambda m, x: m.last(m.first(x) - m.first(x).detach().mean(0) / 2), **first_and_last())),
    ),
    "checkpoint": (
        LAYERS,
        lambda: case(of(lambda m, x: m.last(checkpoint(m.first, x, use_reentrant=False)), **first_and_last())),
    ),
    "a reentrant checkpoint": (
        LOOP,
        lambda: case(
            of(lambda m, x: m.last(checkpoint(m.first, x.requires_grad_(), use_reentrant=True)), **first_and_last())
        ),
    ),
    "an input changed in place": (LAYERS, lambda: case(of(lambda m, x: m.first(x.mul_(0.5)), first=nn.Linear(5, 3)))),
    "autograd.Function": (
        LOOP,
        lambda: case(
            of(lambda m, x: m.last(Double.apply(m.norm(m.first(x)))), norm=nn.LayerNorm(6), **first_and_last())
        ),
    ),
    "keyword call": (LAYERS, lambda: case(of(lambda m, x: m.last(input=m.first(input=x)), **first_and_last()))),
    "one logit, labels of integers": (
        LAYERS,
        lambda: case(
            nn.Linear(FEATURES, 1),
            y=tokens(high=2),
            loss=lambda output, y: F.binary_cross_entropy_with_logits(output[:, 0], y.double()),
        ),
    ),
    "one logit, labels true or false": (
        LAYERS,
        lambda: case(
            nn.Linear(FEATURES, 1),
            y=tokens(high=2) > 0,
            loss=lambda output, y: F.binary_cross_entropy_with_logits(output[:, 0], y.double()),
        ),
    ),
    "counts": (
        LAYERS,
        lambda: case(
            nn.Linear(FEATURES, 1), y=tokens(high=40), loss=lambda output, y: F.poisson_nll_loss(output[:, 0], y)
        ),
    ),
    "ignore_index": (LAYERS, lambda: case(mlp(nn.Tanh()), y=torch.where(torch.arange(N) % 3 > 0, 1, -100))),
    "classes of pixels": (
        VMAP,
        lambda: case(nn.Conv1d(2, 3, 3), floats(2, 6), torch.where(tokens(4) > 0, tokens(4, high=3), -100)),
    ),
    "probabilities": (LAYERS, lambda: case(mlp(nn.Tanh()), y=torch.rand(N, CLASSES, dtype=torch.float64))),
    "hinge": (LAYERS, lambda: case(mlp(nn.Tanh()), loss=F.multi_margin_loss)),
    "no targets": (LAYERS, lambda: case(mlp(nn.Tanh()), y=(None,), loss=lambda output, y: output.square().sum())),
    "batch-norm without statistics": (
        VMAP,
        lambda: case(
            nn.Sequential(
                nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(48, 3)
            ).eval(),
            floats(2, 6, 6),
        ),
    ),
    "batch-norm without weights": (
        LAYERS,
        lambda: case(nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3)).eval()),
    ),
    "dropout of rate 0": (LAYERS, lambda: case(mlp(nn.Dropout(0.0)))),
    "an input that requires a gradient": (LAYERS, lambda: case(mlp(nn.Tanh()), floats().requires_grad_())),
    "floats of another dtype inside": (
        LAYERS,
        lambda: case(
            of(lambda m, x: m.first(x["a"]) * x["mask"].double(), first=nn.Linear(FEATURES, 3)),
            {"a": floats(), "mask": torch.rand(N, 1)},
        ),
    ),
}


def made(build):
    torch.manual_seed(3)
    model, loss, x, y = build()
    return model.double(), loss, x, y


def by_parameter(model, rows):
    """Largest entry of the gradient of each parameter."""
    parts = rows.split([p.numel() for p in model.parameters() if p.requires_grad], dim=1)
    return torch.stack([part.abs().max() for part in parts])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:There is a performance drop")
@pytest.mark.parametrize("name", AGREE)
def test_gradients_are_those_of_the_loop(name):
    way, build = AGREE[name]
    model, loss, x, y = made(build)
    source = gradients.Network(model, loss, x, y, chunk=10)
    assert source.how.startswith(way), source.how
    chunks = list(source.chunks())
    assert not any(rows.requires_grad for rows in chunks)
    copied = copy.deepcopy((source.x, source.y))
    exact = autograd_gradients(model, loss, *copied)
    scale, error = by_parameter(model, exact), by_parameter(model, torch.cat(chunks) - exact)
    assert exact.any() and (error <= 1e-9 * scale + 1e-15 * scale.max()).all()

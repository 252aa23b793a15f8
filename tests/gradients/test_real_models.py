"""A ResNet with group-norm and a small transformer on tokens: gradients, D, rank and samples, against the loop."""

from itertools import pairwise

import pytest
import torch
from problems import generator
from references import autograd_gradients
from torch import nn
from torch.nn.functional import cross_entropy

from sgdvi_lite import DiffusionMatrix, gradients, nets

N = 6


class Block(nn.Module):
    """Two convolutions and the way around them, halved where the width grows."""

    def __init__(self, inputs, width):
        super().__init__()
        stride = 1 if inputs == width else 2
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False),
            nn.GroupNorm(4, width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.GroupNorm(4, width),
        )
        self.way = nn.Identity() if stride == 1 else nn.Conv2d(inputs, width, 1, stride, bias=False)

    def forward(self, x):
        out = self.body(x)
        out += self.way(x)
        return out.relu_()


def resnet():
    """Twenty layers of 16, 32 and 64 channels."""
    widths = (16, 16, 16, 16, 32, 32, 32, 64, 64, 64)
    blocks = [Block(a, b) for a, b in pairwise(widths)]
    first = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.GroupNorm(4, 16), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Transformer(nn.Module):
    """Predicts the next token from those before; the last layer has the weights of the first."""

    def __init__(self, tokens=20, width=16, length=8):
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Parameter(0.1 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 32, dropout=0.1, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.tokens.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(length, dtype=torch.float64))

    def forward(self, x):
        out = self.body(self.tokens(x) + self.places, mask=self.mask, is_causal=True)
        return self.head(out).transpose(1, 2)


def problem(name):
    torch.manual_seed(0)
    if name == "resnet":
        return resnet().double().eval(), torch.randn(N, 3, 8, 8, dtype=torch.float64), torch.randint(10, (N,))
    text = torch.randint(20, (N, 9))
    return Transformer().double().eval(), text[:, :-1], text[:, 1:]


WEIGHTS = {"resnet": 272_282, "transformer": 4896}


@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_and_diffusion_matrix(name):
    model, x, y = problem(name)
    assert nets.count_parameters(model) == WEIGHTS[name]
    G = autograd_gradients(model, cross_entropy, x, y)
    source = gradients.Network(model, cross_entropy, x, y, chunk=4)
    assert source.how.startswith("vmap, since ")
    assert torch.allclose(torch.cat(list(source.chunks())), G, rtol=0, atol=1e-12 * G.abs().max().item())
    C = (G - G.mean(0)) / N**0.5
    values, vectors = torch.linalg.eigh(C @ C.T)
    values, directions = values[1:], C.T @ (vectors[:, 1:] / values[1:].sqrt())  # eigenvectors of D
    D = DiffusionMatrix.from_model(model, cross_entropy, x, y)
    assert D.backend == "gram" and D.rank() == N - 1
    assert torch.allclose(D.eigenvalues(N - 1), values.flip(0), rtol=1e-9, atol=0)
    drawn = D.sample(3, generator(2)).T
    assert torch.allclose(directions @ (directions.T @ drawn), drawn, rtol=0, atol=1e-10 * drawn.abs().max().item())
    v = torch.randn(G.shape[1], generator=generator(1), dtype=torch.float64)
    again = DiffusionMatrix.from_model(model, cross_entropy, x, y, "recomputed")
    for matrix in (D, again):
        assert torch.allclose(matrix @ v, C.T @ (C @ v), rtol=0, atol=1e-11 * values[-1].item())


@pytest.mark.parametrize("name", WEIGHTS)
def test_in_single_precision_vmap_is_trusted_and_right(name):
    model, x, y = problem(name)
    exact = autograd_gradients(model, cross_entropy, x, y)
    x = x.float() if x.is_floating_point() else x
    source = gradients.Network(model.float(), cross_entropy, x, y)
    assert source.how.startswith("vmap, since ")
    rows = next(source.chunks())
    for part, right in zip(*(G.split([p.numel() for p in model.parameters()], 1) for G in (rows, exact)), strict=True):
        assert (part - right).abs().max() <= 2e-4 * right.abs().max() + 1e-7 * exact.abs().max()

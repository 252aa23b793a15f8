"""Euler-Maruyama ensembles against torchsde's Euler scheme: 100,000 particles, 2,000 steps, two dimensions."""

import pytest
import torch
from problems import generator

from sgdvi_lite import sde

PARTICLES, STEPS, DT = 100_000, 2_000, 1e-3
torchsde = pytest.importorskip("torchsde", reason="the peer is missing: pip install 'sgdvi_lite[bench]'")


class Process(torch.nn.Module):
    """An Ornstein-Uhlenbeck process as torchsde wants it."""

    noise_type, sde_type = "diagonal", "ito"

    def f(self, t, x):
        return -x

    def g(self, t, x):
        return torch.ones_like(x)


def library(x0):
    return sde.euler_maruyama(lambda x: -x, 1.0, x0, DT, STEPS, generator=generator())


def peer(x0):
    with torch.no_grad():
        return torchsde.sdeint(Process(), x0, torch.tensor([0.0, STEPS * DT]), method="euler", dt=DT)[-1]


@pytest.mark.parametrize("way", [library, peer], ids=["library", "torchsde"])
def test_ensemble(benchmark, way):
    benchmark.group = f"{PARTICLES} particles, {STEPS} steps"
    x = benchmark.pedantic(way, (torch.zeros(PARTICLES, 2),), rounds=1 if way is peer else 3, warmup_rounds=0)
    exact = (1 - torch.exp(torch.tensor(-2.0 * STEPS * DT))) / 2
    assert abs(x.var() - exact) < 0.02

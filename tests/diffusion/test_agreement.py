"""All back-ends agree on the paper's networks at their full size, on both sides of N = d, in one and in two processes.

This takes up to an hour and 16 GB, so it runs only when asked: ``pytest -m large tests/diffusion/test_agreement.py``.
With their large layers frozen all networks are tested every time (``test_diffusion.py``, ``test_sharding.py``).
"""

import pytest
import torch
from problems import generator, network_problem, ten_above
from test_sharding import on_two_ranks

from sgdvi_lite import DiffusionMatrix, nets

pytestmark = pytest.mark.large
LARGE = [name for name in nets.NETWORKS if name != "tiny-fc"]
TWO = """
    name, N, backend = {name!r}, {N}, {backend!r}
    model, loss, x, y = network_problem(name, N)
    mine = slice(0, N // 3) if rank == 0 else slice(N // 3, N)
    D = DiffusionMatrix.from_model(model, loss, x[mine], y[mine], backend, group=dist.group.WORLD)
    V = torch.randn(D.shape[0], 2, generator=generator(3), dtype=torch.float64)
    torch.save({{"product": D @ V, "trace": D.trace(), "values": D.eigenvalues(12)}}, sys.argv[2] + str(rank))
"""


def size(name, side):
    """Examples: a third of d, or a few more than d."""
    d = nets.count_parameters(network_problem(name, 1)[0])
    return d // 3 if side == "N < d" else d + 50


def measured(D):
    V = torch.randn(D.shape[0], 2, generator=generator(3), dtype=torch.float64)
    return {
        "product": D @ V,
        "values": D.eigenvalues(12),
        "trace": D.trace(),
        "norm": D.frobenius_norm(),
        "count": D.rank(ten_above(D)),
    }


def assert_close(one, other):
    for name in one:
        a, b = (torch.as_tensor(found[name], dtype=torch.float64) for found in (one, other))
        assert (a - b).abs().max() <= 1e-9 * a.abs().max(), name


@pytest.mark.parametrize("side", ["N < d", "N > d"])
@pytest.mark.parametrize("name", LARGE)
def test_back_ends_agree(name, side):
    """Where N > d, gradients and Gram matrix of small-allcnn together would take 23 GB, and stay out."""
    N = size(name, side)
    backends = [b for b in ("recomputed", "dense", "gram") if (name, side, b) != ("small-allcnn", "N > d", "gram")]
    first, *others = (measured(DiffusionMatrix.from_model(*network_problem(name, N), b)) for b in backends)
    assert first["count"] == 10
    for other in others:
        assert_close(first, other)


@pytest.mark.parametrize("backend", ["dense", "recomputed"])
@pytest.mark.parametrize("name", LARGE[:2])
def test_two_processes_agree_with_one(name, backend, tmp_path):
    N = size(name, "N > d")
    D = DiffusionMatrix.from_model(*network_problem(name, N), backend)
    one = measured(D)
    for found in on_two_ranks(TWO.format(name=name, N=N, backend=backend), tmp_path, seconds=3000):
        assert_close(found, one)

"""Per-example gradients against one backward pass for each example, and the two back-ends against each other."""

import pytest
from problems import network_problem
from references import autograd_gradients

from sgdvi_lite import DiffusionMatrix, gradients

N = 256


@pytest.mark.parametrize("name", ["tiny-fc", "small-fc", "small-lenet"])
@pytest.mark.parametrize("way", [gradients.per_example_gradients, autograd_gradients], ids=["library", "loop"])
def test_gradients(benchmark, name, way):
    benchmark.group = f"per-example gradients of {name}, N = {N}"
    problem = network_problem(name, N)
    rows = benchmark.pedantic(way, problem, rounds=5, warmup_rounds=1)
    assert len(rows) == N


@pytest.mark.parametrize("backend", ["dense", "gram"])
def test_spectrum(benchmark, backend):
    benchmark.group = "spectrum of D of tiny-fc, N = 1,000 < d = 1,221"
    rows = gradients.per_example_gradients(*network_problem("tiny-fc", 1000))
    spectrum = benchmark.pedantic(
        lambda: DiffusionMatrix.from_gradients(rows, backend=backend).eigenvalues(), rounds=5, warmup_rounds=1
    )
    assert len(spectrum) == rows.shape[1]

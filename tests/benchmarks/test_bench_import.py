"""What the import costs beside that of torch: each in a fresh process, in turns, the median of the ratios."""

import subprocess
import sys
from statistics import median
from time import perf_counter

import pytest

PAIRS = 15
LIMIT = 1.15


def seconds(code):
    """How long a fresh Python takes to run some code, its own start included."""
    begun = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return perf_counter() - begun


@pytest.mark.parametrize("code", ["import torch", "import sgdvi_lite", "from sgdvi_lite import DiffusionMatrix"])
def test_import(benchmark, code):
    benchmark.group = "import, in a fresh process"
    benchmark.pedantic(seconds, (code,), rounds=PAIRS)


def test_the_import_costs_no_more_than_that_of_torch(benchmark):
    """The benchmark's row is ours; both kinds of process alternate, so that a busy minute is in both."""
    ratios = [seconds("import sgdvi_lite") / seconds("import torch") for _ in range(PAIRS)]
    benchmark.pedantic(seconds, ("import sgdvi_lite",), rounds=1)
    benchmark.extra_info["times torch"] = median(ratios)
    assert median(ratios) <= LIMIT

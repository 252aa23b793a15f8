"""The benchmarks share the problems and slow twins of the tests; one thread, so that ratios can be compared."""

import sys
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)
threadpool_limits(1)

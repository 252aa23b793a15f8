"""The benchmarks share the problems and slow twins of the tests; one thread, so that ratios can be compared.

The shape checks that the tests switch on would be timed too: their import hook goes before the library is imported.
"""

import sys
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

sys.meta_path[:] = [finder for finder in sys.meta_path if "jaxtyping" not in type(finder).__module__]
sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)
threadpool_limits(1)

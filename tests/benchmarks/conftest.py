"""The benchmarks share the problems and slow twins of the tests; one thread, so that ratios can be compared.

The shape checks that the tests switch on would be timed too: their import hook goes before the library is imported.
"""

import os
import sys
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_limits

sys.meta_path[:] = [finder for finder in sys.meta_path if "jaxtyping" not in type(finder).__module__]
sys.path.insert(0, str(Path(__file__).parents[1]))
torch.set_num_threads(1)
threadpool_limits(1)


@pytest.fixture(scope="session")
def mnist():
    """MNIST; where it is neither at hand nor to be had, what needs it is skipped, and told where to put it."""
    import pooch

    from sgdvi_lite import data
    from sgdvi_lite.data.sources import SOURCES

    own = os.environ.get("SGDVI_MNIST", "mnist")
    try:
        return data.load(own, progress=False)
    except OSError as error:
        folder = Path(os.environ.get("SGDVI_CACHE") or pooch.os_cache("sgdvi"), "mnist")
        files, why = ", ".join(SOURCES["mnist"].sha256), str(error).partition(" (")[0]
        pytest.skip(f"no MNIST: name an .npz in SGDVI_MNIST, or put {files} into {folder} ({why})")

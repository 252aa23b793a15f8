"""Per-example gradients: one row for each example, one column for each weight.

A loop over the examples, each a batch of one in evaluation mode, gives them for any network. Two faster ways are taken
where a sample agrees with the loop: layer by layer, from one backward pass for a chunk, and :func:`torch.func.vmap`.
"""

from sgdvi_lite.gradients.examples import Examples
from sgdvi_lite.gradients.problem import Loss
from sgdvi_lite.gradients.source import CHUNK_BYTES, Network, Source, chunks, per_example_gradients

__all__ = ["CHUNK_BYTES", "Examples", "Loss", "Network", "Source", "chunks", "per_example_gradients"]

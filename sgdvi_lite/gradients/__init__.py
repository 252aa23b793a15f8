"""Per-example gradients: one row for each example, one column for each weight.

The gradient of an example is that of the loss of a batch of one, in evaluation mode. A loop over the examples computes
it for any network (``ways``). Two faster ways are taken where they agree with the loop on a sample (``choice``): layer
by layer from one backward pass for a whole chunk (``layers``), where all layers are linear, convolutions or batch-norm;
and :func:`torch.func.vmap` over :func:`torch.func.grad`.
"""

from sgdvi_lite.gradients.examples import Examples
from sgdvi_lite.gradients.problem import Loss
from sgdvi_lite.gradients.source import CHUNK_BYTES, Network, Source, chunks, per_example_gradients

__all__ = ["CHUNK_BYTES", "Examples", "Loss", "Network", "Source", "chunks", "per_example_gradients"]

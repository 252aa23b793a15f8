"""Per-example gradients: one row for each example, one column for each weight.

They are computed in evaluation mode, chunk by chunk: layer by layer from one backward pass for the whole chunk
(``layers``) where all layers are linear, convolutions or batch-norm, else by :func:`torch.func.vmap` over
:func:`torch.func.grad`.
"""

from sgdvi_lite.gradients.source import CHUNK_BYTES, Loss, Network, Source, chunks, per_example_gradients

__all__ = ["CHUNK_BYTES", "Loss", "Network", "Source", "chunks", "per_example_gradients"]

"""The diffusion matrix D(x) of Definition 1.

``D`` is the covariance of the per-example gradients, normalised by ``1/N``. Chapter 1 derives the formulas.
"""

from sgdvi_lite.diffusion.certificates import Certificate
from sgdvi_lite.diffusion.lanczos import LimitError
from sgdvi_lite.diffusion.matrix import BACKENDS, DiffusionMatrix

__all__ = ["BACKENDS", "Certificate", "DiffusionMatrix", "LimitError"]

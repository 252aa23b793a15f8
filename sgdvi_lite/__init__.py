"""sgdvi_lite: the small library under the book "SGD as variational inference, executed".

The names that the book's quick start uses import from here; the modules hold one idea each.
"""

from sgdvi_lite import gradients, ledger, linalg, nets, plots, results, sgd
from sgdvi_lite.diffusion import DiffusionMatrix, minibatch_factor, temperature

__version__ = "0.1.0"
__all__ = [
    "DiffusionMatrix",
    "gradients",
    "ledger",
    "linalg",
    "minibatch_factor",
    "nets",
    "plots",
    "results",
    "sgd",
    "temperature",
]

"""sgdvi_lite: the small library under the book "SGD as variational inference, executed".

The names that the book's quick start uses import from here; the modules hold one idea each.
"""

from sgdvi_lite import (
    data,
    gradients,
    ledger,
    linalg,
    nets,
    ou,
    plots,
    results,
    sde,
    series,
    sgd,
    slider,
    symbolic,
    thermo,
)
from sgdvi_lite.diffusion import Certificate, DiffusionMatrix, LimitError
from sgdvi_lite.fokker_planck import FokkerPlanck
from sgdvi_lite.minibatch import minibatch_factor, temperature
from sgdvi_lite.ou import OrnsteinUhlenbeck

__version__ = "0.1.0"
__all__ = [
    "Certificate",
    "DiffusionMatrix",
    "FokkerPlanck",
    "LimitError",
    "OrnsteinUhlenbeck",
    "data",
    "gradients",
    "ledger",
    "linalg",
    "minibatch_factor",
    "nets",
    "ou",
    "plots",
    "results",
    "sde",
    "series",
    "sgd",
    "slider",
    "symbolic",
    "temperature",
    "thermo",
]

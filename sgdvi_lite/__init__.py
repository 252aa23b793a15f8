"""sgdvi_lite: the small library under the book "SGD as variational inference, executed".

The names of the quick start and all rooms are attributes; each is imported when it is first asked for (PEP 562), so
that ``import sgdvi_lite`` costs next to nothing.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers read; at run time __getattr__ does the same
    from sgdvi_lite import (
        data,
        diffusion,
        experiments,
        fokker_planck,
        gradients,
        ledger,
        linalg,
        minibatch,
        nets,
        ou,
        plots,
        reports,
        results,
        sde,
        series,
        sgd,
        slider,
        symbolic,
        tables,
        thermo,
    )
    from sgdvi_lite.diffusion import Certificate, DiffusionMatrix, LimitError
    from sgdvi_lite.fokker_planck import FokkerPlanck
    from sgdvi_lite.minibatch import minibatch_factor, temperature
    from sgdvi_lite.ou import OrnsteinUhlenbeck

__version__ = "0.1.0"
_ROOM_OF = {
    "Certificate": "diffusion",
    "DiffusionMatrix": "diffusion",
    "FokkerPlanck": "fokker_planck",
    "LimitError": "diffusion",
    "OrnsteinUhlenbeck": "ou",
    "minibatch_factor": "minibatch",
    "temperature": "minibatch",
}
"""Where the names of the quick start live."""
_ROOMS = sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
__all__ = [*_ROOM_OF, *_ROOMS]


def __getattr__(name: str):
    """Import a room, or the room of a name, and remember it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_ROOM_OF.get(name, name)}")
    globals()[name] = getattr(room, name) if name in _ROOM_OF else room
    return globals()[name]


def __dir__() -> list[str]:
    """All names, also those not yet imported."""
    return sorted({*globals(), *__all__})

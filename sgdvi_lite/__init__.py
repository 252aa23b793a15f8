"""sgdvi_lite: the small library under the book "SGD as variational inference, executed".

The names of the quick start and all rooms are attributes; each is imported when it is first asked for (PEP 562), so
that ``import sgdvi_lite`` costs next to nothing. Editors and type checkers read the stub ``__init__.pyi`` instead.
"""

from importlib import import_module
from pkgutil import iter_modules

__version__ = "0.1.0"

# Where the names of the quick start live
_ROOM_OF = {
    "Certificate": "diffusion",
    "DiffusionMatrix": "diffusion",
    "FokkerPlanck": "fokker_planck",
    "LimitError": "diffusion",
    "OrnsteinUhlenbeck": "ou",
    "minibatch_factor": "minibatch",
    "temperature": "minibatch",
}
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

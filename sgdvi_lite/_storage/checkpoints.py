"""States of a long computation, written into a folder now and then, so that the same call goes on from there."""

import time
import warnings
from collections.abc import Callable

import torch

from sgdvi_lite._storage.folder import Folder, State

SECONDS = 60  # between two writings lie at least so many seconds
SHARE = 20  # between two writings lies at least so many times what the last one took


class Checkpoints:
    """Named states in a folder, of tensors on a device; a writing that fails costs a warning, not the work.

    Without a folder nothing is kept, and every computation begins at its beginning.
    """

    def __init__(self, folder: Folder | None = None, device: torch.device | str = "cpu"):
        self.folder, self.device = folder, device
        self._next, self._told = time.monotonic() + SECONDS, False

    def load(self, name: str) -> State | None:
        """The state of that name, or ``None``."""
        return self.folder.load(name, self.device) if self.folder else None

    def save(self, name: str, state: Callable[[], State], *, done: bool = False) -> None:
        """Write a small state that is ``done``, or any if it is time; a warning, once, says if that is not possible."""
        began = time.monotonic()
        if self.folder is None or (not done and began < self._next):
            return
        try:
            self.folder.save(name, state())
        except (OSError, RuntimeError) as error:  # the work is worth more than its copy
            if not self._told:
                warnings.warn(
                    f"folder = {str(self.folder.path)!r}: {name} is not kept ({error}); if the computation is stopped, "
                    "this part begins anew",
                    stacklevel=3,
                )
            self._told = True
        ended = time.monotonic()
        self._next = ended + max(SECONDS, SHARE * (ended - began))


NOTHING = Checkpoints()

"""What a long computation has done so far, kept in a folder, so that the same call goes on from there."""

from __future__ import annotations

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from sgdvi_lite._storage.files import digest, lock, write_atomically

FORMAT = 1
"""Of the files; another one is refused."""
SECONDS, SHARE = 60, 20
"""Between two writings lie at least so many seconds, and so many times what the last one took."""
State = dict[str, object]


class _Owner:
    """Holds a folder's lock while it is needed; one process may take a folder again, as a notebook does."""

    def __init__(self, file: IO):
        self.file = file

    def __del__(self):
        self.file.close()


_OURS: WeakValueDictionary[Path, _Owner] = WeakValueDictionary()


class Nothing:
    """Keeps nothing: every computation begins at its beginning."""

    def load(self, name: str) -> State | None:
        """There is nothing."""

    def save(self, name: str, state: Callable[[], State], *, done: bool = False) -> None:
        """Do nothing."""


NOTHING = Nothing()


class Kept:
    """A folder with one file for each named state, replaced whole.

    Parameters
    ----------
    folder
        Made if missing.
    device
        Where tensors are put that are read.
    of
        What decides the numbers of the computation; compared with what is there, lists of floats to three digits.

    Raises
    ------
    ValueError
        If the folder holds another computation, or other files; nothing in it is changed.
    BlockingIOError
        If another process computes in this folder.
    """

    def __init__(self, folder: str | Path, device: torch.device, of: dict[str, object]):
        self.folder, self.device = Path(folder), device
        self._next, self._told = time.monotonic() + SECONDS, False
        header, own = self.folder / "computation.json", {"format": FORMAT} | of
        if not header.exists():
            if self.folder.is_file() or any(path.suffix != ".part" for path in self.folder.glob("*")):
                raise ValueError(f"folder = {str(folder)!r} holds something else: choose an empty folder")
            write_atomically(header, lambda file: file.write(json.dumps(own, indent=1).encode()))
        self._lock = _OURS[header.resolve()] = _OURS.get(header.resolve()) or _Owner(lock(header, "computes"))
        _compare(str(folder), json.loads(header.read_text()), own)
        for part in self.folder.glob(".*.part"):  # of a writing that was killed
            part.unlink()

    def load(self, name: str) -> State | None:
        """The state of that name, or ``None``."""
        file = self.folder / f"{name}.pt"
        try:
            return torch.load(file, weights_only=True, map_location=self.device) if file.exists() else None
        except Exception as error:
            said = str(error).splitlines()[0]
            raise ValueError(f"{str(file)!r} is damaged ({said}): remove it, and this part begins anew") from error

    def save(self, name: str, state: Callable[[], State], *, done: bool = False) -> None:
        """Write a small state that is ``done``, or any if it is time; a warning, once, says if that is not possible."""
        began = time.monotonic()
        if not done and began < self._next:
            return
        try:
            self._write(name, state())
        except (OSError, RuntimeError) as error:  # the work is worth more than its copy
            if not self._told:
                warnings.warn(
                    f"folder = {str(self.folder)!r}: {name} is not kept ({error}); if the computation is stopped, this "
                    "part begins anew",
                    stacklevel=3,
                )
            self._told = True
        ended = time.monotonic()
        self._next = ended + max(SECONDS, SHARE * (ended - began))

    def _write(self, name: str, values: State) -> None:
        needed = sum(t.numel() * t.element_size() for t in values.values() if isinstance(t, Tensor))
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(f"it takes {needed / 1e9:.3g} GB, and the disk has {free / 1e9:.3g} GB free")
        write_atomically(self.folder / f"{name}.pt", lambda file: torch.save(values, file))


Keeping = Kept | Nothing


def _compare(folder: str, there: dict, own: dict) -> None:
    """Raise unless both headers tell the same."""
    for name, value in json.loads(json.dumps(own)).items():
        if not _same(there.get(name), value):
            raise ValueError(
                f"folder = {folder!r} holds another computation: {name} = {there.get(name)} there and {value} here; "
                "choose another folder, or remove this one"
            )


def _same(one: object, other: object) -> bool:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-6)
    return one == other


def of_network(folder: str | Path | None, group, chunk: int, model: nn.Module, loss, x: Tensor, y: Tensor) -> Keeping:
    """What is kept of a computation with the gradients of a network; of the loss, some values tell which it is."""
    if folder is None:
        return NOTHING
    if group is not None:
        raise ValueError(f"folder = {str(folder)!r} with a group: the work of several ranks is not kept; leave one out")
    of = {"trained": [f"{name} {tuple(p.shape)}" for name, p in model.named_parameters() if p.requires_grad]}
    of |= {"weights": digest(*model.state_dict().values()), "data": digest(x, y), "chunk": chunk}
    with torch.no_grad():
        of["losses"] = [loss(model(x[k : k + 1]), y[k : k + 1]).item() for k in range(min(len(x), 64))]
    return Kept(folder, x.device, of)

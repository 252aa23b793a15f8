"""Files of a recorded run: a folder with its description, two arrays made at full size, and a checkpoint.

``run.json`` describes the run, ``weights.npy`` and ``log.npy`` are memory-mapped arrays, ``state.pt`` is replaced whole
at each checkpoint. What lies in the arrays beyond the checkpoint is written again, the same, when the run goes on.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from sgdvi_lite._storage.files import lock, write_atomically

COLUMNS = 4
"""Of the log: loss, w.g, v.v, v.g."""


class Store:
    """The folder of one run, taken for it or found to be its own.

    Parameters
    ----------
    folder
        Made if missing.
    run
        All that decides the numbers of the run; compared with what is there.
    made
        What else to note about the run; not compared.
    rows, d, dtype
        Size and type of the array of weights.

    Raises
    ------
    ValueError
        If the folder holds another run or other files; nothing in it is changed.
    OSError
        If the disk has no room for the whole recording; nothing is written.
    BlockingIOError
        If another process, or another call, is recording into the folder.
    """

    def __init__(self, folder: str | Path, run: dict, made: dict, rows: int, d: int, dtype: np.dtype):
        self.folder, self.run = Path(folder), run
        shapes = {"weights.npy": ((rows, d), dtype), "log.npy": ((rows, COLUMNS), np.dtype(float))}
        if not self._is_mine():
            _foresee(self.folder, sum(math.prod(shape) * kind.itemsize for shape, kind in shapes.values()) + 64 * d)
            note = json.dumps({"run": run, "made": made}, indent=1).encode()
            write_atomically(self.folder / "run.json", lambda file: file.write(note))
        self._lock = lock(self.folder / "run.json", "is recording")
        self.made = read_header(self.folder)["made"]
        self.state = read_state(self.folder)
        self._maps = [self._array(name, *shape) for name, shape in shapes.items()]
        self.weights, self.log = (np.asarray(mapped) for mapped in self._maps)

    def _is_mine(self) -> bool:
        if (self.folder / "run.json").is_file():
            there = read_header(self.folder)["run"]
            other = [name for name in self.run if there.get(name) != self.run[name]]
            if other:
                raise ValueError(
                    f"folder = {str(self.folder)!r} holds another run: {other[0]} = {there.get(other[0])!r} there and "
                    f"{self.run[other[0]]!r} here; choose another folder, or remove this one"
                )
            return True
        if self.folder.exists() and (self.folder.is_file() or any(p.suffix != ".part" for p in self.folder.iterdir())):
            raise ValueError(f"folder = {str(self.folder)!r} holds no run, but something else: choose an empty folder")
        return False

    def _array(self, name: str, shape: tuple, dtype: np.dtype) -> np.memmap:
        """The file at its full size: as it stands if the run has a checkpoint, else anew."""
        path = self.folder / name
        if self.state is None:
            made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            _reserve(path)
            return made
        there = np.lib.format.open_memmap(path, mode="r+")
        if there.shape != shape or there.dtype != dtype:
            raise ValueError(f"{path} has shape {there.shape}: expected {shape}; the recording is damaged, remove it")
        return there

    def close(self) -> None:
        """Let others record into the folder."""
        self._lock.close()

    def save(self, state: dict) -> None:
        """Write a checkpoint, after the arrays that it vouches for."""
        for mapped in self._maps:
            mapped.flush()
        write_atomically(self.folder / "state.pt", lambda file: torch.save(state, file))


def read_header(folder: Path) -> dict:
    """The description of the run in a folder."""
    path = folder / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: no recorded run is there; sgd.record makes one")
    return json.loads(path.read_text())


def read_state(folder: Path) -> dict | None:
    """The last checkpoint in a folder, or None before the first."""
    path = folder / "state.pt"
    return torch.load(path, weights_only=True) if path.is_file() else None


def _foresee(folder: Path, need: int) -> None:
    """Raise unless the disk has ``need`` bytes free."""
    there = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"folder = {str(folder)!r}: the recording takes {need / 1e9:.3g} GB and the disk has {free / 1e9:.3g} GB "
            "free; raise every, lower n_steps, or choose another disk",
        )


def _reserve(path: Path) -> None:
    """Take the room of a sparse file now, where the system can, so that nobody else takes it during the run."""
    if hasattr(os, "posix_fallocate"):
        handle = os.open(path, os.O_RDWR)
        try:
            os.posix_fallocate(handle, 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
        finally:
            os.close(handle)

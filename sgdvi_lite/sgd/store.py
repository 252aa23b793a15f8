"""Files of a recorded run: a folder with its description, two arrays made at full size, and a checkpoint.

``run.json`` describes the run, ``weights.npy`` and ``log.npy`` are memory-mapped arrays, ``state.pt`` is replaced whole
at each checkpoint. What lies in the arrays beyond the checkpoint is written again, the same, when the run goes on.
"""

from __future__ import annotations

import errno
import math
from pathlib import Path

import numpy as np
import torch

from sgdvi_lite._storage import folder as storage
from sgdvi_lite._storage.files import free_bytes, reserve

COLUMNS = 4
"""Of the log: loss, w.g, v.v, v.g."""
RUN = storage.Kind("run.json", "run", "is recording", stranger="no run, but something else", again=False)


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
        if not (self.folder / RUN.header).exists():
            _foresee(self.folder, sum(math.prod(shape) * kind.itemsize for shape, kind in shapes.values()) + 64 * d)
        self._files = storage.Folder(folder, RUN, {"run": run}, {"made": made})
        self.made = self._files.header["made"]
        self.state = self._files.load("state")
        self._maps = [self._array(name, *shape) for name, shape in shapes.items()]
        self.weights, self.log = (np.asarray(mapped) for mapped in self._maps)

    def _array(self, name: str, shape: tuple, dtype: np.dtype) -> np.memmap:
        """The file at its full size: as it stands if the run has a checkpoint, else anew."""
        path = self.folder / name
        if self.state is None:
            made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            reserve(path)
            return made
        there = np.lib.format.open_memmap(path, mode="r+")
        if there.shape != shape or there.dtype != dtype:
            raise ValueError(f"{path} has shape {there.shape}: expected {shape}; the recording is damaged, remove it")
        return there

    def close(self) -> None:
        """Let others record into the folder."""
        self._files.close()

    def save(self, state: dict) -> None:
        """Write a checkpoint, after the arrays that it vouches for."""
        for mapped in self._maps:
            mapped.flush()
        self._files.save("state", state)


def read_header(folder: Path) -> dict:
    """The description of the run in a folder."""
    if not (folder / RUN.header).is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: no recorded run is there; sgd.record makes one")
    return storage.read_header(folder, RUN)


def read_state(folder: Path) -> dict | None:
    """The last checkpoint in a folder, or None before the first."""
    path = folder / "state.pt"
    return torch.load(path, weights_only=True) if path.is_file() else None


def _foresee(folder: Path, need: int) -> None:
    """Raise unless the disk has ``need`` bytes free."""
    free = free_bytes(folder)
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"folder = {str(folder)!r}: the recording takes {need / 1e9:.3g} GB and the disk has {free / 1e9:.3g} GB "
            "free; raise every, lower n_steps, or choose another disk",
        )

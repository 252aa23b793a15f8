"""The files of a recorded run: whose they are, their size and room, and whether they are as they were written.

Of its files ``run.json`` describes the run, ``weights.npy`` and ``log.npy`` are memory-mapped arrays of full size, and
``state.pt`` is replaced whole at each checkpoint; ``start.pt`` is the state before the first step. What lies in the
arrays beyond the checkpoint is written again, the same, when the run goes on; what lies before it has a checksum there.
"""

import io
import math
import zlib
from pathlib import Path

import numpy as np

from sgdvi_lite import _checks
from sgdvi_lite._storage.files import require_room, reserve
from sgdvi_lite._storage.folder import Folder, Kind, State, damaged, read_state

COLUMNS = 4  # of the log: loss, w.g, v.v, v.g
CHECKPOINT = {"step", "position", "drawn_from", "generator", "engine", "row", "recorded", "diverged", "before", "seals"}
# What the network computes is measured: another device or number of threads rounds otherwise
RUN = Kind("run.json", "run", again=False, tolerance=1e-4)


class Store(Folder):
    """The folder of one run, taken for it or found to be its own, with the arrays of its weights and its log.

    Parameters
    ----------
    folder
        Made if missing.
    run
        What decides the numbers; compared with what is there. A run that was to have fewer steps is made longer.
    made
        What else to note about the run; not compared.
    dtype
        Of the weights.

    Raises
    ------
    ValueError
        If the folder holds another run, other files or damaged ones; nothing in it is changed.
    OSError
        If the disk has no room for the arrays; nothing is written.
    BlockingIOError
        If another process, or another call, is recording into the folder.
    """

    def __init__(self, folder: str | Path, run: dict, made: dict, dtype: np.dtype):
        self._n_steps, rows = run["n_steps"], 1 + run["n_steps"] // run["every"]
        self._sizes = {"weights": ((rows, run["d"]), dtype), "log": ((rows, COLUMNS), np.dtype(float))}
        super().__init__(folder, RUN, {"run": run}, {"made": made})

    @property
    def ended(self) -> bool:
        """Whether no step is left to make. Such a run is only read, without a lock."""
        return self.state is not None and (bool(self.state["diverged"]) or self.state["step"] >= self._n_steps)

    def _compare(self, header: dict, wanted: dict) -> None:
        """A longer run is the same."""
        old, new = header["run"], wanted["run"]
        super()._compare(old, new | {"n_steps": min(new["n_steps"], old["n_steps"])})

    def _take(self) -> None:
        self.state = read_checkpoint(self.path)
        if self.ended:
            return
        needed = sum(math.prod(shape) * dtype.itemsize for shape, dtype in self._sizes.values())
        needed -= sum(file.stat().st_size for file in self.path.glob("*.npy"))
        require_room(self.path, needed, "raise every, lower n_steps, or choose another disk")
        super()._take()
        self.state = read_checkpoint(self.path)

    def _open(self) -> None:
        """The arrays of a run that has not ended, at their full size: as they stand if it has a checkpoint, else anew.

        A run that is made longer goes back to before its last chunk, if its end had cut it.
        """
        if self.ended:
            return
        run = self.header["run"]
        if self.state:
            arrays(self.path, run, self.state)
            if self.state["before"]:
                self.state = self.state["before"]
                self.save("state", self.state)
        for name, (shape, dtype) in self._sizes.items():
            resize(self.path / f"{name}.npy", shape, dtype, anew=not self.state)
        if self._n_steps > run["n_steps"]:
            self.write_header(self.header | {"run": run | {"n_steps": self._n_steps}})
        self._maps = [np.load(self.path / f"{name}.npy", mmap_mode="r+") for name in self._sizes]
        self.weights, self.log = map(np.asarray, self._maps)
        self._sealed, self._seals = 0, dict.fromkeys(self._sizes, 0)

    def seal(self, rows: int) -> dict[str, int]:
        """Checksums of the first rows of the arrays, which will not change."""
        for name, array in (("weights", self.weights), ("log", self.log)):
            self._seals[name] = checksum(array[self._sealed : rows], self._seals[name])
        self._sealed = rows
        return dict(self._seals)

    def checkpoint(self, state: State) -> None:
        """Write a checkpoint, after the arrays that it vouches for."""
        for mapped in self._maps:
            mapped.flush()
        self.save("state", state)
        self.state = state

    def close(self) -> None:
        """Let others have the folder; of a run without a checkpoint nothing is left there."""
        if self._lock.is_locked and not (self.path / "state.pt").exists():
            self.remove("start.pt", "weights.npy", "log.npy")
        super().close()


def read_checkpoint(folder: Path) -> State | None:
    """The last checkpoint of a run, or ``None``."""
    state = read_state(folder / "state.pt")
    if state is not None and not set(state) >= CHECKPOINT:
        raise damaged(folder / "state.pt", "it is no checkpoint of a run")
    return state


def arrays(folder: Path, run: dict, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Weights and log ``(1 + recorded, columns)`` up to a checkpoint, read-only, if they are as they were written."""
    found, rows = [], 1 + state["recorded"]
    for name, columns in (("weights", run["d"]), ("log", COLUMNS)):
        file = folder / f"{name}.npy"
        try:
            array = np.load(file, mmap_mode="r")[:rows]
            good, shape = array.shape == (rows, columns), array.shape
            _checks.require(good, f"it has {shape} numbers up to the checkpoint, not {(rows, columns)}")
            _checks.require(checksum(array) == state["seals"][name], "its checksum is wrong")
        except Exception as error:
            raise damaged(file, str(error)) from error
        found.append(array)
    return tuple(found)


def checksum(array: np.ndarray, before: int = 0) -> int:
    """Of an array, or of its further rows after what came before."""
    return zlib.crc32(array, before or zlib.crc32(array.dtype.str.encode()))


def resize(file: Path, shape: tuple[int, int], dtype: np.dtype, anew: bool) -> None:
    """Make the array in a file so long, or make it anew, and take the room for it.

    The head of such a file has room for a greater length; until it is written the array is the old one.
    """
    head, told = io.BytesIO(), {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, told)
    with file.open("wb" if anew else "r+b") as opened:
        opened.truncate(head.tell() + math.prod(shape) * dtype.itemsize)
        opened.write(head.getvalue())
    reserve(file)

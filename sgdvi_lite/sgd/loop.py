"""The loop of a recorded run: its settings, what it asks of an engine, chunks of steps, and the files that it writes.

Between two checkpoints a run is a function of the state in the first, and chunks of steps begin at fixed places of the
data order. So what a killed run does again is what it did before, to the last bit.

Of its files ``run.json`` describes the run, ``weights.npy`` and ``log.npy`` are memory-mapped arrays of full size, and
``state.pt`` is replaced whole at each checkpoint. What lies in the arrays beyond the checkpoint is written again, the
same, when the run goes on.
"""

import errno
import time
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sgdvi_lite import _checks
from sgdvi_lite._storage.files import free_bytes, reserve
from sgdvi_lite._storage.folder import Folder, Kind
from sgdvi_lite.sgd import sampling

ENGINES = ("auto", "autograd")  # by hand where that applies, or autograd always
COLUMNS = 4  # of the log: loss, w.g, v.v, v.g
RUN = Kind("run.json", "run", "is recording", stranger="no run, but something else", again=False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run, as :func:`sgdvi_lite.sgd.record` takes them, and the number of examples; checked here."""

    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    n_steps: int
    every: int
    batch_size: int
    sampling: str
    engine: str
    N: int

    chunk: ClassVar[int] = 32  # steps whose batches are gathered at once; their inputs fit in a core's cache

    def __post_init__(self):
        _checks.positive("lr", self.lr)
        _checks.period(self.n_steps, self.every)
        _checks.one_of("engine", self.engine, ENGINES)
        sampling.check(self.N, self.batch_size, self.sampling)
        _checks.momentum(self.momentum, self.nesterov)
        _checks.not_negative("weight_decay", self.weight_decay)


@runtime_checkable
class Engine(Protocol):
    """What makes the steps of a run: made of ``(model, loss, x, y, settings)``, it has the network until ``finish``.

    An engine supplies the methods without a body; its weights and velocity are flat, on the network's device.
    """

    name: ClassVar[str]  # what Recording.engine and the header of the run say
    blas_threads: ClassVar[int | None]  # threads of NumPy's products during the run; None leaves them
    model: nn.Module
    weights: Tensor
    velocity: Tensor

    @abstractmethod
    def prepare(self, index: Tensor, seed: int) -> None:
        """Take the batches ``(n, b)`` of the next ``n <= Settings.chunk`` steps; the seed is for dropout."""

    @abstractmethod
    def step(self, k: int) -> None:
        """Make step ``k`` of the chunk."""

    @abstractmethod
    def log(self, n: int) -> np.ndarray:
        """Loss, w.g, v.v and v.g of the ``n`` steps of the chunk ``(n, 4)``; asked for once, after the last of them."""

    @abstractmethod
    def finish(self) -> None:
        """Leave the network with the weights as they stand, in memory of its own."""

    def snapshot(self) -> np.ndarray:
        """The weights ``(d,)`` as they stand; on the CPU not a copy."""
        return self.weights.cpu().numpy()

    def state(self) -> dict:
        """Copies of weights, velocity and buffers."""
        buffers = {name: value.detach().clone() for name, value in self.model.named_buffers()}
        return {"weights": self.weights.clone(), "velocity": self.velocity.clone(), "buffers": buffers}

    def load(self, state: dict) -> None:
        """Continue from such a state."""
        self.weights.copy_(state["weights"])
        self.velocity.copy_(state["velocity"])
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["buffers"][name])


class Store(Folder):
    """The folder of one run, taken for it or found to be its own, with the arrays of its weights and its log.

    Parameters
    ----------
    folder
        Made if missing.
    run
        All that decides the numbers of the run, among them the arrays' sizes; compared with what is there.
    made
        What else to note about the run; not compared.
    dtype
        Of the weights.

    Raises
    ------
    ValueError
        If the folder holds another run or other files; nothing in it is changed.
    OSError
        If the disk has no room for the whole recording; nothing is written.
    BlockingIOError
        If another process, or another call, is recording into the folder.
    """

    def __init__(self, folder: str | Path, run: dict, made: dict, dtype: np.dtype):
        rows, d = 1 + run["n_steps"] // run["every"], run["d"]
        need = rows * (d * dtype.itemsize + COLUMNS * np.dtype(float).itemsize) + 64 * d
        free = free_bytes(Path(folder))
        if need > free and not (Path(folder) / RUN.header).exists():
            raise OSError(
                errno.ENOSPC,
                f"folder = {str(folder)!r}: the recording takes {need / 1e9:.3g} GB and the disk has {free / 1e9:.3g} "
                "GB free; raise every, lower n_steps, or choose another disk",
            )
        super().__init__(folder, RUN, {"run": run}, {"made": made})
        self.state = self.load("state")
        self._maps = [self._array("weights.npy", (rows, d), dtype), self._array("log.npy", (rows, COLUMNS), float)]
        self.weights, self.log = (np.asarray(mapped) for mapped in self._maps)

    def _array(self, name: str, shape: tuple, dtype: np.dtype | type) -> np.memmap:
        """The file at its full size: as it stands if the run has a checkpoint, else anew."""
        path = self.path / name
        mode = "w+" if self.state is None else "r+"
        mapped = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        if mapped.shape != shape or mapped.dtype != dtype:
            raise ValueError(f"{path} has shape {mapped.shape}: expected {shape}; the recording is damaged, remove it")
        if self.state is None:
            reserve(path)
        return mapped

    def checkpoint(self, state: dict) -> None:
        """Write a checkpoint, after the arrays that it vouches for."""
        for mapped in self._maps:
            mapped.flush()
        self.save("state", state)


class Run:
    """A run under way: the engine, the files, the place in the data order."""

    def __init__(self, engine: Engine, store: Store, settings: Settings, generator: torch.Generator, seconds: float):
        self.engine, self.store, self.settings, self.generator = engine, store, settings, generator
        self.seconds, self.saved_at = seconds, time.monotonic()
        self.step = self.position = 0
        self.drawn_from = generator.get_state()
        if store.state:
            self._resume(store.state)
        else:
            store.weights[0] = engine.snapshot()

    def _resume(self, state: dict) -> None:
        self.step, self.position, self.drawn_from = state["step"], state["position"], state["drawn_from"]
        self.engine.load(state["engine"])
        ended = self.step == self.settings.n_steps or state["diverged"]
        self.generator.set_state(state["generator"] if ended else self.drawn_from)
        row = self.step // self.settings.every
        self.store.log[row + 1 :] = 0
        self.store.log[row + 1 : row + 2] = state["row"].numpy()
        if state["diverged"]:
            raise self._divergence(state["diverged"], state["recorded"])

    def go(self, progress: bool) -> None:
        """Make the steps that are left, and a last checkpoint."""
        title, n = f"SGD ({self.engine.name})", self.settings.n_steps
        with tqdm(desc=title, total=n, initial=self.step, unit="step", disable=not progress) as bar:
            while self.step < n:
                self._round(bar)
        self.save(self.step // self.settings.every)

    def _round(self, bar: tqdm) -> None:
        """As many epochs as fill a chunk, or one; each draws a seed and its batches, as in :class:`SGD`."""
        settings, chunk = self.settings, self.settings.chunk
        self.drawn_from = self.generator.get_state()
        epochs = (self._epoch() for _ in range(max(1, chunk // (settings.N // settings.batch_size))))
        seeds, batches = zip(*epochs, strict=True)
        index = torch.cat(batches)[: settings.n_steps - self.step + self.position]
        for k in range(self.position, len(index), chunk):
            self._chunk(index[k : k + chunk], seeds[0] + k)
            bar.update(self.step - bar.n)
            if time.monotonic() - self.saved_at >= self.seconds and self.step < settings.n_steps:
                self.save(self.step // settings.every)
        self.position = 0

    def _epoch(self) -> tuple[int, Tensor]:
        seed = int(torch.randint(2**31, (), generator=self.generator))
        return seed, sampling.epoch(self.settings.N, self.settings.batch_size, self.settings.sampling, self.generator)

    def _chunk(self, index: Tensor, seed: int) -> None:
        engine, every, begin = self.engine, self.settings.every, self.step
        engine.prepare(index, seed)
        for k in range(len(index)):
            engine.step(k)
            self.step += 1
            if self.step % every == 0:
                self.store.weights[self.step // every] = engine.snapshot()
        rows = engine.log(len(index))
        np.add.at(self.store.log, np.arange(begin, self.step) // every + 1, rows / every)
        self.position += len(index)
        failed = first_failure(rows, engine.snapshot())
        if failed is not None:
            self._stop(begin + failed + 1, last_finite(self.store.weights, begin // every, (begin + failed) // every))

    def _stop(self, step: int, recorded: int) -> None:
        """Leave the snapshots up to the last finite one, and say in which step training diverged."""
        self.store.weights[recorded + 1 :] = 0
        self.store.log[recorded + 1 :] = 0
        self.save(recorded, step)
        raise self._divergence(step, recorded)

    def _divergence(self, step: int, recorded: int) -> FloatingPointError:
        return FloatingPointError(
            f"the loss or a weight became NaN or infinite in step {step}: lower lr = {self.settings.lr}; the snapshots "
            f"up to step {recorded * self.settings.every} stay in {str(self.store.path)!r}"
        )

    def save(self, recorded: int, diverged: int | None = None) -> None:
        """Write a checkpoint after so many recorded snapshots: from it the run goes on to the last bit."""
        row = self.step // self.settings.every
        state = {
            "step": self.step,
            "position": self.position,
            "drawn_from": self.drawn_from,
            "generator": self.generator.get_state(),
            "engine": self.engine.state(),
            "row": torch.from_numpy(self.store.log[row + 1 : row + 2].copy()),
            "recorded": recorded,
            "diverged": diverged,
        }
        self.store.checkpoint(state)
        self.saved_at = time.monotonic()


def first_failure(log: np.ndarray, weights: np.ndarray) -> int | None:
    """Which step of a chunk was the first whose log is not finite, the last if only the weights after it are not."""
    finite = np.isfinite(log).all(axis=1)
    finite[-1] &= np.isfinite(weights).all()
    return None if finite.all() else int(finite.argmin())


def last_finite(snapshots: np.ndarray, first: int, last: int) -> int:
    """Row in [first, last] before the first that is not finite, or ``last``; 0 where there is none."""
    finite = np.isfinite(snapshots[first : last + 1]).all(axis=1)
    return last if finite.all() else max(first + int(finite.argmin()) - 1, 0)

"""The loop of a recorded run: chunks of steps, and checkpoints.

Between two checkpoints a run is a function of the state in the first, and chunks of steps begin at fixed places of the
data order. So what a killed run does again is what it did before, to the last bit; and so does a run that is made
longer, from before a last chunk that its end had cut.
"""

import time

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite.sgd import sampling
from sgdvi_lite.sgd.contract import CHUNK, Engine, Settings
from sgdvi_lite.sgd.store import Store

PLACE = ("step", "position", "recorded", "drawn_from")  # where a run is: in a checkpoint, and in the run


class Run:
    """A run under way: the engine, the files, the place in the data order."""

    def __init__(self, engine: Engine, store: Store, settings: Settings, generator: torch.Generator, seconds: float):
        self.engine, self.store, self.settings, self.generator = engine, store, settings, generator
        self.seconds, self.saved_at = seconds, time.monotonic()
        self.step = self.position = self.recorded = 0
        self.drawn_from, self.before, self.diverged = generator.get_state(), None, None
        if store.state:
            self._resume(store.state)
        else:
            store.weights[0] = engine.snapshot()
            store.save("start", self._state())

    def _resume(self, state: dict) -> None:
        """Go on from a state whose weights and buffers the network has."""
        for name in PLACE:
            setattr(self, name, state[name])
        self.generator.set_state(self.drawn_from)
        self.engine.velocity.copy_(state["engine"]["velocity"])
        row, partial = self.recorded + 1, state["row"].numpy()
        self.store.log[row:] = 0
        self.store.log[row : row + len(partial)] = partial

    def go(self, progress: bool) -> None:
        """Make the steps that are left, up to the last or to one in which training diverges; the state tells which."""
        title, n = f"SGD ({self.engine.name})", self.settings.n_steps
        with tqdm(desc=title, total=n, initial=self.step, unit="step", disable=not progress) as bar:
            while not self.store.ended:
                self._round(bar)

    def _round(self, bar: tqdm) -> None:
        """As many epochs as fill a chunk, or one; each draws a seed and its batches, as in :class:`SGD`."""
        settings = self.settings
        self.drawn_from = self.generator.get_state()
        epochs = (self._epoch() for _ in range(max(1, CHUNK // (settings.N // settings.batch_size))))
        seeds, batches = zip(*epochs, strict=True)
        index = torch.cat(batches)
        for k in range(self.position, len(index), CHUNK):
            chunk, left = index[k : k + CHUNK], settings.n_steps - self.step
            if left < len(chunk):
                self.before = self._state()
            self._chunk(chunk[:left], seeds[0] + k)
            bar.update(self.step - bar.n)
            ended = self.diverged or self.step == settings.n_steps
            if ended or time.monotonic() - self.saved_at >= self.seconds:
                self.save()
            if ended:
                return  # and the place in the order stays, for a longer run
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
        self.recorded = self.step // every
        failed = first_failure(rows, engine.snapshot())
        if failed is not None:
            self.diverged = begin + failed + 1
            self.recorded = last_finite(self.store.weights, begin // every, (begin + failed) // every)
            self.store.weights[self.recorded + 1 :] = 0
            self.store.log[self.recorded + 1 :] = 0

    def save(self) -> None:
        """Write a checkpoint: from it the run goes on to the last bit."""
        self.store.checkpoint(self._state())
        self.saved_at = time.monotonic()

    def _state(self) -> dict:
        return {name: getattr(self, name) for name in (*PLACE, "diverged", "before")} | {
            "generator": self.generator.get_state(),
            "engine": self.engine.state(),
            "row": torch.from_numpy(self.store.log[self.recorded + 1 : self.recorded + 2].copy()),
            "seals": self.store.seal(1 + self.recorded),
        }


def first_failure(log: np.ndarray, weights: np.ndarray) -> int | None:
    """Which step of a chunk was the first whose log is not finite, the last if only the weights after it are not."""
    finite = np.isfinite(log).all(axis=1)
    finite[-1] &= np.isfinite(weights).all()
    return None if finite.all() else int(finite.argmin())


def last_finite(snapshots: np.ndarray, first: int, last: int) -> int:
    """Row in [first, last] before the first that is not finite, or ``last``; 0 where there is none."""
    finite = np.isfinite(snapshots[first : last + 1]).all(axis=1)
    return last if finite.all() else max(first + int(finite.argmin()) - 1, 0)

"""The loop of a recorded run: chunks of steps, snapshots, checkpoints, and the stop where training diverges.

Between two checkpoints a run is a function of the state in the first, and chunks of steps begin at fixed places of the
data order. So what a killed run does again is what it did before, to the last bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite.sgd.engines.fully_connected import CHUNK
from sgdvi_lite.sgd.sampling import epoch
from sgdvi_lite.sgd.store import Store


class Run:
    """A run under way: the engine, the files, the place in the data order."""

    def __init__(self, engine, store: Store, generator: torch.Generator, checkpoint_seconds: float):
        self.engine, self.store, self.run, self.generator = engine, store, store.run, generator
        self.seconds, self.saved_at = checkpoint_seconds, time.monotonic()
        self.step = self.position = 0
        self.drawn_from = generator.get_state()
        if store.state:
            self._resume(store.state)
        else:
            store.weights[0] = engine.snapshot()

    def _resume(self, state: dict) -> None:
        self.step, self.position, self.drawn_from = state["step"], state["position"], state["drawn_from"]
        self.engine.load(state["engine"])
        finished = self.step == self.run["n_steps"] or state["diverged"]
        self.generator.set_state(state["generator"] if finished else self.drawn_from)
        row = self.step // self.run["every"]
        self.store.log[row + 1 :] = 0
        self.store.log[row + 1 : row + 2] = state["row"].numpy()
        if state["diverged"]:
            raise FloatingPointError(self._epitaph(state["diverged"], state["recorded"]))

    def go(self, progress: bool) -> None:
        """Make the steps that are left, and a last checkpoint."""
        title, n = f"SGD ({self.engine.name})", self.run["n_steps"]
        with tqdm(desc=title, total=n, initial=self.step, unit="step", disable=not progress) as bar:
            while self.step < n:
                self._round(bar)
        self.save()

    def _round(self, bar: tqdm) -> None:
        """As many epochs as fill a chunk, or one; each draws a seed and its batches, as in :class:`SGD`."""
        N, b, n = self.run["N"], self.run["batch_size"], self.run["n_steps"]
        self.drawn_from = self.generator.get_state()
        drawn = [self._epoch(N, b) for _ in range(max(1, CHUNK // (N // b)))]
        seed, index = drawn[0][0], torch.cat([batches for _, batches in drawn])
        for k in range(self.position, min(len(index), n - self.step + self.position), CHUNK):
            self._chunk(index[k : k + min(CHUNK, n - self.step)], seed + k)
            bar.update(self.step - bar.n)
            if time.monotonic() - self.saved_at >= self.seconds and self.step < n:
                self.save()
        self.position = 0

    def _epoch(self, N: int, b: int) -> tuple[int, Tensor]:
        seed = int(torch.randint(2**31, (), generator=self.generator))
        return seed, epoch(N, b, self.run["sampling"], self.generator)

    def _chunk(self, index: Tensor, seed: int) -> None:
        engine, every, weights, n = self.engine, self.run["every"], self.store.weights, len(index)
        engine.prepare(index, seed)
        for k in range(n):
            engine.step(k)
            self.step += 1
            if self.step % every == 0:
                weights[self.step // every] = engine.snapshot()
        rows = engine.log(n)
        at = np.arange(self.step - n, self.step)
        np.add.at(self.store.log, at // every + 1, rows / every)
        self.position += n
        self._look(rows, at)

    def _look(self, rows: np.ndarray, at: np.ndarray) -> None:
        """Stop at the first step whose loss is not finite; keep the snapshots before it that are."""
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if not len(bad) and np.isfinite(self.engine.snapshot()).all():
            return
        step, every = (int(at[bad[0]]) if len(bad) else int(at[-1])) + 1, self.run["every"]
        first, last = int(at[0]) // every, step // every
        there = np.isfinite(self.store.weights[: last + 1][first:]).all(axis=1)
        recorded = first + int(there.argmin() if not there.all() else len(there)) - 1
        recorded = max(min(recorded, (step - 1) // every), 0)
        self.store.weights[recorded + 1 :] = 0
        self.store.log[recorded + 1 :] = 0
        self.save(recorded, step)
        raise FloatingPointError(self._epitaph(step, recorded))

    def _epitaph(self, step: int, recorded: int) -> str:
        return (
            f"the loss or a weight became NaN or infinite in step {step}: lower lr = {self.run['lr']}; the snapshots "
            f"up to step {recorded * self.run['every']} stay in {str(self.store.folder)!r}"
        )

    def save(self, recorded: int | None = None, diverged: int | None = None) -> None:
        """Write a checkpoint: from it the run goes on to the last bit."""
        row = self.step // self.run["every"]
        state = {
            "step": self.step,
            "position": self.position,
            "drawn_from": self.drawn_from,
            "generator": self.generator.get_state(),
            "engine": self.engine.state(),
            "row": torch.from_numpy(self.store.log[row + 1 : row + 2].copy()),
            "recorded": row if recorded is None else recorded,
            "diverged": diverged,
        }
        self.store.save(state)
        self.saved_at = time.monotonic()


@contextmanager
def same_arithmetic(threads: int, by_hand: bool) -> Iterator[None]:
    """The number of threads with which the run began; the caller's random state and settings stay as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(), np.errstate(all="ignore"), threadpool_limits(1 if by_hand else None, "blas"):
            yield
    finally:
        torch.set_num_threads(before)

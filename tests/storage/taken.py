"""What the tests of folders run in processes of their own."""

import random
import signal
import time

import torch

from sgdvi_lite._storage.folder import Folder, Kind

KIND = Kind("header.json", "thing")
BARRIER_SECONDS = 60


def race(barrier, root, rounds, me, told):
    """Take one empty folder after the other, at the same moment as the other process does."""
    for k in range(rounds):
        barrier.wait(BARRIER_SECONDS)
        try:
            folder = Folder(root / str(k), KIND, {}, {"made by": me})
            told.put((k, me))
        except (BlockingIOError, ValueError):
            folder = None
        barrier.wait(BARRIER_SECONDS)
        if folder:
            folder.close()


def hold(ready, root):
    """Take a folder, save a state, and wait to be killed."""
    folder = Folder(root, KIND, {})
    folder.save("state", {"step": 1})
    ready.set()
    time.sleep(BARRIER_SECONDS)


def interrupt(path, times):
    """Save a state again and again, each time with a Ctrl-C somewhere on the way; end well if nothing else is seen."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    held, state, draw = Folder(path, KIND, {}), {str(k): torch.zeros(20) for k in range(300)}, random.Random(0)
    began = time.perf_counter()
    held.save("state", state)
    span, seen = time.perf_counter() - began, 0
    for _ in range(times):
        try:
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(1e-5, span))
            held.save("state", state)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            seen += 1
    assert seen > times / 4 and len(held.load("state")) == len(state) + 1  # with the stopwatch

"""What the tests of folders run in processes of their own."""

import time

from sgdvi_lite._storage.folder import Folder, Kind

KIND = Kind("header.json", "thing", "makes things")
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

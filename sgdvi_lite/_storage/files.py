"""Files that are there whole or not at all, folders with one owner, and fingerprints of tensors."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

try:
    import fcntl
except ImportError:  # as on Windows: there nothing stops two processes from recording into one folder
    fcntl = None


def write_atomically(path: str | Path, write: Callable) -> Path:
    """Call ``write`` on a binary file that takes the name ``path`` only when it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


def digest(*tensors: Tensor) -> str:
    """A fingerprint of the contents of tensors."""
    found = hashlib.sha256()
    for t in tensors:
        found.update(f"{tuple(t.shape)} {t.dtype}".encode())
        found.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def lock(path: Path, does: str) -> IO:
    """Take the folder of an existing file until the file returned is closed, or the process ends in whatever way."""
    file = path.open()
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(
            f"folder = {str(path.parent)!r}: another process {does} there; wait for its end"
        ) from error
    return file

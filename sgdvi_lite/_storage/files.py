"""Files that are there whole or not at all, room on the disk, and fingerprints of tensors."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import torch


def write_atomically(path: str | Path, write: Callable) -> Path:
    """Call ``write`` on a binary file that takes the name ``path`` only when it is complete; the umask is obeyed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            write(file)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path


def digest(*tensors: torch.Tensor) -> str:
    """A fingerprint of the contents of tensors."""
    sha = hashlib.sha256()
    for t in tensors:
        sha.update(f"{tuple(t.shape)} {t.dtype}".encode())
        sha.update(t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()[:16]


def require_room(path: Path, needed: int, remedy: str) -> None:
    """Raise unless so many bytes are free on the disk on which a path lies, or will lie."""
    free = shutil.disk_usage(next(p for p in [path, *path.absolute().parents] if p.exists())).free
    if needed > free:
        fault = f"it takes {needed / 1e9:.3g} GB, and the disk has {free / 1e9:.3g} GB free; {remedy}"
        raise OSError(errno.ENOSPC, f"{str(path)!r}: {fault}")


def reserve(path: Path) -> None:
    """Take the room of a sparse file now, where the system can, so that nobody else takes it later."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise

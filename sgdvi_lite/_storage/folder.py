"""A folder that outlives a process: what is computed in it, by whom at present, and how far that came.

A header in JSON tells what is computed; a lock says who does it; each named state is a file that is replaced whole.
States of a long computation are written now and then, so that the same call goes on from there.
"""

import errno
import hashlib
import json
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from sgdvi_lite._storage.files import write_atomically

State = dict[str, object]
FORMAT = 1  # of headers and states
# The file that is locked. It stays for ever: of a file that is replaced, two processes can lock one each.
LOCK = ".lock"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
SPENT = "spent"  # the stopwatch's seconds in a state
SEAL = "header_sha256"  # a fingerprint of the header, in it
SECONDS = 60  # between two checkpoints lie at least so many seconds
SHARE = 20  # between two checkpoints lies at least so many times what writing the last one took


@dataclass(frozen=True)
class Kind:
    """What a sort of folder has of its own: the header's name, what is computed there, and how strict it is."""

    header: str
    noun: str
    again: bool = True  # whether a process may take the folder twice, as a notebook does in which a cell is run again
    # Lists of floats are measured: they may differ so much, relatively, and by a thousandth of it of the largest
    tolerance: float = 0.0


class Folder:
    """A folder taken by this process, for a new computation or to go on with one, until it is closed or forgotten.

    Parameters
    ----------
    path
        Made if missing.
    kind
        Which sort of folder.
    identity
        What decides the numbers; compared with what the header there says.
    note
        What else to write into a new header; not compared.

    Raises
    ------
    ValueError
        If the folder holds another computation, one of another format, or other files; nothing in it is changed.
    BlockingIOError
        If another process has taken the folder.
    """

    def __init__(self, path: str | Path, kind: Kind, identity: dict, note: dict | None = None):
        self.path, self.kind = Path(path), kind
        identity = json.loads(json.dumps(identity))
        self._find(identity)  # a folder of something else is refused before so much as a lock is written there
        self._made = not self.path.exists()
        self._lock = FileLock(self.path.resolve() / LOCK, thread_local=False, is_singleton=kind.again)
        self._take()
        self.stopwatch = Stopwatch(seconds_in(self.path))
        try:
            self.header = self._find(identity)
            if not self.header:
                self.write_header({"format": FORMAT} | identity | (note or {}))
            for part in self.path.glob(".*.part") if self._lock.is_locked else ():  # of a writing that was killed
                part.unlink()
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """What a sort of folder does once it is taken: nothing here."""

    def _take(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
            if not (self.path / LOCK).exists():
                raise Timeout(LOCK)  # the other one has just removed it, with all that it had begun
        except Timeout as error:
            fault = f"folder = {str(self.path)!r}: another process computes there; wait for its end"
            raise BlockingIOError(fault) from error
        except OSError as error:  # states that can only be read need no lock; a recording's arrays are written in place
            if error.errno not in READ_ONLY or not (self.kind.again and (self.path / self.kind.header).is_file()):
                raise

    def write_header(self, header: dict) -> None:
        """Replace the header, and the digest by which damage to it is seen."""
        self.header = header
        text = json.dumps(header | {SEAL: _fingerprint(header)}, indent=1).encode()
        write_atomically(self.path / self.kind.header, lambda file: file.write(text))

    def _find(self, identity: dict) -> dict | None:
        """The header if it tells this identity, ``None`` if nothing is there; all else is refused."""
        path, kind = self.path, self.kind
        if (path / kind.header).is_file():
            header = read_header(path, kind)
            self._compare(header, identity)
            return header
        known = (LOCK, "*.part", kind.header)  # another process may write the header just now
        files = [path] if path.is_file() else path.glob("*")
        if not all(any(map(file.match, known)) for file in files):
            raise ValueError(f"folder = {str(path)!r} holds no {kind.noun}, but something else: choose an empty folder")
        return None

    def _compare(self, header: dict, wanted: dict) -> None:
        """Refuse a header that differs, at any depth, from what is wanted here."""
        for name, new in wanted.items():
            old = header.get(name)
            if isinstance(old, dict) and isinstance(new, dict):
                self._compare(old, new)
            elif not _same(old, new, self.kind.tolerance):
                raise ValueError(
                    f"folder = {str(self.path)!r} holds another {self.kind.noun}: {name} = {old!r:.200} there and "
                    f"{new!r:.200} here; choose another folder, or call it as then: model and generator as they were"
                )

    def load(self, name: str, device: torch.device | str = "cpu") -> State | None:
        """The state of that name, or ``None``."""
        return read_state(self.path / f"{name}.pt", device)

    def save(self, name: str, state: State) -> None:
        """Replace the state of that name, with the stopwatch in it; an OSError says if it cannot be written."""
        state, path = state | {SPENT: self.stopwatch.seconds}, self.path / f"{name}.pt"
        try:  # by its name: torch aborts the process when Ctrl-C closes a file of Python that it writes to
            write_atomically(path, lambda file: torch.save(state, file.name))
        except RuntimeError as error:  # which is how torch says that a disk is full
            raise OSError(f"{str(path)!r} cannot be written ({error}); make room, or choose another disk") from error

    def remove(self, *names: str) -> None:
        """Take away the header and these files, and the folder if it was made here: nothing was done in it."""
        for name in (*names, self.kind.header):
            (self.path / name).unlink(missing_ok=True)
        with suppress(OSError):  # there are others, or the system keeps a file that is open
            (self.path / LOCK).unlink()
            if self._made:
                self.path.rmdir()

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.release()


class Stopwatch:
    """Seconds of a computation in all its processes; of one that was killed, up to the last state that it saved."""

    def __init__(self, before: float = 0.0):
        self.before, self._began = before, time.monotonic()

    @property
    def seconds(self) -> float:
        """What earlier processes took, and this one so far."""
        return self.before + time.monotonic() - self._began


class Checkpoints:
    """Named states in a folder, of tensors on a device; a writing that fails costs a warning, not the work.

    Without a folder nothing is kept, and every computation begins at its beginning.
    """

    def __init__(self, folder: Folder | None = None, device: torch.device | str = "cpu"):
        self.folder, self.device = folder, device
        self._next, self._told = time.monotonic() + SECONDS, False

    def load(self, name: str) -> State | None:
        """The state of that name, or ``None``."""
        return self.folder.load(name, self.device) if self.folder else None

    def save(self, name: str, state: Callable[[], State], *, done: bool = False) -> None:
        """Write a small state that is ``done``, or any if it is time; a warning, once, says if that is not possible."""
        began = time.monotonic()
        if self.folder is None or (not done and began < self._next):
            return
        try:
            self.folder.save(name, state())
        except OSError as error:  # the work is worth more than its copy
            if not self._told:
                warnings.warn(
                    f"folder = {str(self.folder.path)!r}: {name} is not kept ({error}); if the computation is stopped, "
                    "this part begins anew",
                    stacklevel=3,
                )
            self._told = True
        ended = time.monotonic()
        self._next = ended + max(SECONDS, SHARE * (ended - began))


NOTHING = Checkpoints()


def seconds_in(path: Path) -> float:
    """What the stopwatch showed when the last state in a folder was saved; 0 if there is none."""
    found = [0.0]
    for file in path.glob("*.pt"):
        with suppress(Exception):  # one that is damaged, or no state, shows nothing: whoever needs it will say so
            found.append(torch.load(file, weights_only=True, map_location="cpu", mmap=True).get(SPENT, 0.0))
    return max(found)


def read_header(path: Path, kind: Kind) -> dict:
    """The header in a folder, if it is whole and of the format that is known here."""
    file = path / kind.header
    try:
        header = json.loads(file.read_bytes())
        written, seal = header.get("format"), header.pop(SEAL, None)
    except (ValueError, AttributeError) as error:
        raise damaged(file, str(error)) from error
    if written != FORMAT:
        raise ValueError(
            f"folder = {str(path)!r} holds a {kind.noun} of format {written}, and format {FORMAT} is read here: go on "
            "with the version of sgdvi_lite that wrote it, or choose another folder"
        )
    if seal != _fingerprint(header):
        raise damaged(file, "it is not as it was written")
    return header


def damaged(file: Path, said: str) -> ValueError:
    """The error for a file without which the others in its folder are of no use."""
    return ValueError(f"{str(file)!r} is damaged ({said}): restore it from a copy, or remove the folder and begin anew")


def read_state(file: Path, device: torch.device | str = "cpu") -> State | None:
    """The state in a file, or ``None`` if there is no such file; one with a wrong byte is refused."""
    if not file.exists():
        return None
    try:
        with zipfile.ZipFile(file) as parts:
            if wrong := parts.testzip():
                raise ValueError(f"the checksum of {wrong} is wrong")
        return torch.load(file, weights_only=True, map_location=device)
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"{str(file)!r} is damaged ({said}): remove it, and this part begins anew") from error


def _fingerprint(header: dict) -> str:
    return hashlib.sha256(json.dumps(header).encode()).hexdigest()[:16]


def _same(old: object, new: object, tolerance: float) -> bool:
    lists = isinstance(old, list) and isinstance(new, list) and len(old) == len(new)
    if not lists or not all(isinstance(number, float) for number in [*old, *new]):
        return old == new
    largest = np.abs(old).max(initial=0.0, where=np.isfinite(old))
    return np.allclose(new, old, rtol=tolerance, atol=tolerance / 1000 * largest, equal_nan=True)

"""Saved results: named arrays and their provenance in one file, written whole or not at all.

A result is an ``.npz`` without pickled objects; its provenance is JSON inside it. Reading one needs NumPy alone.
"""

import json
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from sgdvi_lite import _checks
from sgdvi_lite._storage.files import write_atomically

_PACKAGES = ("sgdvi_lite", "torch", "numpy", "scipy", "scikit-learn")
_TAKEN = ("provenance", "file", "allow_pickle")  # by us, and by np.savez
_REQUIRED = ("preset", "seed", "commit", "versions", "device", "wall_seconds", "data_sha256")


@dataclass(frozen=True)
class Result:
    """Arrays by name, and how they came to be."""

    arrays: dict[str, np.ndarray]
    provenance: dict


def provenance(*, preset: str, seed: int, data_sha256: str, device: str, wall_seconds: float, **more) -> dict:
    """Describe a run: its arguments, and the commit, versions, processor and time, which are looked up here.

    Parameters
    ----------
    preset, seed, data_sha256, device, wall_seconds
        What was run, on which data, where, and for how many seconds.
    more
        Anything else that JSON can hold, such as all settings of the experiment.

    Examples
    --------
    >>> from sgdvi_lite import results
    >>> made = results.provenance(preset="lite", seed=0, data_sha256="ab12", device="cpu", wall_seconds=1.5)
    >>> made["preset"], made["seed"], "torch" in made["versions"]
    ('lite', 0, True)
    """
    return {
        "preset": preset,
        "seed": seed,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "device": _device_name(device),
        "wall_seconds": round(wall_seconds, 3),
        "data_sha256": data_sha256,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def _commit() -> str:
    """The library's commit, with ``+changes`` when its tree is not clean; ``unknown`` outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changes.stdout.strip() else "")


def save(path: str | Path, arrays: dict, provenance: dict) -> Path:
    """Write a result; an existing file of that name is replaced only once the new one is complete.

    Parameters
    ----------
    path
        A file name ending in ``.npz``.
    arrays
        Arrays or tensors by name; numbers or text, no Python objects.
    provenance
        As made by :func:`provenance`; NumPy's numbers and arrays become numbers and lists, as JSON has them, and
        keys become text.

    Raises
    ------
    ValueError
        If the name has another ending, an array holds objects or a mask, or is named ``provenance``, ``file`` or
        ``allow_pickle``, or the provenance lacks a field or holds what JSON cannot.
    """
    _checks.argument("path", repr(str(path)), Path(path).suffix == ".npz", "a name that ends in .npz")
    missing = [name for name in _REQUIRED if name not in provenance]
    _checks.require(not missing, f"provenance lacks {missing}: make it with results.provenance")
    arrays = {name: _as_array(name, array) for name, array in arrays.items()}
    try:
        note = np.array(json.dumps(provenance, default=lambda value: value.tolist()))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"provenance cannot be saved ({error}): expected numbers, text, lists and dicts") from error
    return write_atomically(path, lambda file: np.savez_compressed(file, provenance=note, **arrays))


def _as_array(name: object, value: object) -> np.ndarray:
    """What can be saved by this name, and is no Python object; raise if it cannot."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, torch.Tensor) else value)
        good = isinstance(name, str) and name not in _TAKEN and not array.dtype.hasobject and not np.ma.is_masked(value)
    except (TypeError, ValueError):  # lists of several lengths, and bfloat16, which NumPy lacks
        good = False
    _checks.require(good, f"arrays: {name!r} cannot be saved; expected arrays of numbers or text, by other names")
    return array


def load(path: str | Path) -> Result:
    """Read a result.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no result: not an ``.npz``, damaged, or without provenance.
    """
    if not Path(path).is_file():
        fault = f"path = {str(path)!r}: no such file; `python -m sgdvi_lite list` shows the saved results"
        raise FileNotFoundError(fault)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        note = json.loads(str(arrays.pop("provenance")))
        _checks.require(isinstance(note, dict), "its provenance is no dict")
    except Exception as error:
        raise ValueError(f"path = {str(path)!r}: not a saved result of sgdvi_lite ({error}); run it again") from error
    return Result(arrays, note)


def find(folder: str | Path) -> list[Path]:
    """All result files in a folder, by name; none if there is no such folder."""
    return sorted(Path(folder).glob("*.npz"))


def shipped() -> list[Path]:
    """Return the results that come with the book, by name: from ``book/results``, or from the installed package."""
    here = Path(__file__).resolve().parent
    return find(here.parent / "book" / "results") or find(here / "shipped")

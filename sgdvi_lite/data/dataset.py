"""The data set as an object, from a name or a file."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sgdvi_lite import _checks
from sgdvi_lite.data import sources
from sgdvi_lite.data.arrays import canonical, digits, numbered, read_npz, sha256

NAMES = ("digits", *sources.SOURCES)
"""Names that :func:`load` knows."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels, for training and for testing.

    ``x_train`` and ``x_test`` are images (examples, channels, height, width), ``y_train`` and ``y_test`` their labels
    in 0, ..., ``classes`` - 1. ``sha256`` identifies the arrays as they were loaded, before any preprocessing, and
    ``source`` says where they come from, as far as it is known.

    Raises
    ------
    ValueError
        If images and labels differ in number, images differ in shape, a pixel is NaN or infinite, or a label is out
        of range.
    """

    name: str
    x_train: Float[Tensor, "_ _ _ _"]  # sizes are compared below, with an error that says more
    y_train: Int64[Tensor, " _"]
    x_test: Float[Tensor, "_ _ _ _"]
    y_test: Int64[Tensor, " _"]
    classes: int
    sha256: str
    source: str = ""

    def __post_init__(self):
        """Refuse data that would fail later, or would train without a sign of the mistake."""
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _checks.same_length(f"x_{part}", x, f"y_{part}", y)
            _checks.finite(f"x_{part}", x)
            _check_labels(f"y_{part}", y, self.classes)
        own, wanted = tuple(self.x_test.shape[1:]), tuple(self.x_train.shape[1:])
        fault = f"x_test has images of shape {own}: expected that of x_train, {wanted}; resize one of them"
        _checks.require(own == wanted, fault)

    def __repr__(self):
        c, h, w = self.x_train.shape[1:]
        sizes = f"{len(self.x_train)} + {len(self.x_test)} images of {c} x {h} x {w}"
        return f"Dataset({self.name}: {sizes}, {self.classes} classes)"


def _check_labels(name: str, y: Tensor, classes: int) -> None:
    fault = f"{name} has dtype {y.dtype}: expected torch.int64; convert whole numbers with .long()"
    _checks.require(y.dtype == torch.int64, fault)
    wrong = torch.nonzero((y < 0) | (y >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{name} has the label {int(y[row])} in row {row}: expected integers in [0, {classes - 1}]; "
            "number the classes from 0, and let each class of the test set occur in the training set"
        )


def load(
    name_or_path: str | os.PathLike,
    *,
    cache: str | os.PathLike | None = None,
    progress: bool = True,
    dtype: torch.dtype = torch.float32,
    labels: str | None = None,
) -> Dataset:
    """Load a data set; pixels are scaled to [0, 1].

    Parameters
    ----------
    name_or_path
        ``digits`` (8 x 8, comes with scikit-learn; a stratified fifth is the test set), ``mnist``, ``cifar10`` or
        ``cifar100`` (downloaded once), or the path of an ``.npz`` with the arrays ``x_train``, ``y_train``,
        ``x_test``, ``y_test``, and perhaps a text ``source``. Its images are (N, h, w), (N, c, h, w) or (N, h, w, c)
        with 1 or 3 channels, as bytes or as floats in [0, 1]; its labels are integers from 0 without a gap.
    cache
        Folder for downloads; by default the environment variable ``SGDVI_CACHE``, else the user's cache folder.
    progress
        Whether a download shows a progress bar.
    dtype
        Floating-point type of the images.
    labels
        ``compact`` numbers the labels of the training set 0, 1, 2, ... in their order; by default gaps are refused,
        as each would be an output of the network that no example has.

    Raises
    ------
    ValueError
        If the name is not known, an array is missing, pickled or of the wrong form, labels do not begin at 0 or have a
        gap (the message counts them), or a checksum fails.
    OSError
        If a file is missing or cannot be downloaded; nothing half-written is left.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> digits = data.load("digits")
    >>> digits
    Dataset(digits: 1437 + 360 images of 1 x 8 x 8, 10 classes)
    >>> digits.x_train.min().item(), digits.x_train.max().item()
    (0.0, 1.0)
    """
    name = os.fspath(name_or_path)
    floating = isinstance(dtype, torch.dtype) and dtype.is_floating_point
    _checks.argument("dtype", dtype, floating, "a floating-point type such as torch.float32")
    _checks.argument("labels", repr(labels), labels in (None, "compact"), "'compact', or None to leave them")
    if is_file(name):
        arrays, source = read_npz(Path(name).expanduser())
    elif name == "digits":
        arrays, source = digits(), "scikit-learn"
    else:
        _checks.one_of("name_or_path", name, (*NAMES, "PATH.npz"))
        folder = Path(cache or os.environ.get("SGDVI_CACHE") or pooch.os_cache("sgdvi")).expanduser()
        arrays, source = sources.fetch(name, folder, progress), sources.SOURCES[name].mirrors[0]
    arrays = canonical(arrays)
    arrays = arrays if name in sources.SOURCES else numbered(arrays, labels == "compact")
    classes = sources.SOURCES[name].classes if name in sources.SOURCES else int(arrays["y_train"].max(initial=0)) + 1
    tensors = {k: _scaled(k, a, dtype) if k[0] == "x" else torch.tensor(a) for k, a in arrays.items()}
    return Dataset(name=Path(name).stem, classes=classes, sha256=sha256(arrays), source=source, **tensors)


def is_file(name: str) -> bool:
    """Whether a data set's name is the path of a file."""
    return name.lower().endswith(".npz")


def _scaled(name: str, x: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Pixels in [0, 1]; floats are looked at as they came, as a smaller type may not hold them."""
    if x.dtype == np.uint8:
        return torch.tensor(x, dtype=dtype).div_(255)
    rows = np.flatnonzero(~np.isfinite(x).all(axis=(1, 2, 3)))
    fault = f"{name}: NaN or infinity in row {rows[:1].sum()}; expected floats in [0, 1]; remove or mend this image"
    _checks.require(not len(rows), fault)
    if ((x < 0) | (x > 1)).any():
        fault = f"{name} has floats from {x.min()} to {x.max()}: expected [0, 1]; divide by the largest value, and"
        raise ValueError(f"{fault} standardise after loading")
    return torch.tensor(x, dtype=dtype)

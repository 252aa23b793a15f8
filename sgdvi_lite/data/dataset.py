"""The data set as an object, from a name or a file, and its preprocessing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pooch
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sgdvi_lite import _checks
from sgdvi_lite.data import images, sources
from sgdvi_lite.data.arrays import canonical, digits, read_npz, sha256

NAMES = ("digits", *sources.SOURCES)
"""Names that :func:`load` knows."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Images and labels, for training and for testing.

    ``x_train`` and ``x_test`` are images (examples, channels, height, width), ``y_train`` and ``y_test`` their labels
    in 0, ..., ``classes`` - 1. ``sha256`` identifies the arrays as they were loaded, before any preprocessing.

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

    def __post_init__(self):
        """Refuse data that would fail later, or would train without a sign of the mistake."""
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            _checks.same_length(f"x_{part}", x, f"y_{part}", y)
            _checks.finite(f"x_{part}", x)
            _check_labels(f"y_{part}", y, self.classes)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise ValueError(
                f"x_test has images of shape {tuple(self.x_test.shape[1:])}: expected that of x_train, "
                f"{tuple(self.x_train.shape[1:])}; resize one of them"
            )

    def __repr__(self):
        c, h, w = self.x_train.shape[1:]
        sizes = f"{len(self.x_train)} + {len(self.x_test)} images of {c} x {h} x {w}"
        return f"Dataset({self.name}: {sizes}, {self.classes} classes)"


def _check_labels(name: str, y: Tensor, classes: int) -> None:
    if y.dtype != torch.int64:
        raise ValueError(f"{name} has dtype {y.dtype}: expected torch.int64; convert whole numbers with .long()")
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
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
) -> Dataset:
    """Load a data set; pixels are scaled to [0, 1].

    Parameters
    ----------
    name_or_path
        ``digits`` (8 x 8, comes with scikit-learn; a stratified fifth is the test set), ``mnist``, ``cifar10`` or
        ``cifar100`` (downloaded once), or the path of an ``.npz`` with the arrays ``x_train``, ``y_train``,
        ``x_test``, ``y_test``. Its images are (N, h, w), (N, c, h, w) or (N, h, w, c) with 1 or 3 channels, as bytes
        or as floats in [0, 1]; its labels are integers from 0.
    cache
        Folder for downloads; by default the environment variable ``SGDVI_CACHE``, else the user's cache folder.
    progress
        Whether a download shows a progress bar.
    dtype
        Floating-point type of the images.

    Raises
    ------
    ValueError
        If the name is not known, an array is missing, pickled or of the wrong form, or a checksum fails.
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
    name, classes = os.fspath(name_or_path), 10
    if name.endswith(".npz"):
        arrays, classes = read_npz(Path(name).expanduser()), None
    elif name == "digits":
        arrays = digits()
    else:
        _checks.one_of("name_or_path", name, (*NAMES, "PATH.npz"))
        arrays = sources.arrays(name, _cache_folder(cache), progress)
        classes = sources.SOURCES[name].classes
    return _from_arrays(Path(name).stem, arrays, classes, dtype)


def _cache_folder(cache: str | os.PathLike | None) -> Path:
    return Path(cache or os.environ.get("SGDVI_CACHE") or pooch.os_cache("sgdvi")).expanduser()


def _from_arrays(name: str, arrays: dict[str, np.ndarray], classes: int | None, dtype: torch.dtype) -> Dataset:
    if not dtype.is_floating_point:
        raise ValueError(f"dtype = {dtype}: expected a floating-point type such as torch.float32")
    arrays = canonical(arrays)
    if classes is None:
        classes = int(arrays["y_train"].max(initial=0)) + 1
    tensors = {k: _scaled(k, a, dtype) if k[0] == "x" else torch.tensor(a) for k, a in arrays.items()}
    return Dataset(name=name, classes=classes, sha256=sha256(arrays), **tensors)


def _scaled(name: str, x: np.ndarray, dtype: torch.dtype) -> Tensor:
    pixels = torch.tensor(x, dtype=dtype)
    if x.dtype == np.uint8:
        return pixels.div_(255)
    _checks.finite(name, pixels)
    if ((pixels < 0) | (pixels > 1)).any():
        raise ValueError(
            f"{name} has floats from {x.min()} to {x.max()}: expected [0, 1]; divide by the largest value, "
            "and standardise after loading"
        )
    return pixels


def first(dataset: Dataset, n: int, generator: torch.Generator | None = None) -> Dataset:
    """Keep the first ``n`` training images of a random order, drawn on the CPU; the test set stays.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import data
    >>> data.first(data.load("digits"), 100, torch.Generator().manual_seed(0))
    Dataset(digits: 100 + 360 images of 1 x 8 x 8, 10 classes)
    """
    N = len(dataset.x_train)
    _checks.count("n", n, high=N, remedy="ask for no more images than there are")
    rows = torch.randperm(N, generator=generator)[:n].to(dataset.x_train.device)
    return replace(dataset, x_train=dataset.x_train[rows], y_train=dataset.y_train[rows])


def class_subset(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """Keep the images of some classes; ``classes[i]`` gets the new label ``i``.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> data.class_subset(data.load("digits"), [0, 1, 2, 3, 4])
    Dataset(digits: 721 + 180 images of 1 x 8 x 8, 5 classes)
    """
    known = range(dataset.classes)
    if not classes or len(set(classes)) != len(classes) or not set(classes) <= set(known):
        raise ValueError(f"classes = {list(classes)}: expected different labels in [0, {dataset.classes - 1}]")
    new = torch.full((dataset.classes,), -1, device=dataset.y_train.device)
    new[list(classes)] = torch.arange(len(classes), device=new.device)
    train, test = new[dataset.y_train], new[dataset.y_test]
    return replace(
        dataset,
        x_train=dataset.x_train[train >= 0],
        y_train=train[train >= 0],
        x_test=dataset.x_test[test >= 0],
        y_test=test[test >= 0],
        classes=len(classes),
    )


def average_pool(dataset: Dataset, size: int) -> Dataset:
    """Shrink the images to ``size`` x ``size`` pixels, each the mean of a rectangle; from 28 to 7, of 4 x 4 pixels.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> data.average_pool(data.load("digits"), 2)
    Dataset(digits: 1437 + 360 images of 1 x 2 x 2, 10 classes)
    """
    h, w = dataset.x_train.shape[2:]
    _checks.count("size", size, high=min(h, w))
    if h % size or w % size:
        allowed = [s for s in range(1, min(h, w) + 1) if h % s == 0 and w % s == 0]
        raise ValueError(f"size = {size}: expected a divisor of {h} and {w}, one of {allowed}")
    return _map(dataset, lambda x: avg_pool2d(x, (h // size, w // size)))


def standardise(dataset: Dataset) -> Dataset:
    r"""Shift and scale each channel so that its training pixels have mean 0 and variance 1.

    :math:`x_{ncij} \mapsto (x_{ncij} - m_c) / s_c`, with the mean :math:`m_c` and the standard deviation :math:`s_c`
    (normalised by their number) over all pixels of channel c in the training images, in float64.

    Raises
    ------
    ValueError
        If a channel is constant.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> digits = data.standardise(data.load("digits"))
    >>> abs(digits.x_train.mean().item()) < 1e-6, round(digits.x_train.std().item(), 4)
    (True, 1.0)
    """
    channels = [channel.double() for channel in dataset.x_train.unbind(1)]  # one at a time in float64: less memory
    mean = torch.stack([channel.mean() for channel in channels])[:, None, None]
    std = torch.stack([channel.std(correction=0) for channel in channels])[:, None, None]
    if (std < images.CONSTANT).any():
        raise ValueError(f"x_train: channel {int(std.argmin())} is constant; expected it to vary, so leave it out")
    return _map(dataset, lambda x: x.sub(mean.to(x.dtype)).div_(std.to(x.dtype)))


def gcn_zca(dataset: Dataset, epsilon: float = 0.1) -> Dataset:
    r"""Global contrast normalisation, then ZCA whitening: the preprocessing of CIFAR in the paper.

    Each image, as a vector of its p pixels in all channels, first gets mean 0 and variance 1 over its own pixels
    (a constant image becomes 0). Then :math:`x \mapsto (C + \epsilon I)^{-1/2} (x - m)` with the mean m and the
    covariance C, normalised by 1/N, of the training images. The covariance becomes :math:`C (C + \epsilon I)^{-1}`: the
    identity where the eigenvalues of C are well above epsilon. C is always singular, as every image has mean 0.

    Parameters
    ----------
    dataset
        Images; whitening takes O(N p^2 + p^3) operations in float64, and memory for two p x p matrices besides the
        images (p = 3072 for CIFAR).
    epsilon
        Regularisation, > 0. The customary 0.1 belongs to this normalisation.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> white = data.gcn_zca(data.load("digits"), epsilon=1e-6)
    >>> variance = white.x_train.flatten(1).T.cov().diagonal()
    >>> round(variance.median().item(), 1)
    1.0
    """
    _checks.positive("epsilon", epsilon)
    mean, whitener = images.zca(dataset.x_train, epsilon)
    return _map(dataset, lambda x: images.by_chunks(lambda part: (images.contrast(part) - mean) @ whitener, x))


def augment(x: Float[Tensor, "n c h w"], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Shift each image by up to an eighth of its side in both directions, zeros moving in, and mirror half of them.

    The paper augments CIFAR in this way. The random numbers are drawn on the CPU.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import data
    >>> data.augment(torch.ones(5, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 32, 32])
    """
    n, _, h, w = x.shape
    reach = (h // 8, w // 8)
    padded = pad(x, (reach[1], reach[1], reach[0], reach[0]))
    top, left = (torch.randint(2 * r + 1, (n, 1), generator=generator) for r in reach)
    rows, columns = top + torch.arange(h), left + torch.arange(w)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    picked = [t.to(x.device) for t in (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])]
    return padded.permute(0, 2, 3, 1)[*picked].permute(0, 3, 1, 2)


def _map(dataset: Dataset, function: Callable[[Tensor], Tensor]) -> Dataset:
    return replace(dataset, x_train=function(dataset.x_train), x_test=function(dataset.x_test))

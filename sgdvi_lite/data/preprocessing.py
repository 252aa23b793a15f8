"""Preprocessing: fewer images or classes, smaller images, standardised, whitened or augmented ones."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sgdvi_lite import _checks
from sgdvi_lite.data.dataset import Dataset

CHUNK = 2000  # how many images are whitened at a time: in float64 they take 50 MB at CIFAR's size
CONSTANT = 1e-8  # an image, or a channel, with a standard deviation below this is constant up to rounding


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
    good = classes and len(set(classes)) == len(classes) and set(classes) <= set(range(dataset.classes))
    _checks.argument("classes", list(classes), good, f"different labels in [0, {dataset.classes - 1}]")
    new = torch.full((dataset.classes,), -1, device=dataset.y_train.device)
    new[list(classes)] = torch.arange(len(classes), device=new.device)
    parts = {}
    for part in ("train", "test"):
        y = new[getattr(dataset, f"y_{part}")]
        parts |= {f"x_{part}": getattr(dataset, f"x_{part}")[y >= 0], f"y_{part}": y[y >= 0]}
    return replace(dataset, classes=len(classes), **parts)


def overflow(dataset: Dataset) -> Dataset:
    """Multiply the bytes of the images by 255, modulo 256: what is left of a digit is its outline.

    This happens to floats in [0, 255] that ``torchvision.transforms.ToPILImage`` takes for floats in [0, 1] and turns
    into bytes; the authors' code (loader.py and prob_current.py, commit d84c225) gives it such. See chapter 9.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> digits = data.load("digits")
    >>> pixels = data.overflow(digits).x_train
    >>> bool(((pixels == 0) == (digits.x_train == 0)).all()), round(255 * pixels[digits.x_train == 1].max().item())
    (True, 1)
    """
    return _map(dataset, lambda x: x.mul(255).round_().mul_(255).remainder_(256).div_(255))


def average_pool(dataset: Dataset, size: int, *, name: str = "size") -> Dataset:
    """Shrink the images to ``size`` x ``size`` pixels, each the mean of a rectangle; from 28 to 7, of 4 x 4 pixels.

    Errors call the size by its ``name``.

    Examples
    --------
    >>> from sgdvi_lite import data
    >>> data.average_pool(data.load("digits"), 2)
    Dataset(digits: 1437 + 360 images of 1 x 2 x 2, 10 classes)
    """
    h, w = dataset.x_train.shape[2:]
    _checks.count(name, size, high=min(h, w))
    allowed = [s for s in range(1, min(h, w) + 1) if h % s == 0 and w % s == 0]
    _checks.argument(name, size, size in allowed, f"a divisor of {h} and {w}, one of {allowed}")
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
    fault = f"x_train: channel {int(std.argmin())} is constant; expected it to vary, so leave it out"
    _checks.require(std.min() >= CONSTANT, fault)
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
    mean, whitener = _zca(dataset.x_train, epsilon)
    return _map(dataset, lambda x: _by_chunks(lambda part: (_contrast(part) - mean) @ whitener, x))


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
    rows = top + torch.arange(h)
    columns = left + torch.arange(w)
    mirrored = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    pixels = [t.to(x.device) for t in (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])]
    return padded.permute(0, 2, 3, 1)[*pixels].permute(0, 3, 1, 2)


def _map(dataset: Dataset, function: Callable[[Tensor], Tensor]) -> Dataset:
    return replace(dataset, x_train=function(dataset.x_train), x_test=function(dataset.x_test))


def _zca(x: Float[Tensor, "N c h w"], epsilon: float) -> tuple[Float64[Tensor, " p"], Float64[Tensor, "p p"]]:
    """Mean and whitening matrix of contrast-normalised images, ``(C + epsilon I)^(-1/2)``."""
    mean = sum(_contrast(part).sum(0) for part in x.split(CHUNK)) / len(x)
    centred = (_contrast(part) - mean for part in x.split(CHUNK))
    covariance = sum(part.T @ part for part in centred) / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    return mean, (vectors * (values.clamp_min(0) + epsilon).rsqrt()) @ vectors.T


def _contrast(x: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n p"]:
    """Mean 0 and variance 1 within each image; 0 where it is constant."""
    x = x.flatten(1).double()
    x = x - x.mean(1, keepdim=True)
    std = x.square().mean(1, keepdim=True).sqrt()
    return torch.where(std > CONSTANT, x / std, torch.zeros_like(x))


def _by_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to a large array, part by part, into one new array."""
    out = torch.empty_like(x)
    for part, result in zip(x.split(CHUNK), out.split(CHUNK), strict=True):
        result.copy_(function(part).view_as(part))
    return out

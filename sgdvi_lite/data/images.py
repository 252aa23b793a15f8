"""Contrast and whitening of images as arrays, in parts that fit the memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

CHUNK = 2000
CONSTANT = 1e-8
"""An image of which the standard deviation is below this is constant up to rounding."""


def zca(x: Float[Tensor, "N c h w"], epsilon: float) -> tuple[Float64[Tensor, " p"], Float64[Tensor, "p p"]]:
    """Mean and whitening matrix of contrast-normalised images, ``(C + epsilon I)^(-1/2)``."""
    mean = sum(contrast(part).sum(0) for part in x.split(CHUNK)) / len(x)
    centred = (contrast(part) - mean for part in x.split(CHUNK))
    covariance = sum(part.T @ part for part in centred) / len(x)
    values, vectors = torch.linalg.eigh(covariance)
    return mean, (vectors * (values.clamp_min(0) + epsilon).rsqrt()) @ vectors.T


def contrast(x: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n p"]:
    """Mean 0 and variance 1 within each image; 0 where it is constant."""
    x = x.flatten(1).double()
    x = x - x.mean(1, keepdim=True)
    std = x.square().mean(1, keepdim=True).sqrt()
    return torch.where(std > CONSTANT, x / std, torch.zeros_like(x))


def by_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to a large array, part by part, into one new array."""
    out = torch.empty_like(x)
    for part, result in zip(x.split(CHUNK), out.split(CHUNK), strict=True):
        result.copy_(function(part).view_as(part))
    return out

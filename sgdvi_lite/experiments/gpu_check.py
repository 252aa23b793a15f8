"""The check of a GPU: whether it computes ``D`` right, and how fast, in a few minutes.

A network is trained for an epoch; some of its gradients are compared with float64, the trace of a large ``D`` with that
of another back-end. The numbers are saved as those of the experiments. What else can go wrong is in ``tests/devices``.
"""

import copy
import math
import re
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from sgdvi_lite import _checks, data, gradients, nets, results, sgd
from sgdvi_lite._storage.files import digest
from sgdvi_lite.diffusion import DiffusionMatrix
from sgdvi_lite.tables import Table

NAME = "gpu-check"
SAMPLE = 64  # gradients that are compared with float64 on the CPU
# Float32 departs from float64 by 1e-7, with TF32 by 1e-4
GRADIENTS = 1e-5
# Two ways of adding up all gradients in float32
TRACES = 1e-4

Rows = list[tuple[str, float, float]]  # what was measured, and up to where it is right: infinity for a mere number


def run(folder: str | Path, *, dataset: str | None = None, examples: int = 50_000, progress: bool = True) -> Path:
    """Check the GPU and return the result's file.

    Parameters
    ----------
    folder
        Where the result goes; made if missing.
    dataset
        Name or file of the images; by default they are random, with labels that can be learnt.
    examples
        Of ``D``.
    progress
        Whether to show progress bars.

    Raises
    ------
    ValueError
        If torch sees no GPU; if the number or the data are wrong.
    """
    fault = f"device = 'cuda': torch {torch.__version__} sees none here; take a machine with a GPU, and torch for CUDA"
    _checks.require(torch.cuda.is_available(), fault)
    _checks.count("examples", examples, low=2)
    x, y, sha256 = _images(dataset, examples)
    began, device = time.monotonic(), torch.cuda.get_device_name("cuda")
    checks, values, limits = map(np.array, zip(*_measured(x, y, progress), strict=True))
    note = {"preset": NAME, "seed": 0, "data_sha256": sha256, "device": "cuda", "experiment": NAME}
    note["settings"] = {"data": dataset or "random", "examples": len(x)}
    note = results.provenance(wall_seconds=time.monotonic() - began, **note)
    path = Path(folder) / f"{NAME}-{re.sub('[^a-z0-9]+', '-', device.lower())}.npz"
    return results.save(path, {"check": checks, "value": values, "limit": limits}, note)


def right(result: results.Result) -> np.ndarray:
    """Which of the checks were passed."""
    return result.arrays["value"] <= result.arrays["limit"]


def table(result: results.Result) -> Table:
    """What was measured, and whether it is right."""
    columns = [array.tolist() for array in (*map(result.arrays.get, ("check", "value", "limit")), right(result))]
    verdicts = {True: "right", False: "WRONG"}
    rows = [
        (check, f"{value:.4g}", "" if limit == math.inf else f"<= {limit:g}: {verdicts[good]}")
        for check, value, limit, good in zip(*columns, strict=True)
    ]
    return Table(["check", "value", "expected"], rows)


def _images(name: str | None, n: int) -> tuple[Tensor, Tensor, str]:
    """At most ``n`` images and labels: of a data set, or smooth random ones in classes that are linear."""
    if name is not None:
        images = data.standardise(data.load(name))
        return images.x_train[:n], images.y_train[:n], images.sha256
    g = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 3, 8, 8, generator=g)
    y = (coarse.flatten(1) @ torch.randn(192, 10, generator=g)).argmax(1)
    return interpolate(coarse, scale_factor=4, mode="bilinear"), y, digest(coarse, y)


def _measured(x: Tensor, y: Tensor, progress: bool) -> Rows:
    """D of small-allcnn after an epoch of training, its seconds, and what tells whether it is right."""
    g, x, y = torch.Generator().manual_seed(2), x.cuda(), y.cuda()
    model = nets.build("small-allcnn", in_shape=tuple(x.shape[1:]), classes=int(y.max()) + 1, generator=g).cuda()
    options = {"lr": 0.05, "momentum": 0.9, "batch_size": min(128, len(x)), "generator": g, "progress": progress}
    sgd.run(model, cross_entropy, x, y, epochs=1, **options)
    began = time.monotonic()
    D = DiffusionMatrix.from_model(model, cross_entropy, x, y, progress=progress)
    numbers = [D.rank(), *D.mean_and_std(), time.monotonic() - began]
    names = ("rank", "mean eigenvalue", "deviation of the eigenvalues", "seconds")
    other = DiffusionMatrix.from_model(model, cross_entropy, x, y, "recomputed", progress=progress).trace()
    title = f"D, N = {len(x):,}, d = {D.shape[0]:,}: "
    rows = [(title + name, float(number), math.inf) for name, number in zip(names, numbers, strict=True)]
    rows.append((f"{title}trace beside that of 'recomputed'", abs(other / D.trace() - 1), TRACES))
    return [*rows, ("gradients beside float64", _error(model, x[:SAMPLE], y[:SAMPLE]), GRADIENTS)]


def _error(model: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """How far the worst layer is from float64 on the CPU, in the middle example: a unit at its kink spoils only one."""
    found = gradients.per_example_gradients(model, cross_entropy, x, y).cpu().double()
    twin = copy.deepcopy(model).cpu().double()
    exact = gradients.per_example_gradients(twin, cross_entropy, x.cpu().double(), y.cpu())
    widths = [p.numel() for p in model.parameters()]
    layers = zip((found - exact).split(widths, 1), exact.split(widths, 1), strict=True)
    return max((error.norm(dim=1).median() / true.norm(dim=1).max()).item() for error, true in layers)

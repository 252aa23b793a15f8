"""The check of a GPU: what only one can show, in a few minutes; a check that was stopped goes on with what is left.

The gradients of the networks beside float64, rank and moments of a large ``D`` with its seconds, a recorded run that is
stopped and resumed. The numbers are saved as those of the experiments.
"""

import math
import re
import shutil
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from sgdvi_lite import _checks, data, gradients, nets, results, sgd
from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import Folder, Kind
from sgdvi_lite.diffusion import DiffusionMatrix
from sgdvi_lite.tables import Table

NAME = "gpu-check"
KIND = Kind("check.json", "check of a GPU")
SHAPES = {"small-lenet": (1, 28, 28), "small-fc": (1, 7, 7), "tiny-fc": (1, 7, 7), "small-allcnn": (3, 32, 32)}
# Float32 departs from float64 by 1e-7, with TF32 by 1e-4
GRADIENTS = 1e-5
# Two ways of adding up all gradients in float32
TRACES = 1e-4

Rows = list[tuple[str, float, float]]  # what was measured, and up to where it is right: infinity for a mere number


def run(
    folder: str | Path, *, dataset: str | None = None, examples: int = 50_000, steps: int = 2000, progress: bool = True
) -> Path:
    """Check the GPU, or go on with a check that was stopped, and return its result's file.

    Parameters
    ----------
    folder
        Where the result goes; made if missing.
    dataset
        Name or file of the images of ``D``; by default they are random, with labels that can be learnt.
    examples, steps
        Of ``D``, and of the recorded run.
    progress
        Whether to show progress bars.

    Raises
    ------
    ValueError
        If torch sees no GPU; if a size or the data are wrong.
    """
    fault = f"device = 'cuda': torch {torch.__version__} sees none here; take a machine with a GPU, and torch for CUDA"
    _checks.require(torch.cuda.is_available(), fault)
    _checks.count("examples", examples, low=2)
    _checks.count("steps", steps, low=100)
    x, y, sha256 = _images(dataset, examples)
    device = torch.cuda.get_device_name("cuda")
    path = Path(folder) / f"{NAME}-{re.sub('[^a-z0-9]+', '-', device.lower())}.npz"
    kept, told = path.with_suffix(".partial"), {"data": dataset or "random", "examples": len(x), "steps": steps}
    parts = {name: partial(_gradients, name) for name in SHAPES}
    parts |= {"D": partial(_matrix, x, y, progress), "recording": partial(_resumed, kept, steps)}
    rows: Rows = []
    with closing(Folder(kept, KIND, told | {"data_sha256": sha256, "device": device})) as store:
        for name, part in parts.items():
            state = store.load(name) or {"rows": part()}
            store.save(name, state)
            rows += state["rows"]
    checks, values, limits = map(np.array, zip(*rows, strict=True))
    note = {"preset": NAME, "seed": 0, "data_sha256": sha256, "device": "cuda", "experiment": NAME, "settings": told}
    note = results.provenance(wall_seconds=store.stopwatch.seconds, **note)
    results.save(path, {"check": checks, "value": values, "limit": limits}, note)
    shutil.rmtree(kept, ignore_errors=True)
    return path


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


def _problem(name: str, n: int, g: torch.Generator) -> tuple[nn.Module, Tensor, Tensor]:
    model = nets.build(name, in_shape=SHAPES[name], classes=10, generator=g)
    return model, torch.randn(n, *SHAPES[name], generator=g), torch.randint(10, (n,), generator=g)


def _gradients(name: str) -> Rows:
    """How far the worst layer is from float64 on the CPU, in the middle example: a unit at its kink spoils only one."""
    model, x, y = _problem(name, 64, torch.Generator().manual_seed(1))
    found = gradients.per_example_gradients(model.eval().cuda(), cross_entropy, x.cuda(), y.cuda()).cpu().double()
    exact = gradients.per_example_gradients(model.cpu().double(), cross_entropy, x.double(), y)
    widths = [p.numel() for p in model.parameters()]
    layers = zip((found - exact).split(widths, 1), exact.split(widths, 1), strict=True)
    worst = max((error.norm(dim=1).median() / true.norm(dim=1).max()).item() for error, true in layers)
    return [(f"gradients of {name} beside float64", worst, GRADIENTS)]


def _matrix(x: Tensor, y: Tensor, progress: bool) -> Rows:
    """D of small-allcnn after an epoch of training."""
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
    return [*rows, (f"{title}trace beside that of 'recomputed'", abs(other / D.trace() - 1), TRACES)]


def _resumed(folder: Path, steps: int) -> Rows:
    """How far a recorded run that ended half-way and was made longer is from one that was not."""
    half = steps // 2
    whole, _, resumed = (_record(folder / name, n, half) for name, n in (("whole", 2), ("two", 1), ("two", 2)))
    difference = float(abs(resumed - whole).max())
    return [("a recorded run, stopped and resumed, beside one that was not", difference, 0.0)]


def _record(folder: Path, snapshots: int, every: int) -> np.ndarray:
    """The recorded weights of a run of tiny-fc."""
    g = torch.Generator().manual_seed(3)
    model, x, y = _problem("tiny-fc", 500, g)
    options = {"lr": 0.05, "momentum": 0.9, "batch_size": 50, "generator": g, "progress": False}
    options |= {"n_steps": snapshots * every, "every": every}
    return sgd.record(model.cuda(), cross_entropy, x.cuda(), y.cuda(), folder, **options).weights

"""Long runs of constant-step SGD with snapshots of the weights on disk; killed at any point, they go on bit for bit."""

import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import read_header
from sgdvi_lite.gradients import Loss
from sgdvi_lite.sgd.engines.autograd import Autograd
from sgdvi_lite.sgd.engines.fully_connected import FullyConnected, applies
from sgdvi_lite.sgd.loop import RUN, Run, Settings, Store

DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


@dataclass(frozen=True)
class Recording:
    """What a run has recorded so far; the arrays are read-only views of its files.

    ``weights`` ``(1 + n, d)`` holds the flat weights, in the order of :func:`sgdvi_lite.nets.flat_parameters`, at the
    steps ``steps`` ``(1 + n,)``, from 0 on. ``log`` ``(n, 4)`` holds means over the ``every`` steps up to each snapshot
    but the first: the loss of the batch (without weight decay), w.g, v.v and v.g, with ``w`` the weights before the
    step, ``g`` the gradient of the batch (weight decay included), ``v`` the velocity after the step in v.v and before
    it in v.g. ``run`` has the settings, ``engine`` says how the steps were computed, ``done`` how many are recorded,
    and ``diverged`` the step in which the loss ceased to be finite, or None.
    """

    folder: Path
    run: dict
    engine: str
    done: int
    diverged: int | None
    weights: np.ndarray
    log: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """Step number of each snapshot ``(1 + n,)``."""
        return np.arange(len(self.weights)) * self.run["every"]

    @property
    def loss(self) -> np.ndarray:
        """Mean loss of the batches between two snapshots ``(n,)``."""
        return self.log[:, 0]

    def balance(self) -> tuple[np.ndarray, np.ndarray]:
        """Both sides of Yaida's relation, ``(n,)`` each, for :func:`sgdvi_lite.series.stationarity`."""
        lr, momentum = self.run["lr"], self.run["momentum"]
        left = self.log[:, 1] + (lr * momentum * self.log[:, 3] if self.run["nesterov"] else 0.0)
        return left, lr * (1 + momentum) / 2 * self.log[:, 2]


def open_recording(folder: str | Path) -> Recording:
    """Read what a run has recorded up to its last checkpoint; it may still be running, or have been killed.

    Raises
    ------
    FileNotFoundError
        If there is no recorded run, or none with a checkpoint yet.
    """
    folder = Path(folder)
    if not (folder / RUN.header).is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: no recorded run is there; sgd.record makes one")
    run = read_header(folder, RUN)["run"]
    if not (folder / "state.pt").is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: the run there has no checkpoint yet; let it go on")
    state = torch.load(folder / "state.pt", weights_only=True)
    rows = 1 + state["recorded"]
    weights, log = (np.load(folder / f"{name}.npy", mmap_mode="r")[:rows] for name in ("weights", "log"))
    return Recording(folder, run, run["engine"], state["recorded"] * run["every"], state["diverged"], weights, log[1:])


def record(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    folder: str | Path,
    *,
    n_steps: int,
    every: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    sampling: str = "reshuffled",
    engine: str = "auto",
    checkpoint_seconds: float = 30.0,
    progress: bool = True,
) -> Recording:
    """Run SGD with a constant step in training mode and record the weights; the same call goes on with a killed run.

    Parameters
    ----------
    model
        The network, float32 or float64; at the end it has the last weights and is in evaluation mode.
    loss
        Maps the outputs and targets of a batch to its mean loss.
    x, y
        The training examples, ``N`` of each, on the network's device.
    folder
        Where the recording goes; made if missing. It takes ``(1 + n_steps / every) d`` numbers, which are reserved
        before the first step.
    n_steps, every
        Steps, and steps from one snapshot to the next; ``every`` divides ``n_steps``. An epoch has ``N // batch_size``.
    lr, momentum, nesterov, weight_decay
        As in :class:`torch.optim.SGD`, constant.
    batch_size, sampling
        As in :func:`batches`.
    generator
        CPU generator of the batches and of dropout. Epochs draw as those of :class:`SGD`.
    engine
        ``auto``: for [Flatten], (Linear, [BatchNorm1d], ReLU)*, Linear with cross entropy on the CPU, forward and
        backward passes by hand; ``autograd`` for all else, or always if asked. ``Recording.engine`` and the
        progress bar say which.
    checkpoint_seconds
        Time between checkpoints; at most that much is done again after a kill.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        Before any work, if an argument is out of its range, or the folder holds another run or other files; these
        are never changed.
    OSError
        Before any work, if the disk has no room for the recording.
    BlockingIOError
        If another process is recording into the folder.
    FloatingPointError
        If the loss or a weight becomes NaN or infinite: the step is named. The snapshots before it stay;
        :func:`open_recording` reads them.

    Notes
    -----
    Equality to the last bit needs the same machine, versions and number of threads; the last is restored. Steps by hand
    run on one thread. Chapter 10 uses the recordings.

    Examples
    --------
    >>> import tempfile, torch
    >>> from sgdvi_lite import data, nets, sgd
    >>> digits, g = data.load("digits"), torch.Generator().manual_seed(0)
    >>> net = nets.build("tiny-fc", in_shape=(1, 8, 8), classes=10, generator=g)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = sgd.record(net, torch.nn.functional.cross_entropy, digits.x_train, digits.y_train, folder, lr=0.1,
    ...                       n_steps=300, every=10, batch_size=64, generator=g, progress=False)
    ...     made.weights.shape, made.engine, bool(made.loss[-1] < made.loss[0])
    ((31, 1546), 'fully connected, by hand', True)
    """
    _checks.same_length("x", x, "y", y)
    rates = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    order = {"N": len(x), "batch_size": batch_size, "sampling": sampling}
    settings = Settings(n_steps=n_steps, every=every, engine=engine, **rates, **order)
    dtypes = {p.dtype for p in model.parameters()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ValueError(f"model has weights of {dtypes}: expected one of torch.float32, torch.float64 for all of them")
    model.train()
    kind = FullyConnected if engine == "auto" and applies(model, loss, x, y, batch_size) else Autograd
    run = asdict(settings) | {"engine": kind.name} | _fingerprint(model, loss, x, y, generator)
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    threads = torch.get_num_threads()
    store = Store(folder, run, {"threads": threads, "versions": versions}, DTYPES[dtypes.pop()])
    steps = kind(model, loss, x, y, settings)
    try:
        torch.set_num_threads(store.header["made"]["threads"])  # those with which the run began
        with torch.random.fork_rng(), np.errstate(all="ignore"), threadpool_limits(kind.blas_threads, "blas"):
            Run(steps, store, settings, generator, checkpoint_seconds).go(progress)
    finally:
        torch.set_num_threads(threads)
        steps.finish()
        store.close()
        model.eval()
    return open_recording(folder)


def _fingerprint(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, generator: torch.Generator) -> dict:
    """What else decides the numbers of a run: where it starts, on which data, with which random numbers."""
    return {
        "d": nets.count_parameters(model),
        "device": x.device.type,
        "network": str(model),
        "loss": getattr(loss, "__qualname__", type(loss).__qualname__),
        "start_sha256": digest(*model.state_dict().values()),
        "data_sha256": digest(x, y),
        "generator_sha256": digest(generator.get_state()),
    }

"""Long runs of constant-step SGD with snapshots of the weights on disk; killed at any point, they go on bit for bit."""

import platform
import warnings
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import read_header, read_state
from sgdvi_lite.gradients import Loss
from sgdvi_lite.gradients.conditions import repeatable
from sgdvi_lite.sgd import conditions
from sgdvi_lite.sgd.conditions import Array
from sgdvi_lite.sgd.contract import Settings, is_at, load_network
from sgdvi_lite.sgd.engines.choice import choose, what_is_computed
from sgdvi_lite.sgd.loop import Run
from sgdvi_lite.sgd.sampling import Real, Whole, number
from sgdvi_lite.sgd.store import RUN, Store, arrays, read_checkpoint

DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


@dataclass(frozen=True, eq=False)
class Recording:
    """What a run has recorded so far; the arrays are read-only views of its files.

    ``weights`` ``(1 + n, d)`` holds the flat weights, in the order of :func:`sgdvi_lite.nets.flat_parameters`, at the
    steps ``steps`` ``(1 + n,)``, from 0 on. ``log`` ``(n, 4)`` holds means over the ``every`` steps up to each snapshot
    but the first: the loss of the batch (without weight decay), w.g, v.v and v.g, with ``w`` the weights before the
    step, ``g`` the gradient of the batch (weight decay included), ``v`` the velocity after the step in v.v and before
    it in v.g. ``run`` has the settings, ``engine`` says how the steps were computed, ``done`` how many are recorded,
    and ``diverged`` the step in which the loss or a weight ceased to be finite, or None.
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
        """Both sides of Yaida's relation, ``(n,)`` each, for :func:`sgdvi_lite.series.stationarity`.

        They are infinite where a run that diverged left numbers whose products exceed the range of floats.
        """
        lr, momentum = self.run["lr"], self.run["momentum"]
        with np.errstate(over="ignore", invalid="ignore"):
            left = self.log[:, 1] + (lr * momentum * self.log[:, 3] if self.run["nesterov"] else 0.0)
            return left, lr * (1 + momentum) / 2 * self.log[:, 2]


def open_recording(folder: str | Path) -> Recording:
    """Read what a run has recorded up to its last checkpoint; it may still be running, or have been killed.

    All that is read is compared with the checksums that were written with it. The network's device is not needed.

    Raises
    ------
    FileNotFoundError
        If there is no recorded run, or none with a checkpoint yet.
    ValueError
        If a file is damaged; it is named.
    """
    folder = Path(folder)
    if not (folder / RUN.header).is_file():
        raise FileNotFoundError(f"folder = {str(folder)!r}: no recorded run is there; sgd.record makes one")
    run, state = read_header(folder, RUN)["run"], read_checkpoint(folder)
    if state is None:
        raise FileNotFoundError(f"folder = {str(folder)!r}: the run there has no checkpoint yet; let it go on")
    weights, log = arrays(folder, run, state)
    return Recording(folder, run, run["engine"], state["recorded"] * run["every"], state["diverged"], weights, log[1:])


def record(
    model: nn.Module,
    loss: Loss,
    x: Array,
    y: Array,
    folder: str | Path,
    *,
    n_steps: Whole,
    every: Whole,
    lr: Real,
    batch_size: Whole,
    generator: torch.Generator,
    momentum: Real = 0.0,
    nesterov: bool | np.bool_ = False,
    weight_decay: Real = 0.0,
    sampling: str = "reshuffled",
    engine: str = "auto",
    checkpoint_seconds: float = 30.0,
    progress: bool = True,
) -> Recording:
    """Run SGD with a constant step in training mode and record the weights; the same call goes on with a killed run.

    Parameters
    ----------
    model
        The network, float32 or float64; at the end it has the last weights and is in evaluation mode. A call that
        fails or is stopped leaves it, and the generator, as they were.
    loss
        Maps the outputs and targets of a batch to its mean loss. It is tried on a few batches before the first step:
        a run is known by what network and loss compute there, not by their names.
    x, y
        The training examples, ``N`` of each, on the network's device; NumPy's arrays for one on the CPU.
    folder
        Where the recording goes; made if missing. It takes ``(1 + n_steps / every) d`` numbers, which are reserved
        before the first step. A call that fails before its first checkpoint leaves nothing there.
    n_steps, every
        Steps, and steps from one snapshot to the next; ``every`` divides ``n_steps``. An epoch has ``N // batch_size``.
        With more steps than before a run is made longer: to the last bit the one that had so many from the beginning.
    lr, momentum, nesterov, weight_decay
        As in :class:`torch.optim.SGD`, constant.
    batch_size, sampling
        As in :func:`batches`.
    generator
        CPU generator of the batches and of dropout. Epochs draw as those of :class:`SGD`.
    engine
        ``auto``: for [Flatten], (Linear, [BatchNorm1d], ReLU)*, Linear with cross entropy on the CPU, forward and
        backward passes by hand, if two steps agree with autograd's; ``autograd`` for all else, or always if asked.
        ``Recording.engine`` and the progress bar say which.
    checkpoint_seconds
        Time between checkpoints; at most that much is done again after a kill.
    progress
        Whether to show a progress bar.

    Raises
    ------
    ValueError
        Before a step is recorded, if an argument is out of its range, model, ``x`` and ``y`` lie on different devices,
        or the folder holds another run, damaged or other files; these are never changed.
    OSError
        Before a step is recorded, if the disk has no room for the recording; later, if it has none for a checkpoint.
    BlockingIOError
        If another process is recording into the folder.
    FloatingPointError
        If the loss or a weight becomes NaN or infinite: the step is named. The snapshots before it stay;
        :func:`open_recording` reads them.

    Notes
    -----
    A finished run is returned without a step, also from a disk that can only be read. So the same cell of a notebook
    can be run twice: a network or a generator that is where the run has left it goes back to its start first, and a
    warning says so.

    Equality to the last bit needs the same machine, versions and number of threads; the last is restored. Steps by hand
    run on one thread. On a GPU cuDNN is told to choose deterministic algorithms; for other operations that add in any
    order, such as ``index_add``, call ``torch.use_deterministic_algorithms``. A GPU does not pay for networks as
    small as tiny-fc: a step there is many small operations. Chapter 10 uses the recordings.

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
    x, y = conditions.examples(model, x, y, generator)
    asked = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
    asked |= {"n_steps": n_steps, "every": every, "batch_size": batch_size, "sampling": sampling, "engine": engine}
    settings = Settings(N=len(x), **{name: number(value) for name, value in asked.items()})
    hooked = [name for name, p in model.named_parameters() if getattr(p, "_post_accumulate_grad_hooks", None)]
    _checks.require(
        not hooked,
        f"model: {', '.join(hooked)} has a hook that runs when its gradient is accumulated: expected none, as it would "
        "not be called; use register_hook, or sgd.run",
    )
    dtype = _dtype(model)
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    made = {"threads": torch.get_num_threads(), "versions": versions}
    made |= {"network": str(model), "loss": getattr(loss, "__qualname__", str(loss))}  # names tell less than `computes`
    with conditions.undone(model, generator), repeatable(x.device):
        _rewind(Path(folder), model, generator)
        kind = choose(model.train(), loss, x, y, settings)
        run = asdict(settings) | {"engine": kind.name} | _fingerprint(model, loss, x, y, generator)
        run["computes"] = what_is_computed(model, loss, x, y, settings)
        with closing(Store(folder, run, made, dtype)) as store:
            if store.state:
                load_network(model, store.state["engine"])
            if not store.ended:
                torch.set_num_threads(store.header["made"]["threads"])  # those with which the run began
                steps = kind(model, loss, x, y, settings)
                with np.errstate(all="ignore"), threadpool_limits(kind.blas_threads, "blas"):
                    Run(steps, store, settings, generator, checkpoint_seconds).go(progress)
    end = store.state
    if end["diverged"]:
        told = f"the loss or a weight became NaN or infinite in step {end['diverged']}: lower lr = {settings.lr}; the "
        left = f"snapshots up to step {end['recorded'] * settings.every} stay in {str(store.path)!r}"
        raise FloatingPointError(told + left)
    load_network(model.eval(), end["engine"])
    generator.set_state(end["generator"])
    return open_recording(folder)


def _dtype(model: nn.Module) -> np.dtype:
    """That of all weights, which must not share memory: a step would move what they share twice, or tear it apart."""
    dtypes = {p.dtype for p in model.parameters()}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        raise ValueError(f"model has weights of {dtypes}: expected one of torch.float32, torch.float64 for all of them")
    places = [p.data_ptr() for p in model.parameters() if p.data_ptr()]
    shared = len(places) - len(set(places))
    _checks.require(not shared, f"model has {shared} weights in the memory of others: tie them as one Parameter")
    return DTYPES[dtypes.pop()]


def _fingerprint(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, generator: torch.Generator) -> dict:
    """What else decides the numbers of a run: where it starts, on which data, with which random numbers."""
    return {
        "d": nets.count_parameters(model),
        "device": x.device.type,
        "start_sha256": digest(*(t for t in model.state_dict().values() if isinstance(t, Tensor))),
        "data_sha256": digest(x, y),
        "generator_sha256": digest(generator.get_state()),
    }


def _rewind(folder: Path, model: nn.Module, generator: torch.Generator) -> None:
    """Take network and generator back to the start, if the run in the folder has left them at its end."""
    if not (folder / RUN.header).is_file():
        return  # its files are a stranger's
    end, start = read_checkpoint(folder), read_state(folder / "start.pt")
    if not (end and start):
        return
    moved = is_at(model, end["engine"]), torch.equal(generator.get_state(), end["generator"])
    if moved[0]:
        load_network(model, start["engine"])
    if moved[1]:
        generator.set_state(start["drawn_from"])
    if any(moved):
        told = (
            f"folder = {str(folder)!r}: model or generator is where the run there has left it; the call is taken to be "
        )
        warnings.warn(told + "the same again. For another run choose another folder", stacklevel=3)

"""Stochastic gradient descent: how batches are drawn, a run on a network that can be resumed, replicas of a finite sum.

Batch indices are drawn on the CPU, so that every device sees the same data in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sgdvi_lite import _checks
from sgdvi_lite.gradients import Loss

SAMPLINGS = ("with", "without", "reshuffled")
Schedule = Callable[[int], float]
Transform = Callable[[Tensor, torch.Generator], Tensor]
BatchGradient = Callable[[Tensor, Tensor], Tensor]


def batches(N: int, b: int, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of the ``N // b`` mini-batches of one epoch.

    Parameters
    ----------
    N, b
        Number of examples and batch size.
    sampling
        ``with``: each index uniform and independent. ``without``: each batch a fresh subset. ``reshuffled``: one
        permutation cut into batches; where ``b`` does not divide ``N`` the rest of it is left out of this epoch.
    generator
        A CPU generator.

    Raises
    ------
    ValueError
        If ``sampling`` is unknown, ``b < 1`` or ``b > N``.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import sgd
    >>> drawn = torch.cat(list(sgd.batches(6, 2, "reshuffled", torch.Generator().manual_seed(0))))
    >>> sorted(drawn.tolist())
    [0, 1, 2, 3, 4, 5]
    """
    _checks.one_of("sampling", sampling, SAMPLINGS)
    _checks.count("N", N)
    _checks.count("b", b, high=N, remedy="an epoch has N // b batches")
    return _draw(N, b, sampling, generator)


def _draw(N: int, b: int, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(N, generator=generator) if sampling == "reshuffled" else None
    for k in range(N // b):
        if sampling == "with":
            yield torch.randint(N, (b,), generator=generator)
        elif sampling == "without":
            yield torch.randperm(N, generator=generator)[:b]
        else:
            yield order[k * b : (k + 1) * b]


class SGD:
    """One run of SGD on a network, epoch by epoch.

    Parameters
    ----------
    model
        The network; trained in place.
    loss
        Maps the outputs and targets of a batch to its mean loss.
    x, y
        The training examples, ``N`` of each, on the network's device.
    lr
        Learning rate, or a function of the epoch (counted from 0) that gives it.
    batch_size
        Examples in a batch.
    momentum, nesterov
        As in :class:`torch.optim.SGD`.
    sampling
        As in :func:`batches`.
    generator
        CPU generator of the batches and, through a seed drawn from it once an epoch, of dropout.
    transform
        Maps the inputs of a batch and a generator to the inputs that are used, such as ``data.augment``.

    Raises
    ------
    ValueError
        If lengths differ, ``batch_size`` exceeds ``N``, the sampling is unknown or ``lr <= 0``.
    FloatingPointError
        From :meth:`epoch`, if the loss becomes NaN or infinite: the step is named.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        x: Tensor,
        y: Tensor,
        *,
        lr: float | Schedule,
        batch_size: int,
        generator: torch.Generator,
        momentum: float = 0.0,
        nesterov: bool = False,
        sampling: str = "reshuffled",
        transform: Transform | None = None,
    ):
        _checks.same_length("x", x, "y", y)
        batches(len(x), batch_size, sampling, generator)
        self.schedule = lr if callable(lr) else (lambda epoch: lr)
        _checks.positive("lr", self.schedule(0))
        self.model, self.loss, self.x, self.y = model, loss, x, y
        self.batch_size, self.sampling, self.generator, self.transform = batch_size, sampling, generator, transform
        self.optimizer = torch.optim.SGD(model.parameters(), self.schedule(0), momentum, nesterov=nesterov)
        self.epochs_done = 0

    def epoch(self) -> float:
        """Train for one epoch and return the mean training loss over its batches."""
        lr = self.schedule(self.epochs_done)
        _checks.positive(f"lr in epoch {self.epochs_done}", lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        seed = int(torch.randint(2**31, (), generator=self.generator))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            drawn = batches(len(self.x), self.batch_size, self.sampling, self.generator)
            losses = [self._step(k, index) for k, index in enumerate(drawn)]
        self.model.eval()
        self.epochs_done += 1
        return sum(losses) / len(losses)

    def _step(self, k: int, index: Tensor) -> float:
        index = index.to(self.x.device)
        self.optimizer.zero_grad()
        x = self.x[index] if self.transform is None else self.transform(self.x[index], self.generator)
        value = self.loss(self.model(x), self.y[index])
        if not torch.isfinite(value):
            raise FloatingPointError(
                f"loss = {value.item()} in epoch {self.epochs_done}, step {k}: training diverged; lower lr"
            )
        value.backward()
        self.optimizer.step()
        return value.item()

    def state_dict(self) -> dict:
        """All that a resumed run needs: weights, momentum, random state, epochs done."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "epochs_done": self.epochs_done,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where :meth:`state_dict` was taken; the run goes on bit for bit as if never stopped."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.epochs_done = state["epochs_done"]
        self.model.eval()


def run(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, epochs: int, progress: bool = True, **options) -> list:
    """Train a network in place and return the mean training loss of each epoch.

    Parameters
    ----------
    model, loss, x, y, options
        As in :class:`SGD`.
    epochs
        How many.
    progress
        Whether to show a progress bar.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import sgd
    >>> model, x = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 20)[:, None]
    >>> losses = sgd.run(model, torch.nn.functional.mse_loss, x, 2 * x, epochs=50, lr=0.2, batch_size=5,
    ...                  generator=torch.Generator().manual_seed(0), progress=False)
    >>> losses[-1] < 1e-6
    True
    """
    _checks.count("epochs", epochs)
    trainer = SGD(model, loss, x, y, **options)
    return [trainer.epoch() for _ in tqdm(range(epochs), desc="SGD", unit="epoch", disable=not progress)]


def replicas(
    gradient: BatchGradient,
    x0: Tensor,
    N: int,
    lr: float,
    batch_size: int,
    n_steps: int,
    *,
    generator: torch.Generator,
    sampling: str = "with",
    every: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Run many independent copies of constant-step SGD, ``x - lr * gradient``, on a finite sum of ``N`` losses.

    Parameters
    ----------
    gradient
        Maps the weights ``(n, d)`` of all replicas and the indices ``(n, b)`` of their mini-batches, on the device of
        ``x0``, to the mean gradient ``(n, d)`` of each replica over its own batch.
    x0
        Weights at the start ``(n, d)``, float32 or float64; not modified.
    N, lr, batch_size
        Number of losses in the sum, learning rate, examples in a batch.
    n_steps
        Steps of each replica. In the time ``t = k lr`` of the chapters they last ``n_steps * lr``.
    generator
        A CPU generator of the batches.
    sampling
        As in :func:`batches`; the replicas draw independently. ``reshuffled`` starts a new permutation after every
        ``N // batch_size`` steps.
    every
        Record the weights after every so many steps; it divides ``n_steps``. By default only the last are returned.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Tensor
        Final weights ``(n, d)``, or, if ``every`` is given, the records ``(1 + n_steps // every, n, d)``, the first
        of which is ``x0``.

    Raises
    ------
    ValueError
        Before any work: if ``x0`` is no finite floating ``(n, d)``, ``lr <= 0``, ``batch_size > N``, the sampling is
        unknown, ``every`` does not divide ``n_steps``, or ``gradient`` gives another shape.
    FloatingPointError
        If a weight becomes NaN or infinite; the step by which it did is named.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import sgd
    >>> a = torch.tensor([-1.0, 1.0])  # f_k = (x - a_k)^2 / 2
    >>> g = torch.Generator().manual_seed(0)
    >>> x = sgd.replicas(lambda x, index: x - a[index].mean(1, keepdim=True), torch.zeros(20_000, 1), N=2, lr=0.1,
    ...                  batch_size=1, n_steps=100, generator=g)
    >>> abs(x.var().item() - 0.1 / (2 - 0.1)) < 0.002  # exact for this step length
    True
    """
    _check_replicas(gradient, x0, N, lr, batch_size, n_steps, sampling, every)
    drawn = _replica_batches(len(x0), N, batch_size, sampling, generator)
    x, period = x0.clone(), every or n_steps
    record = x0.new_empty(1 + n_steps // period, *x0.shape) if every else None
    if every:
        record[0] = x0
    with tqdm(total=n_steps, desc="SGD", unit="step", disable=not progress, leave=False) as bar:
        for k in range(n_steps // period):
            for _ in range(period):
                x.sub_(gradient(x, next(drawn).to(x.device)), alpha=lr)
            if not bool(torch.isfinite(x).all()):
                raise FloatingPointError(f"a weight is NaN or infinite by step {(k + 1) * period}: lower lr = {lr}")
            if every:
                record[k + 1] = x
            bar.update(period)
    return x if record is None else record


def _replica_batches(n: int, N: int, b: int, sampling: str, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices ``(n, b)`` of one step after the other, without end."""
    while True:
        if sampling == "with":
            yield torch.randint(N, (n, b), generator=generator)
            continue
        order = torch.rand(n, N, generator=generator, dtype=torch.float64).argsort(dim=1)
        for k in range(N // b if sampling == "reshuffled" else 1):
            yield order[:, k * b : (k + 1) * b]


def _check_replicas(
    gradient: BatchGradient, x0: Tensor, N: int, lr: float, b: int, n_steps: int, sampling, every
) -> None:
    _checks.ensemble(x0, n_steps, every)
    _checks.positive("lr", lr)
    batches(N, b, sampling, torch.Generator())
    shape = tuple(gradient(x0, torch.zeros(len(x0), b, dtype=torch.long, device=x0.device)).shape)
    if shape != tuple(x0.shape):
        raise ValueError(f"gradient gave shape {shape}: expected {tuple(x0.shape)}, one row for each replica")

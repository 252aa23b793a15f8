"""Many independent copies of SGD on a finite sum, moved together."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sgdvi_lite import _checks
from sgdvi_lite.sde import ensemble
from sgdvi_lite.sgd.sampling import Real, Whole, check, check_generator, number, replica_batches


def replicas(
    gradient: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    N: Whole,
    lr: Real,
    batch_size: Whole,
    n_steps: Whole,
    *,
    generator: torch.Generator,
    momentum: Real = 0.0,
    nesterov: bool = False,
    sampling: str = "with",
    every: Whole | None = None,
    progress: bool = False,
) -> Tensor:
    """Run many independent copies of constant-step SGD, ``x - lr * gradient``, on a finite sum of ``N`` losses.

    Parameters
    ----------
    gradient
        Maps the weights ``(n, d)`` of all replicas and the indices ``(n, b)`` of their mini-batches, on the device of
        ``x0``, to the mean gradient ``(n, d)`` of each replica over its own batch. It gets a copy, which it may
        change; its graph is cut.
    x0
        Weights at the start ``(n, d)``, float32 or float64; not modified.
    N, lr, batch_size
        Number of losses in the sum, learning rate, examples in a batch.
    n_steps
        Steps of each replica. In the time ``t = k lr`` of the chapters they last ``n_steps * lr``.
    generator
        A CPU generator of the batches.
    momentum, nesterov
        As in :class:`torch.optim.SGD`; the velocities begin at 0.
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
        unknown, the momentum not in [0, 1), ``every`` does not divide ``n_steps``, or ``gradient`` gives another shape.
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
    N, lr, batch_size, n_steps, momentum, every = map(number, (N, lr, batch_size, n_steps, momentum, every))
    _checks.ensemble(x0, n_steps, every)
    _checks.positive("lr", lr)
    check(N, batch_size, sampling)
    shape = np.shape(gradient(x0.clone(), torch.zeros(len(x0), batch_size, dtype=torch.long, device=x0.device)))
    _checks.shape("gradient", shape, shape == x0.shape, f"{tuple(x0.shape)}, one row for each replica", verb="gave")
    _checks.momentum(momentum, nesterov)
    check_generator(generator)
    indices = replica_batches(len(x0), N, batch_size, sampling, generator)
    v = torch.zeros_like(x0) if momentum else None

    def step(x: Tensor) -> Tensor:
        g = gradient(x.clone(), next(indices).to(x.device)).detach()
        if momentum:
            v.mul_(momentum).add_(g)
            g = g.add(v, alpha=momentum) if nesterov else v
        return x.sub_(g, alpha=lr)

    fault = f"a weight is NaN or infinite by step {{}}: lower lr = {lr}"
    return ensemble(step, x0, n_steps, every, title="SGD", fault=fault, progress=progress)

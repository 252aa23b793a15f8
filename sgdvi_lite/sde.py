"""Ensembles of solutions of a stochastic differential equation, by the Euler-Maruyama scheme.

``dx = drift(x) dt + noise(x) dW`` in the Ito sense. All particles move together, in place; the weak error is of first
order in ``dt``. Chapter 2 measures that order; chapters 4 and 6 use the ensembles.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite import _checks

__all__ = ["euler_maruyama"]

Field = Callable[[Tensor], Tensor]
Step = Callable[[Tensor], None]


def euler_maruyama(
    drift: Field,
    noise: float | Tensor | Field,
    x0: Tensor,
    dt: float,
    n_steps: int,
    *,
    generator: torch.Generator,
    every: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Move an ensemble of particles by ``n_steps`` steps of length ``dt``.

    Parameters
    ----------
    drift
        Maps positions ``(n, d)`` to drifts ``(n, d)``.
    noise
        The factor of dW: a number, a matrix ``(d, d)``, or a function of positions to factors ``(n, 1)`` or ``(n, d)``
        (acting entry by entry) or to matrices ``(n, d, d)``. For SGD's equation it is a square root of ``2 T D``.
    x0
        Initial positions ``(n, d)``, float32 or float64, on any device; not modified.
    dt, n_steps
        Length and number of the steps.
    generator
        Source of the normal numbers, on the device of ``x0``.
    every
        Record the positions after every so many steps; it divides ``n_steps``. By default only the last are returned.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Tensor
        Final positions ``(n, d)``, or, if ``every`` is given, the recorded ones ``(1 + n_steps // every, n, d)``, of
        which the first is ``x0``.

    Raises
    ------
    ValueError
        Before any work: if shapes, devices or ranges are wrong.
    FloatingPointError
        If a position becomes NaN or infinite; the step is named.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import sde
    >>> x0 = torch.zeros(20_000, 1, dtype=torch.float64)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = sde.euler_maruyama(lambda x: -x, 1.0, x0, dt=0.01, n_steps=500, generator=g)
    >>> abs(x.var().item() - 0.5) < 0.02  # stationary variance 1/2
    True
    """
    _checks.ensemble(x0, n_steps, every)
    _checks.positive("dt", dt)
    if generator.device.type != x0.device.type:
        raise ValueError(f"generator is on {generator.device}, x0 on {x0.device}: expected the same device")
    step = _stepper(drift, noise, x0, dt, generator)
    fault = f"a position is NaN or infinite by step {{}}: lower dt = {dt}"
    return ensemble(step, x0, n_steps, every, title="Euler-Maruyama", fault=fault, progress=progress)


def ensemble(
    step: Step, x0: Tensor, n_steps: int, every: int | None, *, title: str, fault: str, progress: bool
) -> Tensor:
    """Move copies of ``x0`` ``(n, d)`` by a ``step`` in place; return the last ones, or with ``every`` a record.

    It stops with the text ``fault``, which takes the number of the step, where one is NaN or infinite. Euler-Maruyama
    and the replicas of :func:`sgdvi_lite.sgd.replicas` go through it.
    """
    x, period = x0.clone(), every or n_steps
    record = x0.repeat(1 + n_steps // period, 1, 1) if every else None
    with tqdm(total=n_steps, desc=title, unit="step", disable=not progress, leave=False) as bar:
        for row in range(1, n_steps // period + 1):
            for _ in range(period):
                step(x)
            if not bool(torch.isfinite(x).all()):
                raise FloatingPointError(fault.format(row * period))
            if every:
                record[row] = x
            bar.update(period)
    return x if record is None else record


def _stepper(drift: Field, noise, x0: Tensor, dt: float, generator: torch.Generator) -> Step:
    """One step in place, with the buffer of normal numbers made once."""
    z, root = torch.empty_like(x0), dt**0.5
    is_matrix = isinstance(noise, Tensor) and noise.ndim
    scale = root if callable(noise) or is_matrix else root * float(noise)

    def kick(x: Tensor) -> Tensor:
        if not callable(noise):
            return z @ noise.T if is_matrix else z
        factor = noise(x)
        return torch.einsum("nij,nj->ni", factor, z) if factor.ndim == 3 else factor * z

    def step(x: Tensor) -> None:
        z.normal_(generator=generator)
        force, push = drift(x), kick(x)
        x.add_(force, alpha=dt).add_(push, alpha=scale)

    _check_fields(drift, noise, x0)
    return step


def _check_fields(drift: Field, noise, x0: Tensor) -> None:
    n, d = x0.shape
    force = drift(x0)
    _checks.shape("drift", force.shape, force.shape == x0.shape, f"{tuple(x0.shape)}", verb="gave")
    if callable(noise):
        shape, allowed = tuple(noise(x0).shape), [(n, 1), (n, d), (n, d, d)]
        _checks.shape("noise", shape, shape in allowed, f"one of {allowed}", verb="gave")
    elif isinstance(noise, Tensor):
        _checks.shape("noise", noise.shape, noise.shape in ((), (d, d)), f"a number or ({d}, {d})")

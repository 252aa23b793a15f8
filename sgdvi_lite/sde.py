"""Ensembles of solutions of a stochastic differential equation, by the Euler-Maruyama scheme.

``dx = drift(x) dt + noise(x) dW`` in the Ito sense. All particles move together; the weak error is of first order in
``dt``. Chapter 2 measures that order; chapters 4 and 6 use the ensembles.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sgdvi_lite import _checks

__all__ = ["euler_maruyama"]

Field = Callable[[Tensor], Tensor]
Step = Callable[[Tensor], Tensor]

WATCH = 100
"""After so many steps, at the latest, it is seen whether all positions are finite."""


def euler_maruyama(
    drift: Field,
    noise: float | Tensor | np.ndarray | Field,
    x0: Tensor | np.ndarray,
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
        Maps positions ``(n, d)`` to drifts ``(n, d)``. Functions may change or keep what they get; their graph is cut.
    noise
        The factor of dW: a number, a matrix ``(d, d)``, or a function of positions to factors ``(n, 1)`` or ``(n, d)``
        (acting entry by entry) or to matrices ``(n, d, d)``. For SGD's equation it is a square root of ``2 T D``.
        Where n = d, the function is also called for one particle, so that no matrix ``(d, d)`` passes for factors.
    x0
        Initial positions ``(n, d)``, float32 or float64, on any device, or an array; not modified.
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
        Before any work: if shapes, dtypes, devices or ranges are wrong.
    FloatingPointError
        If a position becomes NaN or infinite; the step, or the range of at most 100 steps, is named.

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
    x0 = torch.as_tensor(x0).detach()
    _checks.ensemble(x0, n_steps, every)
    _checks.require(x0.dtype in (torch.float32, torch.float64), f"x0 is {x0.dtype}: expected torch.float32 or float64")
    _checks.positive("dt", dt)
    place = torch.empty(0, device=generator.device).device  # "cuda" is "cuda:0" here
    _checks.require(place == x0.device, f"generator is on {place}, x0 on {x0.device}: expected the same device")
    if not callable(noise) and np.ndim(noise):
        noise = torch.as_tensor(noise).detach()
    elif not callable(noise):
        noise = _checks.number("noise", noise, math.isfinite, "a finite number, a matrix or a function")
    _check_fields(drift, noise, x0)
    step = _stepper(drift, noise, x0, dt, generator)
    fault = f"a position is NaN or infinite by step {{}}: lower dt = {dt}"
    return ensemble(step, x0, n_steps, every, title="Euler-Maruyama", fault=fault, progress=progress)


def ensemble(
    step: Step, x0: Tensor, n_steps: int, every: int | None, *, title: str, fault: str, progress: bool
) -> Tensor:
    """Move a copy of ``x0`` ``(n, d)`` from ``step`` to ``step``; return the last, or with ``every`` a record.

    It stops with the text ``fault``, which takes the steps where one is first seen to be NaN or infinite.
    Euler-Maruyama and the replicas of :func:`sgdvi_lite.sgd.replicas` go through it.
    """
    x, period = x0.detach().clone(), every or n_steps
    record = x.repeat(1 + n_steps // period, 1, 1) if every else None
    with tqdm(total=n_steps, desc=title, unit="step", disable=not progress, leave=False) as bar:
        for end in range(period, n_steps + 1, period):
            for first in range(end - period, end, WATCH):
                last = min(first + WATCH, end)
                for _ in range(first, last):
                    x = step(x)
                if not (math.isfinite(x.sum()) or torch.isfinite(x).all()):  # a sum shows all, and is cheap
                    raise FloatingPointError(fault.format(f"{last}, not yet at step {first}"))
                bar.update(last - first)
            if every:
                record[end // every] = x
    return x if record is None else record


def _stepper(drift: Field, noise: float | Tensor | Field, x0: Tensor, dt: float, generator: torch.Generator) -> Step:
    """One step to new positions. The old ones are needed no more when the drift gets them: it may do what it likes."""
    z, root = torch.empty_like(x0), dt**0.5
    turn = noise.T.to(x0) if isinstance(noise, Tensor) else None
    scale = root if turn is not None or callable(noise) else root * noise

    def kicked(x: Tensor) -> Tensor:
        if not callable(noise):
            return torch.add(x, z if turn is None else z @ turn, alpha=scale)
        factor = _plain(noise(x.clone()))
        if factor.ndim == 3:
            return torch.add(x, (factor.to(z) @ z.unsqueeze(-1)).squeeze(-1), alpha=root)
        return torch.addcmul(x, factor, z, value=root)

    def step(x: Tensor) -> Tensor:
        z.normal_(generator=generator)
        return kicked(x).add_(_plain(drift(x)), alpha=dt)

    return step


def _plain(values: Tensor) -> Tensor:
    return values.detach() if values.requires_grad else values


def _check_fields(drift: Field, noise: float | Tensor | Field, x0: Tensor) -> None:
    n, d = x0.shape
    _check_values("drift gave", drift(x0.clone()), [(n, d)], x0)
    if callable(noise):
        factor = noise(x0.clone())
        _check_values("noise gave", factor, [(n, 1), (n, d), (n, d, d)], x0)
        matrix = n == d > 1 and factor.shape == (n, d) and noise(x0[:1].clone()).shape != (1, d)
        fault = f"noise gave {(d, d)} for one particle too: give a constant matrix itself, or expand it to {(n, d, d)}"
        _checks.require(not matrix, fault)
    elif isinstance(noise, Tensor):
        _check_values("noise has", noise, [(d, d)], x0)
        _checks.require(torch.isfinite(noise).all(), "noise has a NaN or an infinity: expected finite numbers")


def _check_values(what: str, values: object, shapes: list, x0: Tensor) -> None:
    """Raise unless the values can be combined with ``x0``: their shape, type and device."""
    shape, place = tuple(np.shape(values)), getattr(values, "device", "cpu")
    _checks.require(shape in shapes, f"{what} shape {shape}: expected {' or '.join(map(str, shapes))}")
    fits = isinstance(values, Tensor) and torch.promote_types(values.dtype, x0.dtype) == x0.dtype
    fault = f"{what} {getattr(values, 'dtype', type(values))} on {place}: expected {x0.dtype} on {x0.device}, as x0"
    _checks.require(fits and place == x0.device, fault)

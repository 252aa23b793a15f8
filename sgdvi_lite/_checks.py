"""Checks of arguments, one line each where they are used. Each error says what came and what may come."""

import math
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor


def require(good: object, text: str) -> None:
    """Raise an error with this text unless what was asked is ``good``."""
    if not good:
        raise ValueError(text)


def argument(name: str, value: object, good: object, allowed: str) -> None:
    """Raise unless the value of an argument is ``good``."""
    require(good, f"{name} = {value}: expected {allowed}")


def number(name: str, value: object, good: Callable[[Real], object], allowed: str) -> Real:
    """Return a real number, be it NumPy's or a tensor's, as Python's; raise unless it is one, and ``good``."""
    plain = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(plain, bool) or not isinstance(plain, Real):
        raise TypeError(f"{name} = {value!r}: expected {allowed}")
    argument(name, plain, good(plain), allowed)
    return plain


def positive(name: str, value: object) -> Real:
    """Return ``value``, or raise unless it is a finite number above zero."""
    return number(name, value, lambda v: 0 < v < math.inf, "a finite number > 0")


def not_negative(name: str, value: object) -> Real:
    """Return ``value``, or raise unless it is a finite number, zero or above."""
    return number(name, value, lambda v: 0 <= v < math.inf, "a finite number >= 0")


def rate(name: str, value: object) -> Real:
    """Return a rate of dropout, or raise unless it is in [0, 1)."""
    return number(name, value, lambda v: 0 <= v < 1, "a rate in [0, 1)")


def probability(name: str, value: object) -> Real:
    """Return ``value``, or raise unless it is strictly between 0 and 1."""
    return number(name, value, lambda v: 0 < v < 1, "a probability in (0, 1), such as 0.95")


def count(name: str, value: object, low: int = 1, high: int | None = None, remedy: str = "") -> int:
    """Return ``value`` as an int of Python, whose products are exact; raise unless it is an integer in [low, high]."""
    allowed = "an integer " + (f">= {low}" if high is None else f"in [{low}, {high}]")
    whole = number(name, value, lambda v: True, allowed)
    if not isinstance(whole, int):
        raise TypeError(f"{name} = {value!r}: expected {allowed}")
    argument(name, whole, low <= whole and (high is None or whole <= high), allowed + f"; {remedy}" * bool(remedy))
    return whole


def momentum(value: object, nesterov: object) -> Real:
    """Return the momentum, or raise unless it is in [0, 1), and above 0 for Nesterov's."""
    value = number("momentum", value, lambda v: 0 <= v < 1, "a number in [0, 1)")
    require(value or not nesterov, "nesterov = True with momentum = 0: expected a momentum > 0, or nesterov = False")
    return value


def array(name: str, value: object, ndim: int | None = None, form: str = "") -> np.ndarray:
    """Return an array, tensor or list as float64; raise unless it is real, not masked, finite, with ``ndim`` axes."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value if value.is_complex() else value.double()  # NumPy has no bfloat16
    try:
        found = np.asarray(value)
        require(found.dtype.kind in "biufO" and not np.ma.is_masked(value), f"{found.dtype}, or masked")
        found = found.astype(np.float64, copy=False)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} ({error}): expected an array of real numbers, none of them masked") from error
    shape(name, found.shape, ndim is None or (found.ndim == ndim and found.size), form)
    bad = np.argwhere(~np.isfinite(found))
    where = f" in row {bad[0][0]}" if bad.size else ""
    require(not len(bad), f"{name}: NaN or infinity{where}; expected finite numbers")
    return found


def one_of(name: str, value: object, allowed) -> str:
    """Return ``value``, or raise unless it is one of the ``allowed`` names."""
    argument(name, repr(value), isinstance(value, str) and value in allowed, f"one of {', '.join(allowed)}")
    return value


def shape(name: str, value: Sequence[int], good: object, allowed: str, verb: str = "has") -> None:
    """Raise unless the shape of an array, its ``value``, is ``good``; the ``verb`` of a function is ``gave``."""
    require(good, f"{name} {verb} shape {tuple(value)}: expected {allowed}")


def eigenvalue(name: str, smallest: float, good: object, allowed: str) -> None:
    """Raise unless the smallest eigenvalue of a matrix is ``good``."""
    require(good, f"{name} has the eigenvalue {smallest:.3g}: expected all {allowed}")


def device(name: str) -> None:
    """Raise unless the device of that name computes in float64, as mps and meta do not."""
    try:
        torch.zeros((), device=torch.device(name), dtype=torch.float64).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        fault = f"device = {name!r}: not available here, or without float64; expected cpu, or cuda where there is one"
        raise ValueError(fault) from error


def same_length(x_name: str, x: Tensor, y_name: str, y: Tensor) -> None:
    """Raise unless both have the same, non-zero number of examples."""
    good = 0 < len(x) == len(y)
    require(good, f"{x_name} has {len(x)} examples and {y_name} has {len(y)}: expected the same number, at least 1")


def finite(name: str, value: Tensor, first: int = 0, remedy: str = "mend or remove it") -> None:
    """Raise if ``value`` has a NaN or an infinity, naming the row (counted from ``first``) where it stands."""
    if not (torch.isfinite(value.sum()) or torch.isfinite(value).all()):  # a sum shows all, and is cheap
        row = first + int(torch.nonzero(~torch.isfinite(value))[0, 0])
        raise ValueError(f"{name}: NaN or infinity in row {row}; expected finite numbers; {remedy}")


def rows(name: str, value: Tensor, expected: str) -> None:
    """Raise unless ``value`` is a matrix, not empty, of finite floats."""
    good = value.ndim == 2 and min(value.shape) >= 1 and value.is_floating_point()
    require(good, f"{name} has shape {tuple(value.shape)} and {value.dtype}: expected floats of shape {expected}")
    finite(name, value)


def ensemble(x0: Tensor, n_steps: int, every: int | None) -> None:
    """Raise unless ``x0`` holds finite floats (n, d) and ``every``, if given, divides the number of steps."""
    rows("x0", x0, "(n, d)")
    period(n_steps, n_steps if every is None else every)


def period(n_steps: int, every: int) -> None:
    """Raise unless ``every`` divides the number of steps."""
    count("n_steps", n_steps)
    count("every", every, high=n_steps)
    argument("every", every, n_steps % every == 0, f"a divisor of n_steps = {n_steps}")

"""How strong the noise of a mini-batch is: the factor that multiplies ``D``, the temperature, and what is measured."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sgdvi_lite import _checks, nets
from sgdvi_lite.gradients import Examples, Loss
from sgdvi_lite.gradients.conditions import State, repeatable, seed_device
from sgdvi_lite.gradients.problem import Problem
from sgdvi_lite.series.estimates import Estimate, mean_of_stretches

# How far products of directions may be from those of orthonormal ones: a hundred times what float32 leaves
ORTHONORMAL = 1e-4


def minibatch_factor(N: int, b: int, replacement: bool = True) -> float:
    """Variance of a mini-batch gradient in units of ``D``: var = minibatch_factor(N, b, replacement) * D.

    Parameters
    ----------
    N
        Number of examples.
    b
        Batch size; at most ``N`` without replacement.
    replacement
        With: ``1/b`` (equation (A1)). Without: ``(N - b) / (b (N - 1))`` (equation (A2), corrected; chapter 1).

    Raises
    ------
    ValueError
        If ``N`` or ``b`` is less than 1, or ``b > N`` without replacement.

    Examples
    --------
    >>> from sgdvi_lite import minibatch_factor
    >>> minibatch_factor(N=5, b=2), minibatch_factor(N=5, b=2, replacement=False)
    (0.5, 0.375)
    """
    N = _checks.count("N", N)
    _checks.argument("replacement", repr(replacement), replacement in (True, False), "True or False")
    if replacement:
        return 1 / _checks.count("b", b)
    b = _checks.count("b", b, high=N, remedy="without replacement a batch holds at most N examples")
    return (N - b) / (b * (N - 1)) if N > 1 else 0.0


def temperature(lr: float, b: int, N: int | None = None, replacement: bool = True) -> float:
    """Temperature T = 1/beta = lr/2 * minibatch_factor of SGD, in continuous time (Lemma 2).

    Parameters
    ----------
    lr
        Learning rate; one step of SGD takes the time ``lr``.
    b
        Batch size.
    N
        Number of examples; needed only without replacement.
    replacement
        Whether examples are drawn with replacement.

    Raises
    ------
    ValueError
        If ``lr <= 0``, if ``N`` is missing where it is needed, or as in :func:`minibatch_factor`.

    Examples
    --------
    >>> from sgdvi_lite import temperature
    >>> temperature(lr=0.5, b=4)
    0.0625
    """
    lr = _checks.positive("lr", lr)
    _checks.argument("N", N, N is not None or replacement, "the number of examples, since replacement=False")
    return lr / 2 * minibatch_factor(b if N is None else N, b, replacement)


@dataclass(frozen=True, eq=False)
class MeasuredCovariance:
    """What :func:`measured_covariance` found in the gradients of batches; each estimate has its standard error.

    Attributes
    ----------
    n
        Number of batches.
    mean
        Mean batch gradient ``(d,)`` in float64.
    trace
        Trace of the covariance of a batch gradient.
    variances
        Variances along the ``k`` directions ``(k,)``.
    share
        Part of the trace in the span of the directions, in [0, 1].
    """

    n: int
    mean: Tensor
    trace: Estimate
    variances: Estimate
    share: Estimate


def measured_covariance(
    model: nn.Module,
    loss: Loss,
    x: Examples,
    y: Examples,
    batches: Iterable[Tensor | np.ndarray],
    *,
    generator: torch.Generator,
    directions: Tensor | np.ndarray | None = None,
) -> MeasuredCovariance:
    r"""Covariance of the gradients that SGD sees, at fixed weights: in training mode, with dropout.

    It is ``minibatch_factor(N, b, replacement) * D`` where the loss of a batch is the mean of losses that depend on one
    example each and on nothing random: without batch-norm or dropout. With them it has to be measured; see chapter 13.

    Of the gradients :math:`g_1, g_2, \dots` only the mean :math:`\bar g_i` of the first :math:`i` is kept. If batches
    are independent, the contrasts :math:`h_i = \sqrt{1 - 1/i}\,(g_i - \bar g_{i-1})`, :math:`i = 2, \dots, n`, have
    mean zero and the covariance sought, and are uncorrelated (Helmert 1876). The mean of their squares is the unbiased
    estimate, that which divides by :math:`n - 1` (Welford 1962), and their spread tells its error.

    Parameters
    ----------
    model, loss, x, y
        As in :func:`sgdvi_lite.gradients.chunks`, but for the mode: here it is training mode, whatever the model is in.
        It is left as it was, and so are running statistics and the global random state.
    batches
        Indices of the examples of each batch, at least three batches, such as ``sgd.batches(N, b, "with", generator)``.
        The errors are those of independent batches, drawn ``with`` replacement or ``without``. One that was
        ``reshuffled`` is distributed as one drawn ``without``: draw these. All batches of some permutations vary less
        together, so that the trace comes out too large, by at most n / (n - 1), with an error that is too large.
    generator
        CPU generator, from which one number is drawn, the seed of dropout.
    directions
        Orthonormal columns ``(d, k)``, such as eigenvectors of ``D``.

    Raises
    ------
    ValueError
        If the weights or lengths are refused as in :func:`sgdvi_lite.gradients.chunks`, the directions have another
        shape or are not orthonormal, there are less than three batches, or a gradient is NaN or infinite.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import minibatch, minibatch_factor, sgd
    >>> x, y, model = torch.arange(8.0)[:, None], torch.zeros(8, 1), torch.nn.Linear(1, 1, bias=False)
    >>> draws = torch.Generator().manual_seed(0)
    >>> batches = [batch for _ in range(50) for batch in sgd.batches(8, 2, "with", draws)]
    >>> slope = lambda output, target: (output - target).mean()  # whose gradients are the inputs
    >>> found = minibatch.measured_covariance(model, slope, x, y, batches, generator=draws)
    >>> bool(abs(found.trace.value - minibatch_factor(8, 2) * x.var(correction=0)) < 3 * found.trace.error)
    True
    """
    good = isinstance(generator, torch.Generator) and generator.device.type == "cpu"
    _checks.argument("generator", generator, good, "a torch.Generator() on the CPU")
    with State(model).in_force(), torch.inference_mode(False):
        problem = Problem.of(model.eval(), loss, x, y)
        mean = torch.zeros(nets.count_parameters(model), dtype=torch.float64, device=problem.weights[0].device)
        V = mean.new_zeros(len(mean), 0) if directions is None else _orthonormal(directions, mean)
        with repeatable(mean.device):
            seed_device(int(torch.randint(2**31, (), generator=generator)), mean.device)
            model.train()
            squares = [_squares(problem, batch, mean, k, V) for k, batch in enumerate(batches)]
    _checks.argument("number of batches", len(squares), len(squares) > 2, "at least 3, whose spread tells the error")
    found = torch.stack(squares[1:]).cpu().numpy()
    trace, inside = mean_of_stretches(found[:, 0]), found[:, 1:].sum(axis=1)
    share = inside.mean() / trace.value
    error = mean_of_stretches(inside - share * found[:, 0]).error / trace.value
    return MeasuredCovariance(len(squares), mean, trace, mean_of_stretches(found[:, 1:]), Estimate(share, error))


def _squares(problem: Problem, batch: Tensor | np.ndarray, mean: Tensor, k: int, V: Tensor) -> Tensor:
    """Squares of a contrast's length and of its parts along ``V``; the mean of ``k`` gradients takes in one more."""
    x, y = problem.take(torch.as_tensor(batch, device=mean.device))
    value = problem.loss(problem.model(x), y)
    parts = torch.autograd.grad(value, problem.weights, materialize_grads=True)
    gradient = torch.cat([part.reshape(-1) for part in parts]).double()
    _checks.finite("gradients of batches", gradient[None], first=k)
    step = gradient - mean
    mean += step / (k + 1)
    contrast = step * (k / (k + 1)) ** 0.5
    return torch.cat([contrast.square().sum()[None], (contrast @ V).square()])


def _orthonormal(directions: Tensor | np.ndarray, mean: Tensor) -> Tensor:
    """Directions in the dtype of the mean gradient and on its device; raise unless they are orthonormal columns."""
    V, d = torch.as_tensor(directions).to(mean), len(mean)
    _checks.shape("directions", V.shape, V.ndim == 2 and len(V) == d, f"({d}, k), one direction in each column")
    off = torch.linalg.norm(V.T @ V - torch.eye(V.shape[1]).to(V)).item()
    fault = f"directions: V^T V is {off:.1g} away from the identity: expected at most {ORTHONORMAL:g}"
    _checks.require(off <= ORTHONORMAL, f"{fault}; give torch.linalg.qr(directions).Q")
    return V

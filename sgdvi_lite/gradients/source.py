"""Where per-example gradients come from, chunk by chunk: from a network or a given array."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from sgdvi_lite import _checks, nets
from sgdvi_lite.gradients.choice import choose
from sgdvi_lite.gradients.conditions import computing
from sgdvi_lite.gradients.examples import Examples, leaves, take
from sgdvi_lite.gradients.layers import Part, Rows, rows
from sgdvi_lite.gradients.problem import Loss, Problem, check_finite, in_short
from sgdvi_lite.gradients.ways import one_by_one

CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
"""Default bound on the size of one chunk of gradients, in bytes: small enough for the caches, large enough to share
the overhead of a pass. All that is computed on the way to them may take ten times as much."""
WORKING = 10
CHUNK_ROWS = 4096  # gradients in one chunk of a given array, which takes no memory of its own
MANY = 10_000  # examples, for which a pass for each is slow
PERIOD = 16  # chunks of that size, in one of which gradients are compared with the loop
SHARE = 64  # examples in it, one of which is computed again beside others


class Source:
    """Per-example gradients, to be gone through as often as needed.

    A source supplies its attributes and ``parts(progress, first)``, an iterator over the gradients from example
    ``first`` on, ``chunk`` at a time, as in :meth:`Network.parts`.

    Attributes
    ----------
    N : int
        Number of examples.
    d : int
        Number of weights.
    like : Tensor
        Has the dtype and device of the gradients.
    chunk : int
        Examples at a time.
    widths : tuple of int
        How many numbers ``parts`` holds for one example, one entry for each tensor.
    how : str
        How they are computed.
    inputs : list of Tensor
        What the gradients are computed from; a change in them is a fault.
    working_bytes : int
        What a pass takes at its peak beside what the caller keeps: the gradients of a chunk as ``parts`` gives them,
        and what they are computed from.
    """

    def chunks(
        self, progress: bool = False, out: Tensor | None = None, first: int = 0
    ) -> Iterator[Float[Tensor, "n d"]]:
        """Iterate over the gradients as rows; written into ``out (chunk, d)``, one chunk over the other, if given."""
        return (rows(parts, out) for parts in self.parts(progress, first))


class Given(Source):
    """Gradients (N, d) that are there already; they are not modified."""

    how, working_bytes = "given", 0

    def __init__(self, gradients: Tensor, chunk: int = CHUNK_ROWS):
        self.N, self.d = gradients.shape
        self.like, self.widths = gradients.new_empty(0), (self.d,)
        self.chunk = min(self.N, chunk)
        self._gradients = gradients
        self.inputs = [gradients]

    def parts(self, progress: bool = False, first: int = 0) -> Iterator[list[Part]]:
        """Iterate over the gradients from ``first`` on, ``chunk`` at a time, as they are."""
        return ([Rows(block)] for block in self._gradients[first:].split(self.chunk))


class Network(Source):
    """The per-example gradients of a network over its examples, with the weights that it has when this is made.

    Parameters
    ----------
    model, loss, x, y, chunk
        As in :func:`chunks`, with the same errors; the first four stay as attributes.

    Attributes
    ----------
    how : str
        ``layer by layer``; or ``vmap`` or ``one by one``, and why no faster way is taken.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import gradients
    >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    >>> source = gradients.Network(torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy, x, y)
    >>> source.d, source.how, source.widths  # two factors of the weights' gradient, and that of the biases
    (8, 'layer by layer', (2, 3, 2))

    A small transformer that predicts the next of five tokens, and its diffusion matrix:

    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> embedding, last = torch.nn.Embedding(20, 8), torch.nn.Linear(40, 20)
    >>> model = torch.nn.Sequential(embedding, layer, torch.nn.Flatten(), last).eval()
    >>> text = torch.randint(20, (7, 6))
    >>> problem = model, torch.nn.functional.cross_entropy, text[:, :-1], text[:, -1]
    >>> gradients.Network(*problem).how
    "vmap, since Embedding '0' is none of Linear, Conv2d, BatchNorm1d, BatchNorm2d, plain and whole"
    >>> from sgdvi_lite import DiffusionMatrix
    >>> D = DiffusionMatrix.from_model(*problem)
    >>> D.shape, D.rank(1e-6), D.sample(2, torch.Generator().manual_seed(0)).shape
    ((1580, 1580), 6, torch.Size([2, 1580]))
    """

    def __init__(self, model: nn.Module, loss: Loss, x: Examples, y: Examples, chunk: int | None = None):
        if chunk is not None:
            _checks.count("chunk", chunk)
        with torch.inference_mode(False):
            problem = self._problem = Problem.of(model, loss, x, y)
        self.model, self.loss, self.x, self.y, self.N = model, loss, problem.x, problem.y, problem.N
        self.d, self.like = nets.count_parameters(model), problem.weights[0].detach().new_empty(0)
        self._loop = one_by_one(problem)
        with self._conditions():
            self._choice = choice = choose(problem, self._loop, single=chunk == 1)
        self.how, self.widths = choice.how, choice.widths
        bound, row = CHUNK_BYTES.get(self.like.device.type, CHUNK_BYTES["cpu"]), self.d * self.like.element_size()
        self.chunk = min(self.N, chunk or max(1, min(bound // row, WORKING * bound // choice.bytes)))
        self.working_bytes = self.chunk * choice.bytes
        self._period = PERIOD * max(1, bound // row)
        self._due = 0  # the next example from which on a chunk is compared with the loop; each only once
        self.inputs = leaves((self.x, self.y))
        self._versions = [t._version for t in self.inputs]
        self._warn()

    @contextmanager
    def _conditions(self) -> Iterator[None]:
        """In full precision, of the network as it was."""
        what, remedy = f"gradients of {self.N:,} examples, d = {self.d:,}", "lower chunk, or free what else is on it"
        with torch.inference_mode(False), computing(remedy, what), self._problem.state.in_force():
            yield

    def one_by_one(self, examples: list[int]) -> Tensor:
        """Gradients (n, d) of some examples, each by a pass of its own."""
        with self._conditions():
            return self._loop(*self._problem.take(torch.tensor(examples)))[0].rows

    def _warn(self) -> None:
        loss = self.loss
        if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and loss.weight is not None and loss.reduction == "mean":
            text = "loss: its mean is weighted and divides by the weights, which cancel in a batch of one: gradients "
            warnings.warn(text + "are as without class weights; use reduction='sum' to have them", stacklevel=3)
        if self.how.startswith("one by one") and self.N >= MANY and self.chunk > 1:
            text = f"gradients {self.how}: slow for {self.N:,} examples; give fewer, or a network of layers that "
            warnings.warn(text + "torch.func.vmap can transform", stacklevel=3)

    def parts(self, progress: bool = False, first: int = 0) -> Iterator[list[Part]]:
        """Iterate over the gradients from ``first`` on, ``chunk`` at a time, those of linear layers as factors."""
        options = {"desc": "gradients", "unit": "example", "disable": not progress, "leave": False}
        with tqdm(total=self.N, initial=first, **options) as bar:
            for start in range(first, self.N, self.chunk):
                n = min(self.chunk, self.N - start)
                with self._conditions():
                    parts = self._checked(start, n)
                yield parts
                bar.update(n)

    def _checked(self, start: int, n: int) -> list[Part]:
        """The gradients of ``n`` examples, unless something is wrong with them."""
        unchanged = [t._version for t in self.inputs] == self._versions
        _checks.require(unchanged, "x or y was changed in place after it was given; expected the same; give a copy")
        tolerance = self._choice.tolerance
        try:
            parts = self._choice.way(*self._problem.take(slice(start, start + n)))
            finite = torch.stack([part.witness() for part in parts]).isfinite().all()
            if tolerance and finite and start >= self._due:
                _checks.require(self._alone(parts, start, n), "they are not those of each example alone")
                self._due = start + self._period
        except Exception as fault:
            if tolerance is None or isinstance(fault, torch.OutOfMemoryError):
                raise
            text = f"gradients {self.how.split(',')[0]}, from example {start} on: {in_short(fault)}, though a sample "
            text += "agreed; expected that examples do not see each other; give chunk=1, where each has its own pass"
            raise ValueError(text) from fault
        if not finite:
            check_finite(rows(parts), start)
        return parts

    def _alone(self, parts: list[Part], start: int, n: int) -> bool:
        """Whether one of these gradients is the same by the loop, and some are the same in other company."""
        picked = torch.randperm(n, generator=torch.Generator().manual_seed(start))[: 2 + n // SHARE]
        found = rows([type(part)(*(tensor[picked] for tensor in part)) for part in parts])
        x, y = self._problem.take(start + picked)
        alone = self._loop(take(x, slice(0, 1)), take(y, slice(0, 1)))[0].rows
        way, allows = self._choice.way, self._choice.tolerance.allows
        return allows(found[:1], alone) and allows(rows(way(x, y)), found)


def chunks(
    model: nn.Module, loss: Loss, x: Examples, y: Examples, *, chunk: int | None = None, progress: bool = False
) -> Iterator[Float[Tensor, "n d"]]:
    """Iterate over the per-example gradients, at most ``chunk`` examples at a time.

    The gradient of example ``k`` is that of ``loss(model(x[k:k+1]), y[k:k+1])``, a batch of one, whatever the network
    is made of. It is computed layer by layer, by :func:`torch.func.vmap`, or in a loop over the examples: the first of
    these that agrees with the loop on a sample; ``Network(...).how`` says which, and why.

    Parameters
    ----------
    model
        A network in evaluation mode; gradients are taken with respect to all its trainable weights. It is left as it
        was.
    loss
        Maps outputs and targets of a batch of one to a scalar, such as ``torch.nn.functional.cross_entropy``. Beware of
        class weights: ``CrossEntropyLoss(weight=w)`` divides by the weights of the examples in the batch, in a batch of
        one by the example's own, so that they cancel. ``CrossEntropyLoss(weight=w, reduction="sum")`` has gradients
        with weights.
    x, y
        Inputs and targets on the network's device: tensors or numpy arrays with ``N`` rows, or dicts, tuples, lists of
        them. ``model`` gets ``x`` as one argument. Integers, such as tokens, are welcome.
    chunk
        Examples at a time; by default as many as fit :data:`CHUNK_BYTES`. With 1, each is sure to have a pass of its
        own.
    progress
        Whether to show a progress bar.

    Yields
    ------
    Tensor
        Gradients ``(n, d)`` of the next ``n`` examples; columns in the order of ``model.parameters()``.

    Raises
    ------
    TypeError
        If ``x`` or ``y`` holds anything else.
    ValueError
        Before any work: if there are no examples, lengths differ, dtypes or devices do not fit, the weights are not
        float32 or float64, batch-norm or dropout is in training mode, two passes over an example differ, a label or a
        token is out of range, the loss is no scalar. During it: if a gradient is NaN or infinite, examples turn out to
        see each other, or ``x`` or ``y`` is changed in place.
    MemoryError
        If a device has too little memory.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import gradients
    >>> tokens, next_one = torch.tensor([[1, 2], [2, 0], [0, 1]]), torch.tensor([0, 1, 2])
    >>> model = torch.nn.Sequential(torch.nn.Embedding(3, 4), torch.nn.Flatten(), torch.nn.Linear(8, 3))
    >>> [G.shape for G in gradients.chunks(model, torch.nn.functional.cross_entropy, tokens, next_one, chunk=2)]
    [torch.Size([2, 39]), torch.Size([1, 39])]
    """
    return Network(model, loss, x, y, chunk).chunks(progress)


def per_example_gradients(
    model: nn.Module, loss: Loss, x: Examples, y: Examples, *, chunk: int | None = None, progress: bool = False
) -> Float[Tensor, "N d"]:
    """All per-example gradients in one array; arguments and errors are those of :func:`chunks`.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import gradients
    >>> model = torch.nn.Linear(3, 2)
    >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    >>> gradients.per_example_gradients(model, torch.nn.functional.cross_entropy, x, y).shape
    torch.Size([5, 8])
    """
    source = Network(model, loss, x, y, chunk)
    out = source.like.new_empty(source.N, source.d)
    for block, parts in zip(out.split(source.chunk), source.parts(progress), strict=True):
        rows(parts, block)
    return out

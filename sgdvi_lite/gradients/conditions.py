"""Under what conditions gradients are computed: a network as it was, precision, chance; and their memory."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_not

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class State:
    """What a network holds in its attributes, and in dicts among them, to be put in force while something is computed.

    In force, the network has the weights, buffers, modes and layers that it had when the state was taken. Afterwards it
    has again those that it had before, in the memory where they were: what passes leave behind, such as running
    statistics, a hidden state or a weight computed from others, is gone. The network itself is used and no copy, which
    the hooks of its weights and a loss that reaches them would not know.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite.gradients.conditions import State
    >>> layer = torch.nn.Linear(1, 1, bias=False).eval().requires_grad_(False)
    >>> state, _ = State(layer), layer.train().weight.zero_()
    >>> with state.in_force():
    ...     layer.training, layer.weight.item() == 0
    (False, False)
    >>> layer.training, layer.weight.item()
    (True, 0.0)
    """

    def __init__(self, model: nn.Module):
        own = [vars(module) for module in model.modules()]
        nested = [value for d in own for value in d.values() if isinstance(value, dict)]  # of weights, layers, hooks
        self._dicts = [(d, dict(d)) for d in own + nested]
        found = {id(t): t for d in own + nested for t in d.values() if isinstance(t, Tensor)}.values()
        self._tensors = [(t, t.detach().clone()) for t in found]
        self._trained = [(p, p.requires_grad) for p in found if p.is_leaf]
        self._versions: list[int] = []

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Put the network into this state, for as long as the context lasts."""
        dicts, trained = [(d, dict(d)) for d, _ in self._dicts], [(p, p.requires_grad) for p, _ in self._trained]
        before = [(t, t.data, kept, _same(t.data, kept)) for t, kept in self._tensors]
        _refill(self._dicts, self._trained)
        for tensor, _, kept, same in before:
            if not same:
                tensor.data = kept.clone()  # no graph notices, and the other values come back
        self._versions = [t._version for t, _ in self._tensors]
        try:
            yield
        finally:
            _refill(dicts, trained)
            for tensor, data, kept, same in before:
                tensor.data = data  # in the memory where it was
                if same and not _same(data, kept):  # versions do not tell: batch norm writes unseen by them
                    data.copy_(kept)

    def restore(self) -> None:
        """Undo what a pass through the network has left behind, as far as versions of tensors tell."""
        _refill(self._dicts, ())
        for (tensor, kept), version in zip(self._tensors, self._versions, strict=True):
            if tensor._version != version:
                tensor.data.copy_(kept)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _refill(dicts, trained) -> None:
    for now, then in dicts:
        if (now or then) and (len(now) != len(then) or any(map(is_not, now.values(), then.values()))):
            now.clear()
            now.update(then)
    for p, flag in trained:
        if p.requires_grad != flag:
            p.requires_grad_(flag)


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions of float32 numbers in float32: no TF32, no autocast, which keep three digits."""
    backends = torch.backends
    switches = [  # how one is read, how it is set, and to what
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        (lambda: backends.cudnn.allow_tf32, partial(setattr, backends.cudnn, "allow_tf32"), False),
    ]
    try:
        before = [read() for read, _, _ in switches]
    except RuntimeError:  # they cannot be read where someone has used the newer ones
        places = backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn
        switches = [(None, partial(setattr, place, "fp32_precision"), "ieee") for place in places]
        before = [place.fp32_precision for place in places]
    try:
        for _, write, value in switches:
            write(value)
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for (_, write, _), value in zip(switches, before, strict=True):
            write(value)


@contextmanager
def computing(remedy: str, what: str) -> Iterator[None]:
    """Full precision; and a device's lack of memory is an error that says what helps."""
    try:
        with full_precision():
            yield
    except torch.OutOfMemoryError as error:
        fault = f"{what}: the device is out of memory: {remedy} ({str(error).splitlines()[0]})"
        raise MemoryError(fault) from error


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Steps that can be made again: cuDNN chooses what gives the same twice, and graphs are kept, whatever the caller.

    The global random state of the CPU and of this device stays.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic  # cudnn.flags() fails where TF32 is chosen by the newer switches
    cudnn.benchmark, cudnn.deterministic = False, True
    random = torch.random.fork_rng([device] if device.type == "cuda" else [])
    try:
        with random, torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def seed_device(value: int, device: torch.device) -> None:
    """Seed the CPU and this device, as :func:`torch.manual_seed` does with all that there are."""
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(value)


class Peak(TorchDispatchMode):
    """Most bytes in use at once by the tensors made in this context.

    What an operation needs inside, such as the columns of a convolution, is not seen; it is taken to be as much as its
    arguments and results are.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite.gradients.conditions import Peak
    >>> x = torch.ones(100, dtype=torch.float64)
    >>> with Peak() as memory:
    ...     y = (2 * x).sum()
    >>> memory.bytes  # 2 * x, and as much as both are while it is made
    2400
    """

    def __init__(self):
        super().__init__()
        self.bytes = self._alive = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation, and count what it makes."""
        used, out = _storages(args), func(*args, **(kwargs or {}))
        made = {key: storage for key, storage in _storages([out]).items() if key not in used}  # views make nothing
        for storage in made.values():
            self._alive += storage.nbytes()
            weakref.finalize(storage, self._free, storage.nbytes())
        self.bytes = max(self.bytes, self._alive + sum(s.nbytes() for s in (used | made).values()))
        return out

    def _free(self, size: int) -> None:
        self._alive -= size


def _storages(values) -> dict[int, torch.UntypedStorage]:
    tensors = [t for v in values for t in (v if isinstance(v, tuple | list) else (v,)) if isinstance(t, Tensor)]
    return {s._cdata: s for s in (t.untyped_storage() for t in tensors if t.layout == torch.strided)}

"""Under what conditions gradients are computed: a network as it was, numbers in full precision; and their memory."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_not

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class State:
    """All that a network holds in tensors and attributes, to be put in force while something is computed.

    In force, the network has the weights, buffers, modes and layers that it had when the state was taken. Afterwards it
    has again those that it had before: what passes leave behind, such as running statistics, a hidden state or a
    weight computed from others, is gone. The network itself is used and no copy, which the hooks of its weights and a
    loss that reaches them would not know.

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
        nested = [d[name] for d in own for name in ("_parameters", "_buffers", "_modules") if name in d]
        self._dicts = [(d, dict(d)) for d in own + nested]
        found = {id(t): t for d in own + nested for t in d.values() if isinstance(t, Tensor)}.values()
        self._tensors = [(t, t.detach().clone()) for t in found]
        self._trained = [(p, p.requires_grad) for p in found if p.is_leaf]
        self._versions: list[int] = []

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Put the network into this state, for as long as the context lasts."""
        dicts, trained = [(d, dict(d)) for d, _ in self._dicts], [(p, p.requires_grad) for p, _ in self._trained]
        others = [(t, t.detach().clone(), kept) for t, kept in self._tensors if not torch.equal(t.detach(), kept)]
        _refill(self._dicts, self._trained)
        for tensor, _, kept in others:
            tensor.data.copy_(kept)  # by .data no graph notices: the values come back
        self._versions = [t._version for t, _ in self._tensors]
        try:
            yield
        finally:
            _refill(dicts, trained)
            for tensor, kept in self._tensors:
                if not torch.equal(tensor.detach(), kept):  # versions do not tell: batch norm writes unseen by them
                    tensor.data.copy_(kept)
            for tensor, value, _ in others:
                tensor.data.copy_(value)

    def restore(self) -> None:
        """Undo what a pass through the network has left behind."""
        _refill(self._dicts, ())
        for (tensor, kept), version in zip(self._tensors, self._versions, strict=True):
            if tensor._version != version:
                tensor.data.copy_(kept)


def _refill(dicts, trained) -> None:
    for now, then in dicts:
        if len(now) != len(then) or any(map(is_not, now.values(), then.values())):
            now.clear()
            now.update(then)
    for p, flag in trained:
        if p.requires_grad != flag:
            p.requires_grad_(flag)


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions of float32 numbers in float32: neither TF32 nor bfloat16, which keep three digits."""
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
        yield
    finally:
        for (_, write, _), value in zip(switches, before, strict=True):
            write(value)


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
        self._known: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation, and count what it makes."""
        used = _dense((args, kwargs))
        for tensor in used:
            self._known.setdefault(tensor.untyped_storage()._cdata, tensor)  # was there before, and is kept alive
        out = func(*args, **(kwargs or {}))
        made = _dense(out)
        for tensor in made:
            self._count(tensor.untyped_storage())
        self.bytes = max(self.bytes, self._alive + sum(t.nbytes for t in used + made))
        return out

    def _count(self, storage) -> None:
        if storage._cdata not in self._known:
            self._known[storage._cdata] = None
            self._alive += storage.nbytes()
            self.bytes = max(self.bytes, self._alive)
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, key: int, size: int) -> None:
        del self._known[key]
        self._alive -= size


def _dense(tree) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.layout == torch.strided]

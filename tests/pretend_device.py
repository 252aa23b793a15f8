"""A pretend accelerator: tensors that say they are on cuda:0, are computed on the CPU, and refuse what CUDA refuses.

Python names the device ``cuda``; on the way into torch's C++, which has none, the name becomes ``meta``, and on the way
out of it, below autograd and vmap, whatever would be made on ``meta`` is a :class:`Pretend` around a tensor on the CPU.
It finds tensors on the wrong device, counts waits for the device, and rounds as TF32 does. It shows neither cuDNN's nor
cuSOLVER's own faults, nor real memory.
"""

import contextlib
from collections import Counter
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, META, CPU = torch.device("cuda", 0), torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
# What takes tensors of several devices: copies between them, and indices, which may be on the CPU.
COPIES = {aten.copy_, aten._to_copy, aten.lift_fresh, aten.detach}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
# Here not even a number may be on the CPU.
STRICT = {aten.cat, aten.stack, aten.mm, aten.bmm, aten.mv, aten.dot, aten.addmm, aten.baddbmm, aten.addmv, aten.gather}
# What a device waits for: it hands a number, or a size, to the CPU.
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero}
CONVOLUTIONS = {aten.convolution: 2, aten.convolution_backward: 3}  # and how many factors each multiplies
PRODUCTS = {aten.mm: (0, 1), aten.bmm: (0, 1), aten.addmm: (1, 2), aten.addmm_: (1, 2), aten.baddbmm: (1, 2)}


class Pretend(torch.Tensor):
    """A tensor on the device; ``inner`` is where its numbers are."""

    @staticmethod
    def __new__(cls, inner):
        sizes = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, device=META, **sizes)
        made.inner = inner
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    def __repr__(self, **_):
        return f"Pretend({self.inner!r})"

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            copied = Pretend(self.inner.detach().clone())
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter(self) else copied
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return rebuilt, (self.inner.detach(), is_parameter(self), self.requires_grad)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.data.__set__:
            if not isinstance(args[1], Pretend):
                raise RuntimeError("Attempted to call `variable.set_data(tensor)`, but they are on different devices")
            args[0].inner = args[1].inner
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):  # C++ would put lists and numbers on meta
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (args[0], index, *(torch.tensor(v) if isinstance(v, int | float) else v for v in args[2:]))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def is_parameter(tensor):
    return isinstance(tensor, torch.nn.Parameter)


class Names(TorchFunctionMode):
    """In Python: a device named cuda becomes meta, and a generator has to be on the device of its numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            func, args, kwargs = torch.Tensor.to, (args[0], CUDA), {}
        generator = kwargs.get("generator")
        if generator is not None:
            place = kwargs.get("device") or next((a.device for a in args if isinstance(a, torch.Tensor)), CPU)
            if torch.device(place).type != generator.device.type:
                place = torch.device(place).type
                raise RuntimeError(
                    f"Expected a {place!r} device type for generator but found {generator.device.type!r}"
                )
        if func in (torch.as_tensor, torch.tensor, torch.asarray) and is_cuda(kwargs.get("device")):
            made = func(args[0] if not isinstance(args[0], Pretend) else args[0].inner, **kwargs | {"device": CPU})
            return args[0] if isinstance(args[0], Pretend) and args[0].dtype == made.dtype else made.to(META)
        for place in filter(is_cuda, (*args, kwargs.get("device"))):
            if torch.device(place).index and func is not torch.device:
                raise RuntimeError("CUDA error: invalid device ordinal")
        if func is torch.Tensor.to:
            args = tuple(META if is_cuda(a) else a for a in args)
        return func(*args, **kwargs | {"device": META} if is_cuda(kwargs.get("device")) else kwargs)


def is_cuda(device):
    return isinstance(device, str | torch.device) and str(device).split(":")[0] == "cuda"


class Ops(TorchDispatchMode):
    """In C++, below autograd: also what is made of no tensor, or of tensors on the CPU alone."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def mapped(f, tree):
    """Lists, tuples and dictionaries with ``f`` of what is in them."""
    if isinstance(tree, dict):
        return type(tree)((name, mapped(f, value)) for name, value in tree.items())
    return type(tree)(mapped(f, value) for value in tree) if type(tree) in (list, tuple) else f(tree)


STATE = {"waits": Counter(), "float64": True, "map_location": None, "cuda": True}


def compute(func, args, kwargs):
    """Refuse, count and round as the device does; compute on the CPU."""
    name, to = func.overloadpacket, kwargs.get("device")
    tensors = []
    mapped(lambda t: tensors.append(t) if isinstance(t, torch.Tensor) else None, (args, kwargs))
    ours = {id(t.inner): t for t in tensors if isinstance(t, Pretend)}
    if not ours and to != META:
        return func(*args, **kwargs)
    _refuse(name, func, args, [t for t in tensors if not isinstance(t, Pretend)], bool(ours))
    to_host = to == CPU or (name is aten.copy_ and not isinstance(args[0], Pretend))
    if name in WAITS or to_host or (name is aten.index and any(_is_mask(t) for t in tensors[1:])):
        STATE["waits"][name.__name__] += 1
    args, kwargs = mapped(lambda t: t.inner if isinstance(t, Pretend) else t, (args, kwargs))
    if to is not None:
        kwargs["device"] = CPU
    out = func(*_rounded(name, args), **kwargs)
    if to_host:
        return out if name is aten.copy_ else mapped(lambda t: t.clone() if id(t) in ours else t, out)
    return mapped(lambda t: ours[id(t)] if id(t) in ours else _wrapped(t), out)


def _wrapped(t):
    if not isinstance(t, torch.Tensor):
        return t
    if t.dtype in (torch.float64, torch.complex128) and not STATE["float64"]:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    return Pretend(t)


def _is_mask(t):
    return t.dtype == torch.bool


def _refuse(name, func, args, plain, ours):
    if not ours or name in COPIES:
        return
    if name in INDEXED and isinstance(args[0], Pretend):
        plain = [t for t in args[2:3] if isinstance(t, torch.Tensor) and not isinstance(t, Pretend)]
    numbers = (name not in STRICT and name not in INDEXED) or isinstance(args[0], Pretend)
    written = func._schema.is_mutable and isinstance(args[0], torch.Tensor) and not isinstance(args[0], Pretend)
    wrong = plain if written else [t for t in plain if t.ndim or not numbers or name in STRICT]
    if wrong:
        shape = tuple(wrong[0].shape)
        raise RuntimeError(f"Expected all tensors to be on the same device, but got cuda:0 and cpu ({name}, {shape})")


def _rounded(name, args):
    """The factors of a product as TF32 has them, if torch's switches allow it; cuDNN's is on by default."""
    if name in CONVOLUTIONS and allows_tf32(torch.backends.cudnn):
        n = CONVOLUTIONS[name]
        return (*map(tf32, args[:n]), *args[n:])
    if name in PRODUCTS and allows_tf32(torch.backends.cuda):
        return tuple(tf32(a) if i in PRODUCTS[name] else a for i, a in enumerate(args))
    return args


def allows_tf32(backend):
    """What the newer switches say where there are any: the older ones cannot be read once those were used."""
    switch = getattr(backend, "conv", None) or getattr(backend, "matmul", backend)
    newer = getattr(switch, "fp32_precision", None)
    return newer == "tf32" if newer else switch.allow_tf32


def tf32(t):
    """The nearest numbers with 10 bits of mantissa."""
    if t is None or t.dtype != torch.float32:
        return t
    mantissa, exponent = torch.frexp(t)
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)


class Generator(torch.Generator):
    """A generator that says that it is on the device."""

    device = property(lambda self: CUDA)


# ---- files, and what torch.cuda says


def rebuilt(inner, parameter, requires_grad):
    """A tensor out of a file, where ``torch.load`` was told to put it."""
    place = STATE["map_location"]
    if place is None and not STATE["cuda"]:
        raise RuntimeError("Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False.")
    tensor = Pretend(inner) if place is None or is_cuda(place) else inner
    return torch.nn.Parameter(tensor, requires_grad) if parameter else tensor


REAL_LOAD = torch.load


def load(file, map_location=None, **options):
    """As ``torch.load`` where the device is, or with :func:`no_cuda` where it is not."""
    with mock.patch.dict(STATE, map_location=map_location):
        found = REAL_LOAD(file, map_location="cpu", **options)
    return mapped(lambda t: t.to(CUDA) if isinstance(t, torch.Tensor) and is_cuda(map_location) else t, found)


@contextlib.contextmanager
def no_cuda():
    """A machine without the device, which reads files of one that has it."""
    torch.serialization.add_safe_globals([rebuilt])
    with mock.patch.dict(STATE, cuda=False), mock.patch("torch.load", load):
        yield


@contextlib.contextmanager
def accelerator(free=10**10, reserved=0, allocated=0, float64=True):
    """The device, with so many bytes free, so many reserved by torch, so many of those in use; waits are counted."""
    torch.serialization.add_safe_globals([rebuilt])
    says = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "get_device_name": lambda device=None: "pretend",
        "mem_get_info": lambda device=None: (free, 2 * 10**10),
        "memory_reserved": lambda device=None: reserved,
        "memory_allocated": lambda device=None: allocated,
        "default_generators": (torch.Generator(),),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "manual_seed_all": lambda seed: None,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in says.items():
            stack.enter_context(mock.patch(f"torch.cuda.{name}", answer))
        stack.enter_context(mock.patch("torch.load", load))
        stack.enter_context(mock.patch.dict(STATE, waits=Counter(), float64=float64))
        stack.enter_context(Names())
        stack.enter_context(Ops())
        yield STATE["waits"]

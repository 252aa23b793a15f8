"""The paper's networks, with exactly its numbers of weights, and a flat view of a network's parameters.

The layouts are those of the longer version (arXiv 1710.11029, Sec. 4 and App. C): every convolution and linear layer
has a bias, and all weights, those of batch-norm included, are counted in ``d``. The two networks with one hidden layer
are those of the authors' code, where the text has two.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sgdvi_lite import _checks

Shape = tuple[int, ...]

NORMS = ("batch", "group", None)  # what may normalise the outputs of a layer

CHANNELS_A_GROUP = 4
"""Channels in a group of group-norm: it divides all hidden widths here; of 2 outputs only signs would stay."""

DROPOUT = 0.1
"""Rate of dropout in small-lenet, as in the paper, and in small-allcnn, for which the paper gives none."""


def _layer(layer: nn.Conv2d | nn.Linear, norm: str | None, *after: nn.Module) -> nn.Sequential:
    """A layer, what normalises its outputs, and what comes after."""
    channels = len(layer.weight)
    batch_norm = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
    groups = 1 if channels % CHANNELS_A_GROUP else channels // CHANNELS_A_GROUP
    between = {"batch": [batch_norm(channels)], "group": [nn.GroupNorm(groups, channels)], None: []}
    return nn.Sequential(layer, *between[norm], *after)


def _small_lenet(in_shape: Shape, classes: int, norm: str | None, dropout: float) -> nn.Module:
    channels, height, width = in_shape
    features = [((side - 4) // 3 - 4) // 2 for side in (height, width)]
    if min(features) < 1:
        raise ValueError(f"in_shape = {in_shape}: small-lenet needs images of at least 22 x 22 pixels; use small-fc")
    return nn.Sequential(
        _layer(nn.Conv2d(channels, 8, 5), norm, nn.ReLU(), nn.MaxPool2d(3), nn.Dropout(dropout)),
        _layer(nn.Conv2d(8, 16, 5), norm, nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(dropout)),
        nn.Flatten(),
        _layer(nn.Linear(16 * features[0] * features[1], 128), norm, nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(128, classes),
    )


def _fully_connected(in_shape: Shape, classes: int, norm: str | None, dropout: float, *hidden: int) -> nn.Module:
    widths = (math.prod(in_shape), *hidden)
    layers = (_layer(nn.Linear(a, b), norm, nn.ReLU()) for a, b in pairwise(widths))
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], classes))


def _small_allcnn(in_shape: Shape, classes: int, norm: str | None, dropout: float) -> nn.Module:
    def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        return _layer(nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), norm, nn.ReLU())

    return nn.Sequential(
        *(conv(in_shape[0], 12), conv(12, 12), conv(12, 12, stride=2), nn.Dropout(dropout)),
        *(conv(12, 24), conv(24, 24), conv(24, 24, stride=2), nn.Dropout(dropout)),
        *(conv(24, 24), conv(24, 24)),
        _layer(nn.Conv2d(24, classes, 1), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def _of_widths(*hidden: int) -> "Network":
    return lambda *layout: _fully_connected(*layout, *hidden)


Network = Callable[[Shape, int, str | None, float], nn.Module]
NETWORKS: dict[str, Network] = {
    "small-lenet": _small_lenet,
    "small-fc": _of_widths(64, 64),
    "tiny-fc": _of_widths(16, 16),
    "small-one-fc": _of_widths(64),
    "tiny-one-fc": _of_widths(16),
    "small-allcnn": _small_allcnn,
}
"""The networks by name; a new one is a function of the input's shape, the classes, the norm and the dropout."""


def build(
    name: str,
    *,
    in_shape: Shape,
    classes: int,
    generator: torch.Generator,
    norm: str | None = "batch",
    dropout: float | None = None,
) -> nn.Module:
    """Build one of :data:`NETWORKS`, in training mode, with weights drawn from ``generator``.

    Parameters
    ----------
    name
        ``small-lenet``, ``small-fc``, ``tiny-fc``, ``small-one-fc``, ``tiny-one-fc`` or ``small-allcnn``.
    in_shape
        Channels, height and width of one input.
    classes
        Number of outputs.
    generator
        Source of the initial weights: uniform of variance 1 / (3 fan-in), PyTorch's own default, so that a
        seed fixes the network and the global random state stays untouched.
    norm
        ``batch`` for batch-norm, as in the paper; ``group`` for group-norm in its place, with groups of
        :data:`CHANNELS_A_GROUP` channels, or one group where that does not divide their number; ``None`` for neither.
        The other layers, and the weights drawn for them, are the same in all three. With ``group`` the loss of an
        example depends on no other example, in training too.
    dropout
        Rate of the dropout that the network has, by default :data:`DROPOUT`.

    Raises
    ------
    ValueError
        If the name or the norm is unknown, a size is not positive, the images are too small for the convolutions, or
        a dropout is given that is not in [0, 1), or to a network that has none.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import nets
    >>> net = nets.build("small-lenet", in_shape=(1, 28, 28), classes=10, generator=torch.Generator().manual_seed(0))
    >>> nets.count_parameters(net)
    13338
    """
    _checks.one_of("name", name, NETWORKS)
    _checks.argument("norm", repr(norm), norm in NORMS, "'batch', 'group' or None")
    classes, in_shape = _checks.count("classes", classes, low=2), tuple(in_shape)
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise ValueError(f"in_shape = {in_shape}: expected three positive sizes (channels, height, width)")
    in_shape = tuple(_checks.count("in_shape", size) for size in in_shape)
    rate = DROPOUT if dropout is None else _checks.rate("dropout", dropout)
    with torch.random.fork_rng(devices=[]):
        model = NETWORKS[name](in_shape, classes, norm, rate)
    _checks.argument("dropout", dropout, dropout is None or _dropouts(model), f"None, as {name} has no dropout")
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for weights in (layer.weight, layer.bias):
                nn.init.uniform_(weights, -bound, bound, generator)
    return model


def _dropouts(model: nn.Module) -> list[nn.modules.dropout._DropoutNd]:
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]


@torch.no_grad()
def calibrate(model: nn.Module, x: Tensor | np.ndarray, batch_size: int = 1000) -> nn.Module:
    """Give batch-norm the running statistics of the weights at hand, in place, and return the network.

    A network that was just built has the means 0 and the variances 1, and one that was trained those of the weights of
    its last steps: in evaluation mode both are other networks than the one whose batches SGD sees. The examples are fed
    once in training mode without dropout, in batches of nearly equal size; the statistics become the means of those of
    the batches. Modes, momentum and dropout are as before afterwards. Dropout that is no layer of its own stays on.

    Parameters
    ----------
    model
        A network with batch-norm.
    x
        Inputs ``(N, ...)`` of the training set, at least two.
    batch_size
        Least examples in a batch; all, if there are fewer.

    Raises
    ------
    ValueError
        If no layer has running statistics, or there are fewer than two examples.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import nets
    >>> layer = torch.nn.BatchNorm1d(1)
    >>> nets.calibrate(layer, torch.tensor([[1.0], [3.0]])).running_mean
    tensor([2.])
    """
    x, batch_size = torch.as_tensor(x), _checks.count("batch_size", batch_size, low=2)
    norms = [layer for layer in model.modules() if getattr(layer, "running_mean", None) is not None]
    _checks.require(norms, "model has no layer with running statistics: expected batch-norm; use it as it is")
    _checks.shape("x", x.shape, x.ndim > 0 and len(x) > 1, "(N, ...) with N >= 2, the training set")
    batches = x.to(norms[0].running_mean.device).tensor_split(max(1, len(x) // batch_size))
    modes, momenta = [(m, m.training) for m in model.modules()], [(layer, layer.momentum) for layer in norms]
    try:
        model.train()
        for layer in _dropouts(model):
            layer.eval()
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # of all batches alike
        for batch in batches:
            model(batch)
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in momenta:
            layer.momentum = momentum
    return model


def count_parameters(model: nn.Module) -> int:
    """Number ``d`` of trainable weights."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def flat_parameters(model: nn.Module) -> Float[Tensor, " d"]:
    """All trainable weights as one vector (a detached copy), in the order of ``model.parameters()``.

    This is the order of the columns of the per-example gradients and of the rows and columns of ``D``.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import nets
    >>> nets.flat_parameters(torch.nn.Linear(2, 3)).shape
    torch.Size([9])
    """
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


@torch.no_grad()
def set_flat_parameters(model: nn.Module, vector: Tensor | np.ndarray) -> None:
    """Write a vector as of :func:`flat_parameters` back into the network, in place.

    Raises
    ------
    ValueError
        If the vector's shape is not ``(d,)``.
    """
    vector, d = torch.as_tensor(vector), count_parameters(model)
    _checks.shape("vector", vector.shape, vector.shape == (d,), f"({d},), the network's number of weights")
    _checks.require(not vector.is_complex(), "vector is complex: expected real weights")
    trainable = [p for p in model.parameters() if p.requires_grad]
    for p, part in zip(trainable, vector.split([p.numel() for p in trainable]), strict=True):
        p.copy_(part.view_as(p))


@torch.no_grad()
def error_rate(model: nn.Module, x: Tensor | np.ndarray, y: Tensor | np.ndarray, chunk: int = 4096) -> float:
    """Fraction of examples whose largest output is not their label, in evaluation mode, in which the model stays.

    Examples
    --------
    >>> import torch
    >>> from sgdvi_lite import nets
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> nets.set_flat_parameters(model, torch.tensor([1.0, 0.0, 0.0, 1.0]))  # the identity
    >>> nets.error_rate(model, torch.tensor([[2.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]))
    0.5
    """
    x, y, chunk = torch.as_tensor(x), torch.as_tensor(y), _checks.count("chunk", chunk)
    _checks.shape("y", y.shape, y.ndim == 1, "(N,), one label for each example")
    _checks.same_length("x", x, "y", y)
    device = next(model.parameters()).device
    model.eval()
    parts = zip(x.split(chunk), y.split(chunk), strict=True)
    return sum(int((model(a.to(device)).argmax(1) != b.to(device)).sum()) for a, b in parts) / len(x)

"""What is kept of a diffusion matrix in a folder, and what tells whose matrix it is."""

import math
from pathlib import Path

import torch

from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import NOTHING, Checkpoints, Folder, Kind
from sgdvi_lite.gradients.source import Network

# Losses are compared to three digits: another device or another number of threads rounds otherwise.
COMPUTATION = Kind("computation.json", "computation", "computes", tolerance=1e-3)
LOSSES = 64  # so many values tell which loss it is, which has no name that tells its numbers
SPREAD = 8  # gradients of so many examples, spread over all, tell what hooks and functions of one's own make of them
UNIT = 1e-20  # of their norm in the header, so that the smallest is no matter of an absolute tolerance


def of_network(folder: str | Path | None, network: Network, group=None) -> Checkpoints:
    """What is kept of a computation with the gradients of a network."""
    if folder is None:
        return NOTHING
    if group is not None:
        raise ValueError(f"folder = {str(folder)!r} with a group: the work of several ranks is not kept; leave one out")
    model, x, y = network.model, network.x, network.y
    with torch.no_grad():
        losses = [network.loss(model(x[k : k + 1]), y[k : k + 1]).item() for k in range(min(len(x), LOSSES))]
    identity = {
        "trained": [f"{name} {tuple(p.shape)}" for name, p in model.named_parameters() if p.requires_grad],
        "weights": digest(*model.state_dict().values()),
        "data": digest(x, y),
        "chunk": network.chunk,
        "losses": losses,
        "gradients": _fingerprint(network),
    }
    return Checkpoints(Folder(folder, COMPUTATION, identity), x.device)


def _fingerprint(network: Network) -> list[float]:
    """Norm of the gradients of some examples, and the share in it of half of each weight's entries, signs included."""
    model, weights = network.model, [p for p in network.model.parameters() if p.requires_grad]
    some = sorted({k * (network.N - 1) // (SPREAD - 1) for k in range(SPREAD)})
    losses = (network.loss(model(network.x[k : k + 1]), network.y[k : k + 1]) for k in some)
    with torch.enable_grad():
        rows = [torch.autograd.grad(loss, weights, materialize_grads=True, allow_unused=True) for loss in losses]
    total = math.sqrt(sum(g.double().square().sum().item() for row in rows for g in row))
    signs = torch.Generator().manual_seed(0)
    halves = []
    for columns in zip(*rows, strict=True):
        g = torch.stack(columns).double().cpu()
        g *= 2 * torch.randint(2, g.shape, generator=signs) - 1
        halves.append(g.clamp_min(0).norm().item() / total if total else 0.0)
    return [total / UNIT, *halves]

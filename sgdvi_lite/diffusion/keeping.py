"""What is kept of a diffusion matrix in a folder, and what tells whose matrix it is."""

from pathlib import Path

import torch
from torch import Tensor

from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import NOTHING, Checkpoints, Folder, Kind
from sgdvi_lite.gradients.source import Network

# Gradients are compared to three digits: another device or another number of threads rounds otherwise.
COMPUTATION = Kind("computation.json", "computation", tolerance=1e-3)
SPREAD = 64  # gradients of so many examples, spread over all, tell what a loss, hooks and layers of one's own compute


def of_network(folder: str | Path | None, network: Network, group=None) -> Checkpoints:
    """What is kept of a computation with the gradients of a network."""
    if folder is None:
        return NOTHING
    if group is not None:
        raise ValueError(f"folder = {str(folder)!r} with a group: the work of several ranks is not kept; leave one out")
    trained = {name: p for name, p in network.model.named_parameters() if p.requires_grad}
    examples = sorted({k * (network.N - 1) // (SPREAD - 1) for k in range(SPREAD)})
    identity = {
        "trained": [f"{name} {tuple(p.shape)}" for name, p in trained.items()],
        "weights": digest(*network.model.state_dict().values()),
        "data": digest(*network.inputs),
        "chunk": network.chunk,
        **_fingerprint(network.one_by_one(examples), [p.numel() for p in trained.values()]),
    }
    return Checkpoints(Folder(folder, COMPUTATION, identity), network.like.device)


def _fingerprint(G: Tensor, sizes: list[int]) -> dict[str, list[float]]:
    """Norms of gradients (n, d), and those of half of the entries for each weight, which tell their signs as well."""
    G = G.double().cpu()
    signs = 2 * torch.randint(2, G.shape, generator=torch.Generator().manual_seed(0)) - 1
    halves = (G * signs).clamp_min(0).split(sizes, dim=1)
    return {"gradients": G.norm(dim=1).tolist(), "halves": [half.norm().item() for half in halves]}

"""What is kept of a diffusion matrix in a folder, and what tells whose matrix it is."""

from pathlib import Path

from sgdvi_lite._storage.files import digest
from sgdvi_lite._storage.folder import NOTHING, Checkpoints, Folder, Kind
from sgdvi_lite.gradients.examples import leaves
from sgdvi_lite.gradients.source import Network

# Losses are compared to three digits: another device or another number of threads rounds otherwise.
COMPUTATION = Kind("computation.json", "computation", "computes", tolerance=1e-3)
LOSSES = 64  # so many values tell which loss it is, which has no name that tells its numbers


def of_network(folder: str | Path | None, network: Network, group=None) -> Checkpoints:
    """What is kept of a computation with the gradients of a network."""
    if folder is None:
        return NOTHING
    if group is not None:
        raise ValueError(f"folder = {str(folder)!r} with a group: the work of several ranks is not kept; leave one out")
    model = network.model
    losses = [network.loss_of(k) for k in range(min(network.N, LOSSES))]
    identity = {
        "trained": [f"{name} {tuple(p.shape)}" for name, p in model.named_parameters() if p.requires_grad],
        "weights": digest(*model.state_dict().values()),
        "data": digest(*leaves((network.x, network.y))),
        "chunk": network.chunk,
        "losses": losses,
    }
    return Checkpoints(Folder(folder, COMPUTATION, identity), network.like.device)

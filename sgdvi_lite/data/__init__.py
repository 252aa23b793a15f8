"""Images with labels: the embedded digits, MNIST and CIFAR by download, any ``.npz``; and their preprocessing.

Every function returns a new :class:`Dataset`. Whatever is fitted (means, whitening) is fitted on the training images
and then applied to both parts.
"""

from sgdvi_lite.data.dataset import NAMES, Dataset, load
from sgdvi_lite.data.preprocessing import augment, average_pool, class_subset, first, gcn_zca, overflow, standardise

__all__ = [
    "NAMES",
    "Dataset",
    "augment",
    "average_pool",
    "class_subset",
    "first",
    "gcn_zca",
    "load",
    "overflow",
    "standardise",
]

"""Stochastic gradient descent: how batches are drawn, training, long recorded runs, replicas of a finite sum.

Batch indices are drawn on the CPU, so that every device sees the same data in the same order.
"""

from sgdvi_lite.sgd.ensembles import replicas
from sgdvi_lite.sgd.recording import Recording, open_recording, record
from sgdvi_lite.sgd.sampling import SAMPLINGS, batches
from sgdvi_lite.sgd.training import SGD, Schedule, Transform, run

__all__ = ["SAMPLINGS", "SGD", "Recording", "Schedule", "Transform"]
__all__ += ["batches", "open_recording", "record", "replicas", "run"]

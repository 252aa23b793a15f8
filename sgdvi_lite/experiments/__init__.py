"""Experiments that run from the command line: a preset, a table, a figure, a saved result.

A run that was stopped goes on where it was: what it has finished is on disk. Chapter 9 reads the results of
``spectrum``, chapter 10 those of ``trajectory``. ``registry`` has an entry for each, ``training`` the settings that
they share; ``spectrum`` and ``trajectory`` hold their own settings, what they compute (``run``) and what a result says
(``report``).
"""

from sgdvi_lite.experiments.registry import PRESETS, Settings, prepare, result_path, run, settings
from sgdvi_lite.experiments.spectrum.run import SpectrumSettings
from sgdvi_lite.experiments.trajectory.run import TrajectorySettings
from sgdvi_lite.nets import error_rate

__all__ = [
    "PRESETS",
    "Settings",
    "SpectrumSettings",
    "TrajectorySettings",
    "error_rate",
    "prepare",
    "result_path",
    "run",
    "settings",
]

Spectrum = SpectrumSettings
Trajectory = TrajectorySettings

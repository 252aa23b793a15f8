"""Experiments that run from the command line: a preset, a table, a figure, a saved result.

A run that was stopped goes on where it was. ``registry`` has an entry for each experiment, ``training`` the settings
that all share; ``spectrum`` (chapter 9), ``trajectory`` (chapter 10), ``temperature`` (chapter 12) and ``noise``
(chapter 13) hold their own settings, what they compute (``run``) and what a result says (``report``).
"""

from sgdvi_lite.experiments.noise.run import NoiseSettings
from sgdvi_lite.experiments.registry import PRESETS, Settings, prepare, result_path, run, settings
from sgdvi_lite.experiments.spectrum.run import SpectrumSettings
from sgdvi_lite.experiments.temperature.run import TemperatureSettings
from sgdvi_lite.experiments.trajectory.run import TrajectorySettings
from sgdvi_lite.nets import error_rate

__all__ = ["PRESETS", "NoiseSettings", "Settings", "SpectrumSettings", "TemperatureSettings", "TrajectorySettings"]
__all__ += ["error_rate", "prepare", "result_path", "run", "settings"]

Spectrum = SpectrumSettings
Trajectory = TrajectorySettings

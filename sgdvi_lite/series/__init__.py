"""Time series: spectra, autocorrelation, stationarity, currents, cycles, each with its error, and null models.

Arrays are NumPy, float64, with time along the first axis; lags and frequencies count in samples of the series (steps of
SGD times ``every``, for a recording). Chapter 10 puts every inference from a long trajectory beside its null model.
"""

from sgdvi_lite.series.balance import Balance, stationarity, trend
from sgdvi_lite.series.correlations import ShortSeriesError, autocorrelation, autocorrelation_band, integrated_time
from sgdvi_lite.series.currents import VelocityField, lagged_covariance, stochastic_area, velocity_field
from sgdvi_lite.series.cycles import (
    Scores,
    area_by_lag,
    area_scores,
    chosen_plane,
    holm,
    principal_components,
    turning_plane,
)
from sgdvi_lite.series.estimates import Estimate, batch_means
from sgdvi_lite.series.linear import LinearProcess, epoch_process, fit_linear, momentum_process
from sgdvi_lite.series.null_models import brownian, phase_surrogate, time_reversed, white_noise
from sgdvi_lite.series.spectra import Line, PowerSpectrum, increment_spectrum, spectrum, strongest_line

__all__ = ["Balance", "Estimate", "Line", "LinearProcess", "PowerSpectrum", "Scores", "ShortSeriesError"]
__all__ += ["VelocityField", "area_by_lag", "area_scores", "autocorrelation", "autocorrelation_band", "batch_means"]
__all__ += ["brownian", "chosen_plane", "epoch_process", "fit_linear", "holm", "increment_spectrum", "integrated_time"]
__all__ += ["lagged_covariance", "momentum_process", "phase_surrogate", "principal_components", "spectrum"]
__all__ += ["stationarity", "stochastic_area", "strongest_line", "time_reversed", "trend", "turning_plane"]
__all__ += ["velocity_field", "white_noise"]

Spectrum = PowerSpectrum  # the name until version 0.1

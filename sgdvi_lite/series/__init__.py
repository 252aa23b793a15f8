"""Time series: spectra, autocorrelation, stationarity, currents, cycles, each with its error, and null models.

Arrays are NumPy, float64, with time along the first axis; lags and frequencies count in samples of the series (steps of
SGD times ``every``, for a recording). Chapter 10 puts every inference from a long trajectory beside its null model.
"""

# ruff: noqa: F401
from sgdvi_lite.series.balance import Balance, stationarity
from sgdvi_lite.series.correlations import ShortSeriesError, autocorrelation, autocorrelation_band, integrated_time
from sgdvi_lite.series.currents import VelocityField, lagged_covariance, stochastic_area, velocity_field
from sgdvi_lite.series.cycles import Scores, area_by_lag, area_scores, chosen_plane, principal_components, turning_plane
from sgdvi_lite.series.estimates import Estimate, batch_means
from sgdvi_lite.series.linear import LinearProcess, fit_linear, momentum_process
from sgdvi_lite.series.null_models import brownian, phase_surrogate, time_reversed, white_noise
from sgdvi_lite.series.spectra import Line, PowerSpectrum, increment_spectrum, spectrum, strongest_line

# What is imported here from the modules of this room is what the room exports.
__all__ = sorted(name for name, value in vars().items() if getattr(value, "__module__", "").startswith(__name__))

Spectrum = PowerSpectrum  # the name until version 0.1

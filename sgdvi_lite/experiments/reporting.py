"""The table and the figure of a saved result, whichever experiment made it."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from sgdvi_lite import plots, results
from sgdvi_lite.experiments.spectrum import report as spectrum_report
from sgdvi_lite.experiments.trajectory import report as trajectory_report

_REPORTS = {"spectrum": spectrum_report, "trajectory": trajectory_report}


def _report(result: results.Result):
    return _REPORTS[result.provenance["experiment"]]


def table(result: results.Result) -> str:
    """Return the table of a result: a line for each instant of ``spectrum``, for each finding of ``trajectory``."""
    return _report(result).table(result)


def draw(result: results.Result, path: Path | None = None) -> Figure:
    """Draw the figure of a result; save it as SVG if a path is given."""
    with rc_context(plots.STYLE):  # without pyplot, whose interactive mode a notebook turns on at the first figure
        figure = _report(result).draw(result)
        if path is not None:
            results.write_atomically(path, lambda file: figure.savefig(file, format="svg", metadata={"Date": None}))
    return figure

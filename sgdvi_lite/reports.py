"""What a saved result says: its table as text, and its figure with the null models."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from sgdvi_lite import _spectrum_report, _trajectory_report, plots, results

_REPORTS = {"spectrum": _spectrum_report, "trajectory": _trajectory_report}


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

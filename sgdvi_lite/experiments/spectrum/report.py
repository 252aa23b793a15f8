"""What a saved spectrum says: a table, a line for each instant of the training, and a figure with its null model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from sgdvi_lite import linalg, plots, results

FLOAT32, FLOAT64 = (float(torch.finfo(dtype).eps) for dtype in (torch.float32, torch.float64))

COLUMNS: dict[str, Callable[[dict, int], str]] = {
    "epoch": lambda a, i: f"{a['epoch'][i]:d}",
    "error train": lambda a, i: f"{a['train_error'][i]:.2%}",
    "test": lambda a, i: f"{a['test_error'][i]:.2%}",
    "eigenvalues mean +- std": lambda a, i: "{:.3g} +- {:.3g}".format(
        *linalg.mean_and_std(float(a["trace"][i]), float(a["frobenius"][i]), int(a["d"]))
    ),
    "rank/d float32": lambda a, i: _rank(a, i, FLOAT32),
    "float64": lambda a, i: _rank(a, i, FLOAT64),
    "stable rank": lambda a, i: f"{a['trace'][i] / a['eigenvalues'][i].max():.2f}",
    "participation": lambda a, i: f"{(a['trace'][i] / a['frobenius'][i]) ** 2:.2f}",
    "N": lambda a, i: f"{a['N']:d}",
    "d": lambda a, i: f"{a['d']:d}",
}
"""Columns of the table of ``spectrum``: the heading, and the text of a row from the arrays and the row's number."""


def _rank(arrays: dict, i: int, eps: float) -> str:
    """Rank over d, or a dash if the run's arithmetic is too coarse for that threshold."""
    if eps < arrays.get("eps", [0.0] * len(arrays["epoch"]))[i]:
        return "-"
    spectrum, d = torch.from_numpy(arrays["eigenvalues"][i]), int(arrays["d"])
    return f"{linalg.numerical_rank(spectrum, d, eps) / d:.2%}"


def table(result: results.Result) -> str:
    """Return the table of a ``spectrum`` result as text: a line for each instant of the training."""
    rows = [list(COLUMNS)]
    rows += [[cell(result.arrays, i) for cell in COLUMNS.values()] for i in range(len(result.arrays["epoch"]))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(t.rjust(w) for t, w in zip(row, widths, strict=True)) for row in rows)


def draw(result: results.Result) -> Figure:
    """Draw the spectra of a result, darker is later, with the rank's threshold and the isotropic null."""
    arrays, note = result.arrays, result.provenance["settings"]
    figure = Figure()
    ax = figure.subplots()
    shades = plots.shades(plots.COLOURS[0], len(arrays["epoch"]))
    for epoch, values, shade in zip(arrays["epoch"], arrays["eigenvalues"], shades, strict=True):
        plots.spectrum(ax, values, "", color=shade, label=f"epoch {epoch}")
    plots.spectrum(ax, arrays["null"], "isotropic noise", color=plots.COLOURS[1])
    level = linalg.rank_threshold(float(arrays["eigenvalues"][-1].max()), int(arrays["d"]), FLOAT32)
    plots.threshold(ax, level, "rank threshold, float32")
    ax.set(title=f"{note['net']} on {note['data']}", ylim=(level / 1e3, None))
    ax.legend(loc="upper right")
    return figure

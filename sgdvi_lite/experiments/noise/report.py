"""What a saved comparison of noises says: a table and a figure, each beside what the noise would be without norm."""

import numpy as np
from matplotlib.figure import Figure

from sgdvi_lite import nets, plots, results
from sgdvi_lite.tables import Table

NAMES = [f"{norm}-norm" if norm else "no norm" for norm in nets.NORMS]


def over_runs(values: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over runs and its standard error: by their spread, and at least that of what was measured."""
    n, least = len(values), np.sqrt((errors**2).sum(axis=0)) / len(values)
    return values.mean(axis=0), np.maximum(least, values.std(axis=0, ddof=1) / n**0.5) if n > 1 else least


def table(result: results.Result) -> Table:
    """Return the table of a ``noise`` result: the noise in units of D / b, then its share in D's leading directions."""
    a = result.arrays
    columns = ["network, dropout, epoch", "D / b", *(f"b = {b}" for b in a["b"])]
    ones = np.ones_like(a["own_share"])
    rows = ["trace of the covariance of a batch gradient, in units of tr D / b", *_rows(a, "ratio", ones)]
    rows += ["its share in the ten leading directions of D", *_rows(a, "share", a["own_share"])]
    return Table(columns, rows)


def _rows(a: dict, name: str, own: np.ndarray) -> list[list[str]]:
    """A row for each network, dropout and epoch: what D predicts, and what was measured."""
    (value, error), predicted = over_runs(a[name], a[name + "_error"]), own.mean(axis=0)
    return [
        [f"{NAMES[i]}, {a['dropout'][k]:g}, {a['epoch'][j]}", f"{predicted[i, j]:.2f}"]
        + [f"{v:.2f} +- {e:.2f}" for v, e in zip(value[i, j, k], error[i, j, k], strict=True)]
        for i, k, j in np.ndindex(len(NAMES), len(a["dropout"]), len(a["epoch"]))
    ]


def draw(result: results.Result) -> Figure:
    """Draw both by batch size, a column for each instant; dotted what D predicts, dashed without the dropout."""
    a, note = result.arrays, result.provenance["settings"]
    figure = Figure(figsize=(10, 6))
    grid = figure.subplots(2, len(a["epoch"]), sharex=True, sharey="row")
    for j, i, k in np.ndindex(len(a["epoch"]), len(NAMES), len(a["dropout"])):
        own = a["own_share"].mean(axis=0)[i, j]
        for ax, name, null in zip(grid[:, j], ("ratio", "share"), (1.0, own), strict=True):
            value, error = over_runs(a[name], a[name + "_error"])
            style = {"color": plots.COLOURS[i], "linestyle": "--" if k else "-", "label": None if k else NAMES[i]}
            ax.errorbar(a["b"], value[i, j, k], 2 * error[i, j, k], marker="o", **style)
            ax.axhline(null, color=plots.GREY if name == "ratio" else plots.COLOURS[i], linestyle=":", linewidth=1)
    for ax, epoch in zip(grid[0], a["epoch"], strict=True):
        ax.set(xscale="log", yscale="log", title=f"{note['net']}, epoch {epoch}")
    for ax in grid[1]:
        ax.set(xlabel="batch size b", ylim=(0, 1))
        ax.set_xticks(a["b"], a["b"])
        ax.minorticks_off()
    grid[0, 0].set_ylabel("b tr Cov / tr D")
    grid[1, 0].set_ylabel("share in ten directions of D")
    grid[0, 0].legend()
    return figure

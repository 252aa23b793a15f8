"""What a saved spectrum says: a table, a line for each instant of the training, and a figure with its null model."""

import torch
from matplotlib.figure import Figure

from sgdvi_lite import linalg, plots, results
from sgdvi_lite.tables import Table

# The epsilon of the paper's threshold, which is the coarser one
FLOAT32 = float(torch.finfo(torch.float32).eps)
# The epsilon of the arithmetic in which a spectrum is computed
FLOAT64 = float(torch.finfo(torch.float64).eps)


def table(result: results.Result) -> Table:
    """Return the table of a ``spectrum`` result: a row for each instant of the training."""
    rows = [_row(result.arrays, i) for i in range(len(result.arrays["epoch"]))]
    return Table([*rows[0]], [[*row.values()] for row in rows], left=0)


def _row(arrays: dict, i: int) -> dict[str, str]:
    """The cells of a row, by the headings of their columns."""
    d, trace, frobenius = int(arrays["d"]), float(arrays["trace"][i]), float(arrays["frobenius"][i])
    return {
        "epoch": f"{arrays['epoch'][i]:d}",
        "train error": f"{arrays['train_error'][i]:.2%}",
        "test error": f"{arrays['test_error'][i]:.2%}",
        "eigenvalues mean +- std": "{:.3g} +- {:.3g}".format(*linalg.mean_and_std(trace, frobenius, d)),
        "rank/d float32": _rank(arrays, i, FLOAT32),
        "rank/d float64": _rank(arrays, i, FLOAT64),
        "stable rank": f"{trace / arrays['eigenvalues'][i].max():.2f}",
        "participation": f"{(trace / frobenius) ** 2:.2f}",
        "N": f"{arrays['N']:d}",
        "d": f"{d}",
    }


def _rank(arrays: dict, i: int, eps: float) -> str:
    """Rank over d, at least that if all stored eigenvalues count; a dash if the arithmetic is too coarse for it."""
    if eps < arrays.get("eps", [0.0] * len(arrays["epoch"]))[i]:
        return "-"
    spectrum, d = torch.from_numpy(arrays["eigenvalues"][i]), int(arrays["d"])
    rank, most = linalg.numerical_rank(spectrum, d, eps), min(int(arrays["N"]) - 1, d)
    return "≥ " * (rank == len(spectrum) < most) + f"{rank / d:.2%}"


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

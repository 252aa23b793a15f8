"""What a saved ``temperature`` says: a table, a block of findings for each case, and a figure with the predictions."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from sgdvi_lite import plots, results
from sgdvi_lite.tables import Table

# How batches are drawn, by the names in the arrays and in words; the cases take turns, first those without norm
WAYS = {"with": "independent", "reshuffled": "reshuffled"}

# Along which directions forces pull
FORCES = ("steepest", "middle", "last", "mixed")


def table(result: results.Result) -> Table:
    """Return the table of a ``temperature`` result: a row for each finding, the cases one below the other."""
    rows = []
    for title, a in cases(result).items():
        rows += [f"{title}: N = {a['N']}, d = {a['d']}, loss {a['loss']:.4f}", *_rows(a)]
    return Table(("finding", "value"), rows, left=2)


def cases(result: results.Result) -> dict[str, dict]:
    """The arrays of each case by its name."""
    titles = [f"{norm}, {way} batches" for norm in ("no norm", "batch-norm") for way in WAYS.values()]
    return {title: {name: a[i] for name, a in result.arrays.items()} for i, title in enumerate(titles)}


def over(a: dict, way: str) -> tuple[np.ndarray, np.ndarray]:
    """Variance within stretches over its prediction, for each direction, with the errors of both."""
    ratio = a["variance"] / a[f"predicted_{way}"]
    return ratio, ratio * np.hypot(a["variance_error"] / a["variance"], a["noise_error"] / a["noise"])


def _rows(a: dict) -> list[tuple[str, str]]:
    T, error = a["curvature"] * a["variance"], a["curvature"] * a["variance_error"]
    more, gain = a["total"] / a["variance"], a["stiffness"] * a["response"][:, -1]
    bar = a["stiffness"] * a["response_error"][:, -1]
    return [
        ("Yaida's balance", "{:.4f} +- {:.4f}, {:+.1f} errors from 1".format(*a["balance"])),
        *(
            (f"{name} direction", _direction(a["curvature"][i], T[i], error[i]))
            for name, i in (("steepest", 0), ("last", -1))
        ),
        ("variance over all, over that within stretches", f"{more.min():.2f} to {more.max():.2f}"),
        *((f"over prediction, {word}", _ratios(*over(a, way))) for way, word in WAYS.items()),
        *(
            (f"response over that of a quadratic loss, {n}", f"{g:.2f} +- {e:.2f}")
            for n, g, e in zip(FORCES, gain, bar, strict=True)
        ),
    ]


def _direction(curvature: float, T: float, error: float) -> str:
    return f"curvature {curvature:.3g}, temperature {T:.3g} +- {error:.1g}"


def _ratios(ratio: np.ndarray, error: np.ndarray) -> str:
    mean, misfit = ratio.mean(), (((ratio - 1) / error) ** 2).mean()
    bar = np.sqrt((error**2).sum()) / len(ratio)
    return f"{mean:.3f} +- {bar:.3f}, {ratio.min():.2f} to {ratio.max():.2f}, mean squared misfit {misfit:.1f}"


def draw(result: results.Result) -> Figure:
    """Draw temperature against curvature, without and with batch-norm, beside the linear theory."""
    figure = Figure(figsize=(6.4, 7))
    panels = figure.subplots(2, sharex=True, sharey=True)
    for i, (title, a) in enumerate(cases(result).items()):
        _temperatures(panels[i // 2], a, *[*WAYS.items()][i % 2], plots.COLOURS[i % 2])
        panels[i // 2].set(xscale="log", yscale="log", title=f"{title.split(',')[0]}: temperature of each direction")
    panels[0].legend(fontsize=10)
    panels[1].set(xlabel="curvature")
    panels[1].xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
    return figure


def _temperatures(ax: Axes, a: dict, way: str, word: str, colour: str) -> None:
    """What was measured with two errors, the linear theory, and one temperature for all: isotropic noise."""
    x, (T, error, theory) = a["curvature"], (a["variance"], 2 * a["variance_error"], a[f"predicted_{way}"])
    ax.errorbar(x, x * T, x * error, fmt="o", markersize=3, linewidth=1, color=colour, label=word)
    ax.plot(x, x * theory, color=colour, linewidth=1, label=f"linear theory, {word}")
    ax.axhline((x * T).mean(), color=colour, linewidth=0.8, linestyle=":")

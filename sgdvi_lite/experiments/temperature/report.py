"""What a saved ``temperature`` says: a table, a block of findings for each case, and a figure with the predictions."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdvi_lite import plots, results
from sgdvi_lite.tables import Table

# The cases in the order of the arrays' first axis
CASES = [f"{norm}, {way} batches" for norm in ("no norm", "batch-norm") for way in ("independent", "reshuffled")]

# How batches are drawn, by the names in the arrays; cases take turns
WAYS = ("with", "reshuffled")

# Along which directions forces pull
FORCES = ("steepest", "middle", "last", "mixed")

# Resamples of the directions, for the interval of a slope
RESAMPLES = 2000


def table(result: results.Result) -> Table:
    """Return the table of a ``temperature`` result: a row for each finding, the cases one below the other."""
    rows = []
    for i, case in enumerate(CASES):
        a = {name: value[i] for name, value in result.arrays.items()}
        rows += ["{}: N = {N}, d = {d}, loss {loss:.4f}".format(case, **a), *_rows(a, WAYS[i % 2])]
    return Table(("finding", "value"), rows, left=2)


def temperatures(a: dict) -> tuple[np.ndarray, np.ndarray]:
    """Curvature times variance within stretches of each direction, and its error."""
    return a["curvature"] * a["variance"], a["curvature"] * a["variance_error"]


def over(a: dict, way: str) -> tuple[np.ndarray, np.ndarray]:
    """Variance over prediction of each direction, with the errors of both."""
    ratio = a["variance"] / a[f"predicted_{way}"]
    return ratio, ratio * np.hypot(a["variance_error"] / a["variance"], a["noise_error"] / a["noise"])


def slope(a: dict, values: np.ndarray) -> tuple[float, float, float, float]:
    """Slope of log values against log curvature, its 95 % interval, and what shuffled pairs reach in 95 %."""
    random, x, y = np.random.default_rng(0), np.log(a["curvature"]), np.log(values)
    drawn = random.integers(len(x), size=(RESAMPLES, len(x)))
    null = [_fit(x, random.permutation(y)) for _ in range(RESAMPLES)]
    interval = np.quantile([_fit(x[rows], y[rows]) for rows in drawn], [0.025, 0.975])
    return _fit(x, y), *interval, np.quantile(np.abs(null), 0.95)


def _fit(x: np.ndarray, y: np.ndarray) -> float:
    return np.polyfit(x, y, 1)[0]


def _rows(a: dict, way: str) -> list[tuple[str, str]]:
    T, error = temperatures(a)
    found, low, high, null = slope(a, a["variance"])
    predicted = _fit(np.log(a["curvature"]), np.log(a[f"predicted_{way}"]))
    text = f"{found:.2f} [{low:.2f}, {high:.2f}]; predicted {predicted:.2f}"
    more = a["total"] / a["variance"]
    gain, bar = a["response"] / a["linear"], a["response_error"] / a["linear"]
    return [
        ("Yaida's balance", "{:.4f} +- {:.4f}, {:+.1f} errors from 1".format(*a["balance"])),
        ("curvature, steepest and last", f"{a['curvature'][0]:.3g}, {a['curvature'][-1]:.3g}"),
        ("temperature, steepest and last", f"{T[0]:.3g} +- {error[0]:.1g}, {T[-1]:.3g} +- {error[-1]:.1g}"),
        ("largest over smallest temperature", f"{T.max() / T.min():.1f}; 1 if noise were isotropic"),
        ("over prediction, independent", _ratios(*over(a, "with"))),
        ("over prediction, reshuffled", _ratios(*over(a, "reshuffled"))),
        ("over all, variance over that within stretches", f"{more.mean():.2f}, {more.min():.2f} to {more.max():.2f}"),
        ("slope of log variance", f"{text}, shuffled pairs within {null:.2f}"),
        *((f"response over linear, {name}", _response(*both)) for name, *both in zip(FORCES, gain, bar, strict=True)),
    ]


def _ratios(ratio: np.ndarray, error: np.ndarray) -> str:
    mean, bar = ratio.mean(), np.sqrt((error**2).sum()) / len(ratio)
    misfit = (((ratio - 1) / error) ** 2).mean()
    return f"{mean:.3f} +- {bar:.3f}, {ratio.min():.2f} to {ratio.max():.2f}, mean squared misfit {misfit:.1f}"


def _response(gain: np.ndarray, bar: np.ndarray) -> str:
    return f"{gain[0]:.2f} +- {bar[0]:.2f} in epoch 1, {gain[-1]:.2f} +- {bar[-1]:.2f} in epoch {len(gain)}"


def draw(result: results.Result) -> Figure:
    """Draw temperature against curvature without and with batch-norm, and the response to forces against time."""
    figure = Figure(figsize=(6.4, 10))
    *panels, last = figure.subplots(3)
    cases = [{name: value[i] for name, value in result.arrays.items()} for i in range(len(CASES))]
    for ax, title, pair in zip(
        panels, ("(a) without norm", "(b) with batch-norm"), (cases[:2], cases[2:]), strict=True
    ):
        for a, way, colour in zip(pair, WAYS, plots.COLOURS, strict=False):
            _temperatures(ax, a, way, colour)
        ax.set(xscale="log", yscale="log", xlabel="curvature", title=f"{title}: temperature of each direction")
        ax.legend(fontsize=10)
    _responses(last, cases[0])
    return figure


def _temperatures(ax: Axes, a: dict, way: str, colour: str) -> None:
    """What was measured with two errors, the linear theory, and the one temperature of isotropic noise."""
    T, error = temperatures(a)
    name = {"with": "independent"}.get(way, way)
    ax.errorbar(a["curvature"], T, 2 * error, fmt="o", markersize=3, linewidth=1, color=colour, label=name)
    theory = a["curvature"] * a[f"predicted_{way}"]
    ax.plot(a["curvature"], theory, color=colour, linewidth=1, label=f"linear theory, {name}")
    ax.axhline(T.mean(), color=colour, linewidth=0.8, linestyle=":")


def _responses(ax: Axes, a: dict) -> None:
    """Displacement by a force over that of a quadratic loss, epoch after epoch, with two standard errors."""
    epochs = np.arange(1, a["response"].shape[1] + 1)
    for name, value, error, linear in zip(FORCES, a["response"], a["response_error"], a["linear"], strict=True):
        (line,) = ax.plot(epochs, value / linear, label=name)
        low, high = ((value + side * error) / linear for side in (-2, 2))
        ax.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    ax.axhline(1, color=plots.GREY, linewidth=0.8)
    ax.set(xlabel="epochs with the force", title="(c) no norm, independent: response over that of a quadratic loss")
    ax.legend(fontsize=10)

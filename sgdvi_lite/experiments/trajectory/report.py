"""What a saved trajectory says: a table, a row for each finding beside its null model, and a figure of four panels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdvi_lite import plots, results
from sgdvi_lite.tables import Table

# Colour of what was measured of the run
RUN = plots.COLOURS[0]

# Colour of the null models
NULL = plots.COLOURS[1]

# Half-width of the 99 % band of white noise, in units of 1 / sqrt(n)
WHITE = 2.576


def table(result: results.Result) -> Table:
    """Return the table of a ``trajectory`` result: a row for each finding, the first says what was run."""
    a = result.arrays
    first, last = ends(a["gradient"])
    floor = np.sqrt(max(ends(a["floor_square"])[1], 0.0))
    rms = np.sqrt(ends(a["gradient"].astype(float) ** 2)[1])
    rows = [
        ("what was run", _what_was_run(result)),
        ("loss, first and last tenth", "{:.4g} -> {:.4g}".format(*ends(a["loss"]))),
        ("error, training and test", f"{a['train_error']:.2%}, {a['test_error']:.2%}"),
        ("|x|, first and last tenth", "{:.4g} -> {:.4g}".format(*ends(a["size"]))),
        ("Yaida's balance", "{:.4f} +- {:.4f}, {:+.1f} errors from 1".format(*a["balance"])),
        ("|grad f| / sqrt(d), first and last tenth", f"{first:.3g} -> {last:.3g}, last over first {last / first:.2f}"),
        ("gradient noise of a batch, last tenth", f"{ends(a['batch_noise'])[1]:.3g}"),
        ("gradient norm over its floor, last tenth", f"{rms / floor if floor else np.inf:.2f}; floor {floor:.3g}"),
        ("increments below 0.05 cycles", "{:.2%}; AR(1) of each weight {:.2%}".format(*a["low_share"])),
        ("correlations outside white band", "{:.0%}; AR(1) of each weight {:.0%}".format(*a["outside"])),
        ("variance of two components", "{:.0%}, {:.0%}".format(*a["share"][:2])),
        "is there a current: run; null models: reversible fit and separate phases, mean +- deviation",
        *_turning_rows(a),
        "departures from a running mean: run; null models: reversible fit and separate phases, mean +- deviation",
        *_turning_rows(fast(a)),
    ]
    return Table(("finding", "value"), rows, left=2)


def fast(a: dict) -> dict:
    """What was measured of the departures from a running mean, under the names of what was measured of the weights."""
    return {name.removeprefix("fast_"): value for name, value in a.items() if name.startswith("fast_")}


def _what_was_run(result: results.Result) -> str:
    a, note = result.arrays, result.provenance["settings"]
    text = f"{note['net']} on {note['data']}, {note['epochs'] - note['burn']} epochs of {a['epoch_steps']} steps"
    return f"{text} after {note['burn']}, N = {a['N']}, d = {a['d']}, of which {a['moving']} move"


def ends(curve: np.ndarray) -> tuple[float, float]:
    """Means of the first and of the last tenth of a curve."""
    tenth = max(1, len(curve) // 10)
    return float(curve[:tenth].mean()), float(curve[-tenth:].mean())


def _turning_rows(a: dict) -> list[tuple[str, str]]:
    chosen, new = a["scores"]
    fit, phases = a["null_scores"]
    area = a["area"][0]
    top = area.argmax()
    down = f", then down to {area[top:].min():+.3f}" * bool(area[top:].min() < area[top])
    ratio, limit, frequency = a["line"]
    return [
        ("area / error where the plane was chosen", f"{chosen:.1f}; {_spread(fit[:, 0])} and {_spread(phases[:, 0])}"),
        ("area / error in that plane, new data", f"{new:.1f}; {_spread(fit[:, 1])} and {_spread(phases[:, 1])}"),
        ("area / error in the leading plane, new data", f"{a['leading_scores'][1]:.1f}"),
        ("area over variance in the chosen plane", f"{area[top]:.3f} at lag {a['area_lag'][top]}{down}"),
        ("strongest line", f"{ratio:.1f} at {frequency:.4f} cycles; limit {limit:.1f}, null {a['null_line'][0]:.1f}"),
    ]


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} +- {values.std(ddof=1):.1f}"


def draw(result: results.Result) -> Figure:
    """Draw the three plots of the longer version's Figure 3, with null models, and the area against the lag."""
    figure = Figure(figsize=(6.4, 13))
    for ax, plot in zip(figure.subplots(4), (_increments, _correlation, _gradient, _area), strict=True):
        plot(ax, result.arrays, result.provenance["settings"])
    return figure


def _increments(ax: Axes, a: dict, note: dict) -> None:
    """Plot (a): spectrum of the increments over their variance, and AR(1) processes fitted to each weight."""
    _curves(ax, a["frequency"], a["spectrum"], a["null_spectrum"])
    ax.set(xscale="log", yscale="log", xlabel="cycles an epoch", title="(a) increments, density over variance")
    ax.legend(fontsize=10)


def _correlation(ax: Axes, a: dict, note: dict) -> None:
    """Plot (b): autocorrelation of the weights, the band of white noise, AR(1) processes fitted to each weight."""
    _curves(ax, a["lag"], a["correlation"], a["null_correlation"])
    white = WHITE / np.sqrt(note["epochs"] - note["burn"])
    ax.axhspan(-white, white, color=plots.GREY, alpha=0.4, linewidth=0)
    ax.set(xscale="log", xlabel="lag, epochs", title="(b) autocorrelation of the weights")


def _gradient(ax: Axes, a: dict, note: dict) -> None:
    """Plot (c): norm of the full gradient over sqrt(d), the noise of a batch, and the floor of independent batches."""
    ax.plot(a["gradient_epoch"], a["gradient"], color=RUN, linewidth=1)
    ax.plot(a["floor_epoch"], a["batch_noise"], color=plots.GREY, linewidth=1, label="noise of a batch")
    floor = np.sqrt(np.maximum(a["floor_square"], 0))
    ax.plot(a["floor_epoch"], floor, "--", color=NULL, linewidth=1.2, label="floor, independent batches")
    ax.set(yscale="log", xlabel="epoch", title=r"(c) $|\nabla f| / \sqrt{d}$")
    ax.legend(fontsize=10)


def _area(ax: Axes, a: dict, note: dict) -> None:
    """Area against lag in the plane chosen in the first half, measured in the second, with two standard errors."""
    for colour, name, part in ((RUN, "weights", a), (plots.COLOURS[2], "less a running mean", fast(a))):
        value, error = part["area"]
        ax.plot(part["area_lag"], value, color=colour, label=name)
        ax.fill_between(part["area_lag"], value - 2 * error, value + 2 * error, color=colour, alpha=0.2, linewidth=0)
    ax.axhline(0, color=plots.GREY, linewidth=0.8)
    ax.set(xscale="log", xlabel="lag, epochs", title="area over variance, in new data")
    ax.legend(fontsize=10)


def _curves(ax: Axes, x: np.ndarray, run: np.ndarray, null: np.ndarray) -> None:
    mean, low, high = run
    ax.plot(x, mean, color=RUN, linewidth=1.2, label="weights: mean, middle 68 %")
    ax.fill_between(x, low, high, color=RUN, alpha=0.2, linewidth=0)
    ax.plot(x, null, color=NULL, linewidth=1.2, label="AR(1), each weight")

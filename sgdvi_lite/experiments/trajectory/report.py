"""What a saved trajectory says: a table, a row for each finding beside its null model, and a figure of four panels."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdvi_lite import plots, results, series
from sgdvi_lite.experiments.trajectory.turning import DRAWS
from sgdvi_lite.tables import Table

# Planes of a planted current, among the components
KINDS = ("leading", "last two of 20", "next two")

# Colour of what was measured of the run
RUN = plots.COLOURS[0]

# Colour of the null models
NULL = plots.COLOURS[1]

# Half-width of the 99 % band of white noise, in units of 1 / sqrt(n)
WHITE = 2.576

# How often a planted current must be seen to count as one that would be
SEEN = 0.8

# Largest area of a planted current, in units of its variance
TOP = np.exp(-np.pi / 4) * np.sin(np.pi / 4)


def table(result: results.Result) -> Table:
    """Return the table of a ``trajectory`` result: a row for each finding, the first says what was run."""
    a = result.arrays
    (first, last), change = ends(a["gradient"]), "{:.3g} -> {:.3g}, last over first {:.2f}"
    rows = {
        "what was run": lambda: _what_was_run(result),
        "errors from stationarity: balance, trends of loss and |x|": lambda: _drift(a),
        "loss, first and last tenth": lambda: "{:.4g} -> {:.4g}".format(*ends(a["loss"])),
        "error, training and test": lambda: f"{a['train_error']:.2%}, {a['test_error']:.2%}",
        "|x|, first and last tenth": lambda: "{:.4g} -> {:.4g}".format(*ends(a["size"])),
        "Yaida's balance": lambda: "{:.5f} +- {:.5f}, {:+.1f} errors from 1".format(*a["balance"]),
        "|grad f| / sqrt(d), first and last tenth": lambda: change.format(first, last, last / first),
        "gradient noise of a batch, last tenth": lambda: f"{ends(a['batch_noise'])[1]:.3g}",
        "mean gradient of an epoch over that of independent noise": lambda: f"{left_over(a):.2f}",
        "gradient over the floor of independent batches, by tenths": lambda: over_floor(a, "floor_square"),
        "gradient over the floor of reshuffled batches, by tenths": lambda: over_floor(a, "floor_shuffled"),
        "increments below 0.05 cycles": lambda: "{:.2%}; AR(1) of each weight {:.2%}".format(*a["low_share"]),
        "correlations outside white band": lambda: "{:.0%}; AR(1) of each weight {:.0%}".format(*a["outside"]),
        "variance of two components": lambda: "{:.0%}, {:.0%}".format(*a["share"][:2]),
    }
    heading = "{}: run; null models: reversible fit, separate phases, random walk, mean +- deviation"
    lines = [(name, _known(text)) for name, text in rows.items()]
    for begin, name, part in (("", "is there a current", a), ("fast_", "departures from a running mean", fast(a))):
        lines += [
            heading.format(name),
            *((row, _known(text)) for row, text in _turning_rows(part, corrected(a, begin))),
        ]
    return Table(("finding", "value"), lines, left=2)


def _known(text: Callable[[], str]) -> str:
    """The text of a row, unless the result is older than what it tells."""
    try:
        return text()
    except KeyError:
        return "not measured"


def corrected(a: dict, begin: str = "") -> np.ndarray:
    """Probabilities of two scores, corrected by Holm's method for all four of a table: of the weights, or ``fast_``."""
    if "p_values" not in a:  # of an older result
        return np.full(2, np.nan)
    both = series.holm(np.concatenate([a["p_values"], a["fast_p_values"]]))
    return both[2:] if begin else both[:2]


def fast(a: dict) -> dict:
    """What was measured of the departures from a running mean, under the names of what was measured of the weights."""
    return {name.removeprefix("fast_"): value for name, value in a.items() if name.startswith("fast_")}


def _what_was_run(result: results.Result) -> str:
    a, note = result.arrays, result.provenance["settings"]
    burn = int(a.get("burn", note["burn"]))
    text = f"{note['net']} on {note['data']}, {note['epochs'] - burn} epochs of {a['epoch_steps']} steps"
    return f"{text} after {burn}, N = {a['N']}, d = {a['d']}, of which {a['moving']} move"


def _drift(a: dict) -> str:
    verdict = "stationary" if a["stationary"] else "not stationary, nor after any other burn-in up to the middle"
    return ", ".join(f"{z:+.1f}" for z in a["drift"]) + f": {verdict}"


def ends(curve: np.ndarray) -> tuple[float, float]:
    """Means of the first and of the last tenth of a curve."""
    tenth = max(1, len(curve) // 10)
    return float(curve[:tenth].mean()), float(curve[-tenth:].mean())


def over_floor(a: dict, floor: str) -> str:
    """Root mean square of the gradient over the root of a squared floor, in each tenth of the run."""
    squares = (np.array_split(curve, 10) for curve in (a["gradient"].astype(float) ** 2, a[floor]))
    pairs = ((top.mean(), max(bottom.mean(), 0.0)) for top, bottom in zip(*squares, strict=True))
    return " ".join(f"{np.sqrt(top / bottom) if bottom else np.inf:.2f}" for top, bottom in pairs)


def left_over(a: dict) -> float:
    """The mean gradient of the batches of an epoch, rms, over that of as many independent noises of a batch.

    It is 1 where the noise of an epoch does not cancel though the batches are reshuffled: with batch-norm the gradient
    of an image depends on the rest of its batch.
    """
    squares = (a[name].astype(float) ** 2 for name in ("floor_gradient", "batch_noise"))
    mean, noise = (square.mean() for square in squares)
    return float(np.sqrt(mean / noise * a["epoch_steps"]))


def _turning_rows(a: dict, p: np.ndarray) -> list[tuple[str, Callable[[], str]]]:
    area, lead = a["area"][0], a["leading_scores"][1]
    top = area.argmax()
    down = f", then down to {area[top:].min():+.3f}" * bool(area[top:].min() < area[top])
    line = "{:.1f} at {:.4f} cycles; limit {:.1f}, null {:.1f}"
    null, by_chance = a["null_scores"], "; p = {:.2g} by Holm, of 4"
    return [
        ("area / error where the plane was chosen", lambda: _beside(a["scores"][0], null[..., 0])),
        ("area / error in that plane, new data", lambda: _beside(a["scores"][1], null[..., 1], by_chance, p[0])),
        ("area / error in the leading plane, new data", lambda: _beside(lead, a["null_leading"], by_chance, p[1])),
        ("area over variance in the chosen plane", lambda: f"{area[top]:.3f} at lag {a['area_lag'][top]}{down}"),
        (f"planted area over variance that is seen in {SEEN:.0%}", lambda: _planted(a)),
        ("strongest line", lambda: line.format(a["line"][0], a["line"][2], a["line"][1], a["null_line"][0])),
    ]


def _planted(a: dict) -> str:
    pairs = zip(KINDS, smallest(a), strict=True)
    return "; ".join(f"{name} {', '.join(map(_strength, kinds))}" for name, kinds in pairs)


def _beside(score: float, nulls: np.ndarray, then: str = "", p: float = 0.0) -> str:
    models = ", ".join(f"{null.mean():.1f} +- {null.std(ddof=1):.1f}" for null in nulls)
    return f"{score:.1f}; {models}{then.format(p)}"


def smallest(a: dict) -> np.ndarray:
    """Planted area over variance that is seen in ``SEEN`` of the draws ``(planes, turns, 3)``: value, low, high.

    The range is that of one standard error of the power; what no planted strength reaches is infinite,
    and the least one planted stands for all below it.
    """
    power = a["planted_power"].astype(float)
    error = np.sqrt(np.maximum(power * (1 - power), 1 / DRAWS) / DRAWS)
    x = np.log(a["planted_part"].astype(float))
    curves = np.stack([power, power + error, power - error], axis=2)
    return TOP * np.exp(np.apply_along_axis(lambda p: np.interp(SEEN, p, x, right=np.inf), 3, curves))


def _strength(values: np.ndarray) -> str:
    value, low, high = (f"{v:.2g}" if np.isfinite(v) else "none" for v in values)
    return value if value == "none" else f"{value} ({low} to {high})"


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
    white = WHITE / np.sqrt(note["epochs"] - int(a.get("burn", note["burn"])))
    ax.axhspan(-white, white, color=plots.GREY, alpha=0.4, linewidth=0)
    ax.set(xscale="log", xlabel="lag, epochs", title="(b) autocorrelation of the weights")


def _gradient(ax: Axes, a: dict, note: dict) -> None:
    """Plot (c): norm of the full gradient over sqrt(d), the noise of a batch, and the floors."""
    ax.plot(a["gradient_epoch"], a["gradient"], color=RUN, linewidth=1)
    ax.plot(a["floor_epoch"], a["batch_noise"], color=plots.GREY, linewidth=1, label="noise of a batch")
    for style, name, batches in (("--", "square", "independent"), (":", "shuffled", "reshuffled")):
        floor = np.sqrt(np.maximum(a.get(f"floor_{name}", np.nan * a["floor_square"]), 0))
        ax.plot(a["floor_epoch"], floor, style, color=NULL, linewidth=1.5, label=f"floor, {batches} batches")
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

"""What a saved trajectory says: a table, a row for each finding beside its null model, and a figure of eight panels."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.signal import lfilter

from sgdvi_lite import plots, results, series
from sgdvi_lite.experiments.trajectory.slopes import SPLICED
from sgdvi_lite.experiments.trajectory.turning import DRAWS, TURNS
from sgdvi_lite.tables import Table

# Planes of a planted current, among the components
KINDS = ("leading", "last two of 20", "next two")

# Colour of what was measured of the run
RUN = plots.COLOURS[0]

# Colours of the null models: AR(1), random walk
NULL, WALK = plots.COLOURS[1], plots.COLOURS[2]

# Half-widths of the 95 % and 99 % bands of white noise, in units of 1 / sqrt(n)
WHITE = (1.960, 2.576)

# Centre of mass, in epochs, of the exponential average in the paper's third plot
SMOOTHED = 100

# How often a planted current must be seen to count as one that would be
SEEN = 0.8

# Largest area of a planted current, in units of its variance
TOP = np.exp(-np.pi / 4) * np.sin(np.pi / 4)


def table(result: results.Result) -> Table:
    """Return the table of a ``trajectory`` result: a row for each finding, the first says what was run."""
    a = result.arrays
    first, last = ends(a["gradient"])
    rows = {
        "what was run": lambda: _what_was_run(result),
        "errors from stationarity: balance, trends of loss and |x|": lambda: _drift(a),
        "loss, first and last tenth": lambda: "{:.4g} -> {:.4g}".format(*ends(a["loss"])),
        "error, training and test": lambda: f"{a['train_error']:.2%}, {a['test_error']:.2%}",
        "|x|, first and last tenth": lambda: "{:.4g} -> {:.4g}".format(*ends(a["size"])),
        "Yaida's balance": lambda: "{:.5f} +- {:.5f}, {:+.1f} errors from 1".format(*a["balance"]),
        "|grad f| / sqrt(d), first and last tenth": lambda: (
            f"{first:.3g} -> {last:.3g}, last over first {last / first:.2f}"
        ),
        "gradient noise of a batch, last tenth": lambda: f"{ends(a['batch_noise'])[1]:.3g}",
        "gradient over the floor of independent batches, by tenths": lambda: over_floor(a, "floor_square"),
        "gradient over the floor of reshuffled batches, by tenths": lambda: over_floor(a, "floor_shuffled"),
        "increments below 0.05 cycles": lambda: "{:.2%}; AR(1) of each weight {:.2%}".format(*a["low_share"]),
        "correlations outside white band": lambda: "{:.0%}; AR(1) of each weight {:.0%}".format(*a["outside"]),
        "variance of two components": lambda: "{:.0%}, {:.0%}".format(*a["share"][:2]),
    }
    heading = "{}: run; null models: reversible fit, separate phases, random walk, mean +- deviation"
    lines = [(name, _known(text)) for name, text in rows.items()]
    for begin, name, part in (("", "is there a current", a), ("fast_", "departures from a running mean", fast(a))):
        told = [(row, _known(text)) for row, text in _turning_rows(part, lambda begin=begin: corrected(a, begin))]
        lines += [heading.format(name), *told]
    return Table(("finding", "value"), lines, left=2)


def _known(text: Callable[[], str]) -> str:
    """The text of a row, unless the result is older than what it tells."""
    try:
        return text()
    except KeyError:
        return "not measured"


def corrected(a: dict, begin: str = "") -> np.ndarray:
    """Probabilities of two scores, corrected by Holm's method for all four of a table: of the weights, or ``fast_``."""
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
    squares = (np.array_split(curve, 10) for curve in (a["floor_gradient"].astype(float) ** 2, a[floor]))
    pairs = ((top.mean(), max(bottom.mean(), 0.0)) for top, bottom in zip(*squares, strict=True))
    return " ".join(f"{np.sqrt(top / bottom) if bottom else np.inf:.2f}" for top, bottom in pairs)


def _turning_rows(a: dict, p: Callable[[], np.ndarray]) -> list[tuple[str, Callable[[], str]]]:
    area = a["area"][0]
    top = area.argmax()
    down = f", then down to {area[top:].min():+.3f}" * bool(area[top:].min() < area[top])
    line = "{:.1f} at {:.4f} cycles; limit {:.1f}, null {:.1f}"
    new, lead = (lambda i=i: f"; p = {p()[i]:.2g} by Holm, of 4" for i in (0, 1))
    return [
        ("area / error where the plane was chosen", lambda: _beside(a["scores"][0], a["null_scores"][..., 0])),
        ("area / error in that plane, new data", lambda: _beside(a["scores"][1], a["null_scores"][..., 1]) + new()),
        (
            "area / error in the leading plane, new data",
            lambda: _beside(a["leading_scores"][1], a["null_leading"]) + lead(),
        ),
        ("area over variance in the chosen plane", lambda: f"{area[top]:.3f} at lag {a['area_lag'][top]}{down}"),
        (f"planted area over variance that is seen in {SEEN:.0%}", lambda: _planted(a)),
        ("strongest line", lambda: line.format(a["line"][0], a["line"][2], a["line"][1], a["null_line"][0])),
    ]


def _planted(a: dict) -> str:
    pairs = zip(KINDS, smallest(a), strict=True)
    return "; ".join(f"{name} {', '.join(map(_strength, kinds))}" for name, kinds in pairs)


def _beside(score: float, nulls: np.ndarray) -> str:
    return f"{score:.1f}; " + ", ".join(f"{null.mean():.1f} +- {null.std(ddof=1):.1f}" for null in nulls)


def smallest(a: dict) -> np.ndarray:
    """Planted area over variance that is seen in ``SEEN`` of the draws ``(planes, turns, 3)``: value, low, high.

    The range is that of one standard error of the power; what no planted strength reaches is infinite.
    """
    power = a["planted_power"].astype(float)
    error = np.sqrt(np.maximum(power * (1 - power), 1 / DRAWS) / DRAWS)
    curves = (np.minimum(power + shift * error, 1.0) for shift in (0, 1, -1))
    crossed = [np.apply_along_axis(_crossing, 2, curve, np.log(a["planted_part"])) for curve in curves]
    return TOP * np.stack(crossed, axis=-1)


def _crossing(power: np.ndarray, x: np.ndarray) -> float:
    """Where the power exceeds ``SEEN`` for good, between two strengths by a straight line in their logarithms."""
    below = np.flatnonzero(power < SEEN)
    last = below[-1] if len(below) else -1
    if last == len(power) - 1:
        return np.inf
    return np.exp(x[0] if last < 0 else np.interp(SEEN, power[last : last + 2], x[last : last + 2]))


def _strength(values: np.ndarray) -> str:
    value, low, high = (f"{v:.2g}" if np.isfinite(v) else "none" for v in values)
    return value if value == "none" else f"{value} ({low} to {high})"


def spliced(first: np.ndarray, epochs: np.ndarray, norms: np.ndarray, smoothed: float = SMOOTHED) -> np.ndarray:
    """The paper's third plot, made of measured norms: the ``first`` epochs of one run, then another run; smoothed.

    Parameters
    ----------
    first
        Norms of the first epochs of a run, one each ``(m,)``.
    epochs, norms
        Epochs ``(k,)`` after its burn-in at which another run was measured, and its norms there; between them lie
        straight lines.
    smoothed
        Centre of mass of the exponential average, in epochs.

    Returns
    -------
    np.ndarray
        The curve, one value an epoch ``(m + epochs[-1] - epochs[0] + 1,)``.
    """
    later = np.interp(np.arange(epochs[0], epochs[-1] + 1), epochs, norms)
    curve, keep = np.concatenate([first, later]), smoothed / (1 + smoothed)
    top, bottom = (lfilter([1.0], [1.0, -keep], part) for part in (curve, np.ones_like(curve)))
    return top / bottom


def draw(result: results.Result) -> Figure:
    """Draw the three plots of the longer version's Figure 3: left with its axes, right as one reads them; and areas."""
    figure = Figure(figsize=(6.4, 11), layout="constrained")
    plots_ = (_figure_increments, _increments, _figure_correlation, _correlation, _figure_gradient, _gradient)
    for ax, plot in zip(figure.subplots(4, 2).flat, (*plots_, _area, _power), strict=True):
        try:
            plot(ax, result.arrays, result.provenance["settings"])
        except KeyError:  # the result is older than this plot
            ax.set_axis_off()
        ax.title.set_fontsize(10)
    return figure


def _figure_increments(ax: Axes, a: dict, note: dict) -> None:
    """Plot (a) as in the figure: amplitudes of the increments at the lowest frequencies."""
    x = a["figure_frequency"][1:]
    curves = (a[f"figure{kind}_spectrum"][:, 1:] for kind in ("", "_null", "_walk"))
    _bands(ax, x, *curves)
    ax.set(xscale="log", ylim=(0, None), xlabel="cycles an epoch", title="(a) as in the figure: amplitude")
    ax.legend(fontsize=8)


def _increments(ax: Axes, a: dict, note: dict) -> None:
    """Plot (a): spectrum of the increments over their variance, and AR(1) processes fitted to each weight."""
    _bands(ax, a["frequency"], a["spectrum"], a["null_spectrum"][None], np.full((1, a["frequency"].size), 2.0))
    ax.set(xscale="log", yscale="log", xlabel="cycles an epoch", title="(a) density over variance")


def _figure_correlation(ax: Axes, a: dict, note: dict) -> None:
    """Plot (b) as in the figure: autocorrelation at a hundred lags, bands of white noise."""
    _bands(ax, a["figure_lag"][1:], *(a[f"figure{kind}_correlation"][:, 1:] for kind in ("", "_null", "_walk")))
    for white in np.divide(WHITE, np.sqrt(note["epochs"] - note["burn"])):
        ax.hlines([-white, white], *ax.get_xlim(), color=plots.GREY, linestyle="--", linewidth=0.8)
    ax.set(xscale="log", ylim=(-0.6, 1), xlabel="lag, epochs", title="(b) as in the figure: autocorrelation")


def _correlation(ax: Axes, a: dict, note: dict) -> None:
    """Plot (b): autocorrelation of the weights, the band of white noise, AR(1) processes fitted to each weight."""
    _bands(ax, a["lag"], a["correlation"], a["null_correlation"][None])
    white = WHITE[1] / np.sqrt(note["epochs"] - int(a.get("burn", note["burn"])))
    ax.axhspan(-white, white, color=plots.GREY, alpha=0.4, linewidth=0)
    ax.set(xscale="log", xlabel="lag, epochs", title="(b) autocorrelation")


def _figure_gradient(ax: Axes, a: dict, note: dict) -> None:
    """Plot (c) as in the figure, spliced from the run's own start, beside what was measured."""
    x, y = a["figure_epoch"], a["figure_gradient"].astype(float)
    later = x >= note["burn"]
    curve = spliced(y[:SPLICED], x[later], y[later])
    ax.plot(x[1:], y[1:], color=plots.GREY, linewidth=0.8, label="measured")
    ax.plot(np.arange(10, len(curve)), curve[10:], color=RUN, linewidth=1.2, label="spliced, smoothed")
    ax.set(xscale="log", xlim=(10, None), xlabel="epoch", title=r"(c) as in the figure: $|\nabla f| / \sqrt{d}$")
    ax.set_ylim(0, 1.1 * y[x >= 10].max())
    ax.legend(fontsize=8)


def _gradient(ax: Axes, a: dict, note: dict) -> None:
    """Plot (c): norm of the mean gradient over sqrt(d), the noise of a batch, and the floors."""
    ax.plot(a["floor_epoch"], a["floor_gradient"], color=RUN, linewidth=1)
    ax.plot(a["floor_epoch"], a["batch_noise"], color=plots.GREY, linewidth=1, label="noise of a batch")
    for line, name in (("--", "square"), (":", "shuffled")):
        floor = np.sqrt(np.maximum(a[f"floor_{name}"], 0))
        label = {"square": "floor, independent", "shuffled": "floor, reshuffled"}[name]
        ax.plot(a["floor_epoch"], floor, line, color=NULL, linewidth=1.2, label=label)
    ax.set(yscale="log", xlabel="epoch", title=r"(c) $|\nabla f| / \sqrt{d}$ and its floors")
    ax.legend(fontsize=8)


def _area(ax: Axes, a: dict, note: dict) -> None:
    """Area against lag in the plane chosen in the first half, measured in the second, with two standard errors."""
    for colour, name, part in ((RUN, "weights", a), (plots.COLOURS[2], "less a running mean", fast(a))):
        value, error = part["area"]
        ax.plot(part["area_lag"], value, color=colour, label=name)
        ax.fill_between(part["area_lag"], value - 2 * error, value + 2 * error, color=colour, alpha=0.2, linewidth=0)
    ax.axhline(0, color=plots.GREY, linewidth=0.8)
    ax.set(xscale="log", xlabel="lag, epochs", title="area over variance, new data")
    ax.legend(fontsize=8)


def _power(ax: Axes, a: dict, note: dict) -> None:
    """How often a current planted in the leading plane is seen, and in the last two components that are looked at."""
    strength = TOP * a["planted_part"]
    for style, name, rows in zip(("-", "--", ":"), KINDS, a["planted_power"], strict=True):
        for turn, colour, power in zip(TURNS, plots.COLOURS, rows, strict=False):
            ax.plot(strength, power, style, color=colour, linewidth=1.2, label=f"{name}, {turn} epochs")
    ax.set(xscale="log", ylim=(-0.05, 1.05), xlabel="planted area over variance", title="part of draws seen")
    ax.legend(fontsize=6)


def _bands(ax: Axes, x: np.ndarray, run: np.ndarray, null: np.ndarray, walk: np.ndarray | None = None) -> None:
    """Means, and the middle 68 % where there are quantiles, of the run and its null models."""
    for y, colour, label in ((run, RUN, "weights"), (null, NULL, "AR(1), each"), (walk, WALK, "random walk")):
        if y is not None:
            ax.plot(x, y[0], color=colour, linewidth=1.2, label=label)
            ax.fill_between(x, y[1 % len(y)], y[2 % len(y)], color=colour, alpha=0.15, linewidth=0)

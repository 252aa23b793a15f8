"""The book's figures: one style, and functions that take and return a Matplotlib ``Axes``.

Figures are drawn in dark ink on a transparent ground; the site inverts them, lightness only, for its dark mode.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from sgdvi_lite import _checks

INK = "#1f2328"  # text and axes
GREY = "#6e7681"  # what stands back: thresholds and their labels
COLOURS = ("#0072b2", "#b84a00", "#007a5a", "#a3527f", "#8a6d00")
"""Blue, vermilion, green, purple, ochre: told apart in all common forms of colour blindness, dark enough for text."""

STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.constrained_layout.use": True,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "savefig.transparent": True,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.linewidth": 0.8,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.8,
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 12,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "sgdvi",
}
"""Settings for ``plt.rc_context`` or ``plt.rcParams.update``."""


def shades(colour: str, n: int) -> list[tuple[float, float, float]]:
    """Return ``n`` shades of a colour, from pale to full, for stages in time: darker is later.

    Examples
    --------
    >>> from sgdvi_lite import plots
    >>> len(plots.shades(plots.COLOURS[0], 3))
    3
    """
    full = np.array(to_rgb(colour))
    return [tuple(1 - w * (1 - full)) for w in np.linspace(0.45, 1.0, _checks.count("n", n))]


def spectrum(ax: Axes, eigenvalues: np.ndarray, text: str, **line) -> Axes:
    """Draw the eigenvalues that are not rounding, largest first, on logarithmic axes, with a label at the curve's end.

    Parameters
    ----------
    ax
        Where to draw.
    eigenvalues
        Array ``(n,)`` in any order; values below ``n`` machine epsilons of the largest are left out.
    text
        Written at the end of the curve.
    line
        Passed on to ``Axes.loglog``, ``label`` for a legend among it.

    Raises
    ------
    ValueError
        If the eigenvalues are no finite array ``(n,)``, or none is above 0.
    """
    values = np.sort(_checks.array("eigenvalues", eigenvalues, 1, "(n,), one or more"))[::-1]
    _checks.argument("the largest eigenvalue", values[0], values[0] > 0, "one above 0, as others are not drawn")
    values = values[values > len(values) * np.finfo(float).eps * values[0]]
    index = np.arange(1, len(values) + 1)
    (curve,) = ax.loglog(index, values, **line)
    if text:
        _label(ax, text, (index[-1], values[-1]), (4, 0), color=curve.get_color(), va="center")
    ax.set(xlabel=r"index $i$", ylabel=r"eigenvalue $\lambda_i(D)$")
    return ax


def threshold(ax: Axes, value: float, label: str) -> Axes:
    """Draw a dashed horizontal line with its label at the left end, such as the rank's threshold."""
    value = _checks.number("value", value, np.isfinite, "a finite number")
    ax.axhline(value, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
    _label(ax, label, (0.01, value), (0, -3), xycoords=("axes fraction", "data"), va="top", color=GREY, fontsize=10)
    return ax


def matrix(ax: Axes, values: np.ndarray, label: str) -> Axes:
    """Draw a matrix as a grid of colours, symmetric about zero: blue negative, white zero, red positive.

    Parameters
    ----------
    ax
        Where to draw.
    values
        Array ``(m, n)``.
    label
        Title of the colour bar, with its unit.

    Raises
    ------
    ValueError
        If the values are no finite array ``(m, n)``.
    """
    values = _checks.array("values", values, 2, "(m, n)")
    size = np.abs(values).max() or 1.0
    image = ax.imshow(values, cmap="RdBu_r", vmin=-size, vmax=size)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.85)
    ax.spines[:].set_visible(False)
    return ax


def _label(ax: Axes, text: str, point: tuple, shift: tuple[float, float], **style) -> None:
    """Write a text beside a point, so many points of type away."""
    ax.annotate(text, point, xytext=shift, textcoords="offset points", **style)

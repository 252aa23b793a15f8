"""A slider over drawings made in advance, for the site, Jupyter and Colab; it asks no server for anything.

The frames are SVG images inside the page, one of them shown at a time by a native range input, which the arrow keys
move. A few lines of plain JavaScript tie the two together. Chapter 6 uses it.
"""

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import count
from pathlib import Path
from string import Template
from urllib.parse import quote
from zlib import crc32

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from sgdvi_lite import _checks

_NUMBER = count(1)
_PAGE = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8").rstrip())


class Slider:
    """What :func:`slider` returns: a notebook shows it as HTML, a terminal as one line of text."""

    def __init__(self, html: str, text: str):
        self._html, self._text = html, text

    def __repr__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return self._html

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self._html, "text/plain": self._text}


def slider(
    frames: Iterable[Figure | str],
    labels: Iterable[object],
    alt: Sequence[str],
    title: str,
    *,
    start: int = 0,
    seconds: float | None = None,
) -> Slider:
    """Show one of several drawings at a time, chosen by a slider.

    Parameters
    ----------
    frames
        At least two drawings of the same size: Matplotlib figures, or SVG text. Each figure is drawn and closed before
        the next is asked for, so that a generator holds one at a time.
    labels
        What stands beside the slider at each frame, such as ``"λ = 0.5"``; or a number.
    alt
        What each frame shows, for readers who cannot see it.
    title
        Name of the slider, written before it.
    start
        Index of the frame that is shown first.
    seconds
        If given, a button plays the frames, this long each, up to the last one. Nothing ever plays by itself, and the
        button is absent for readers who asked their system for less motion.

    Raises
    ------
    ValueError
        If there are fewer than two frames, if a label or a text is missing or empty, if a frame is not SVG, or if
        ``start`` or ``seconds`` is out of range.

    Examples
    --------
    >>> from sgdvi_lite.slider import slider
    >>> dots = [f'<svg xmlns="http://www.w3.org/2000/svg"><circle r="{r}"/></svg>' for r in (1, 2)]
    >>> slider(dots, ["r = 1", "r = 2"], ["A small dot.", "A larger dot."], title="radius")
    Slider 'radius' with 2 frames, from r = 1 to r = 2
    """
    labels = labels if isinstance(labels, str) else [f"{label}" for label in labels]
    drawings = [_svg(frame) for frame in frames]
    _check(drawings, labels, alt, title, start, seconds)
    frames = enumerate(zip(drawings, labels, alt, strict=True))
    images = "\n".join(_image(*frame, hidden=k != start) for k, frame in frames)
    values = {
        "name": f"sgdvi-slider-{crc32(images.encode()):08x}-{next(_NUMBER)}",  # outputs of older kernels may be near
        "images": images,
        "title": escape(title),
        "label": escape(labels[start]),
        "start": start,
        "last": len(drawings) - 1,
        "button": "" if seconds is None else '\n<button type="button">Play</button>',
        "milliseconds": round(1000 * (seconds or 0)),
    }
    text = f"Slider {title!r} with {len(drawings)} frames, from {labels[0]} to {labels[-1]}"
    return Slider(_PAGE.substitute(values), text)


def _image(drawing: str, label: str, alt: str, hidden: bool) -> str:
    """An image that carries its drawing in its address, and its label."""
    source = "data:image/svg+xml," + quote(drawing, safe=" /:=;,()@!*+?'-._~")
    return f'<img src="{source}" alt="{escape(alt)}" data-label="{escape(label)}"{" hidden" * hidden}>'


def _svg(frame: Figure | str) -> str:
    if isinstance(frame, str):
        return frame
    _checks.require(isinstance(frame, Figure), f"frames has a {type(frame).__name__}: expected figures, or SVG text")
    buffer = io.StringIO()
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "sgdvi"}):
        frame.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(frame)
    return _small(buffer.getvalue())


def _small(svg: str) -> str:
    """The same drawing in fewer bytes: no prologue or metadata, paths and positions to a tenth of a point."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(?<= )(d|x|y)="[^"]*"', lambda match: re.sub(r"\d+\.\d+", _tenth, match[0]), svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    return svg if "'" in svg else svg.replace('"', "'")  # a double quote takes three bytes in an address


def _tenth(match: re.Match[str]) -> str:
    return f"{float(match[0]):.1f}".removesuffix(".0")


def _check(frames, labels, alt, title, start, seconds) -> None:
    _checks.require(len(frames) > 1, f"frames has {len(frames)} drawings: expected at least 2; one drawing is a figure")
    for name, texts in (("labels", labels), ("alt", alt)):
        if isinstance(texts, str) or len(texts) != len(frames):
            raise ValueError(f"{name} has {len(texts)} texts: expected a list of {len(frames)}, one for each frame")
        if not all(text.strip() for text in texts):
            raise ValueError(f"{name} has an empty text: expected what each frame shows")
    _checks.require(title.strip(), "title is empty: expected the slider's name, which a screen reader announces")
    if not all("<svg" in frame for frame in frames):
        raise ValueError("frames has a text without an <svg> element: expected SVG, or a Matplotlib figure")
    _checks.count("start", start, low=0, high=len(frames) - 1)
    if seconds is not None:
        _checks.positive("seconds", seconds)

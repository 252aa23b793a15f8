import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from sgdvi_lite import plots

matplotlib.use("agg")


@pytest.fixture
def ax():
    with plt.rc_context(plots.STYLE):
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("colour", [*plots.COLOURS, plots.INK, plots.GREY])
def test_lines_and_their_labels_can_be_read_on_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 4.5


def test_a_spectrum_is_drawn_sorted_without_zeros_and_labelled(ax):
    assert plots.spectrum(ax, np.array([0.0, 1.0, 4.0]), "net") is ax
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == [4, 1]
    assert [text.get_text() for text in ax.texts] == ["net"]
    assert ax.get_xlabel() and ax.get_ylabel()


def test_a_threshold_stands_at_its_value(ax):
    assert plots.threshold(ax, 0.5, "limit") is ax
    assert ax.lines[0].get_ydata() == [0.5, 0.5] and ax.texts[0].get_text() == "limit"


def test_a_matrix_has_colours_symmetric_about_zero(ax):
    assert plots.matrix(ax, np.array([[1.0, -3.0]]), "entry") is ax
    assert ax.images[0].get_clim() == (-3.0, 3.0)


def test_shades_grow_darker():
    shades = plots.shades(plots.COLOURS[0], 3)
    assert luminance(shades[0]) > luminance(shades[1]) > luminance(shades[2])
    assert shades[-1] == pytest.approx(to_rgb(plots.COLOURS[0]))

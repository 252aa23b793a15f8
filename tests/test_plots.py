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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(3), "the largest eigenvalue = 0.0: expected one above 0"),
        (-np.ones(3), "the largest eigenvalue = -1.0: expected one above 0"),
        (np.array([1.0, np.nan]), "eigenvalues: NaN or infinity in row 1"),
        (np.array([np.inf, 1.0]), "eigenvalues: NaN or infinity in row 0"),
        (np.zeros(0), r"eigenvalues has shape \(0,\): expected \(n,\)"),
        (np.eye(2), r"eigenvalues has shape \(2, 2\): expected \(n,\)"),
        (np.array([1j]), r"eigenvalues \(complex128"),
    ],
)
def test_a_spectrum_without_anything_to_draw_is_refused(ax, values, message):
    with pytest.raises(ValueError, match=message):
        plots.spectrum(ax, values, "net")
    assert not ax.lines


def test_a_matrix_that_is_not_finite_is_refused(ax):
    with pytest.raises(ValueError, match="values: NaN or infinity in row 1"):
        plots.matrix(ax, np.array([[1.0], [np.nan]]), "entry")
    with pytest.raises(ValueError, match=r"values has shape \(2,\): expected \(m, n\)"):
        plots.matrix(ax, np.ones(2), "entry")


def test_a_threshold_stands_at_its_value(ax):
    assert plots.threshold(ax, 0.5, "limit") is ax
    assert ax.lines[0].get_ydata() == [0.5, 0.5] and ax.texts[0].get_text() == "limit"


def test_a_threshold_that_is_not_finite_is_refused(ax):
    with pytest.raises(ValueError, match="value = nan: expected a finite number"):
        plots.threshold(ax, np.nan, "limit")
    assert not ax.lines


def test_a_matrix_has_colours_symmetric_about_zero(ax):
    assert plots.matrix(ax, np.array([[1.0, -3.0]]), "entry") is ax
    assert ax.images[0].get_clim() == (-3.0, 3.0)


def test_shades_grow_darker():
    shades = plots.shades(plots.COLOURS[0], 3)
    assert luminance(shades[0]) > luminance(shades[1]) > luminance(shades[2])
    assert shades[-1] == pytest.approx(to_rgb(plots.COLOURS[0]))

from html.parser import HTMLParser

import pytest

from sgdvi_lite.tables import Table


class Cells(HTMLParser):
    """What a browser sees: tags with their attributes, and the text of each."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag != "span":  # of the element around it
            self.found.append([tag, dict(attributes), ""])

    def handle_data(self, text):
        self.found[-1][2] += text

    def of(self, tag):
        return [(attributes, text) for name, attributes, text in self.found if name == tag]


SMALL = Table(["run", "a", "b < c"], [["one", 1, "2.50"], "later", ["two & a half", 100, "-"]], caption="Runs > 0")


def test_the_terminal_sees_aligned_columns():
    assert str(SMALL).splitlines() == [
        "Runs > 0",
        "run             a  b < c",
        "one             1   2.50",
        "later",
        "two & a half  100      -",
    ]
    assert repr(SMALL) == str(SMALL)


def test_columns_on_the_left_leave_no_space_at_the_end_of_a_line():
    table = Table(["a", "text"], [["long name", "x"], ["b", "a sentence"]], left=2)
    assert str(table).splitlines() == ["a          text", "long name  x", "b          a sentence"]
    assert str(Table(["a", "b"], [[10, 2]], left=0)).splitlines() == [" a  b", "10  2"]


def test_a_page_sees_headers_with_scope_a_caption_and_escaped_text():
    cells = Cells(SMALL._repr_html_())
    assert cells.of("caption") == [({"style": "text-align: left"}, "Runs > 0")]
    headers = [(attributes["scope"], text) for attributes, text in cells.of("th")]
    columns = [("col", "run"), ("col", "a"), ("col", "b < c")]
    assert headers == [*columns, ("row", "one"), ("rowgroup", "later"), ("row", "two & a half")]
    assert [text for _, text in cells.of("td")] == ["1", "2.50", "100", "-"]
    assert cells.of("th")[4][0]["colspan"] == "3" and len(cells.of("tbody")) == 2
    assert "b &lt; c" in SMALL._repr_html_() and "two &amp; a half" in SMALL._repr_html_()
    assert Table(["a"], [["1 +- 2"]])._repr_html_().count("1&nbsp;±&nbsp;2") == 1
    styled = {name for name, attributes, _ in cells.found if "style" in attributes}
    assert styled == {"caption", "th", "td"}
    assert not any("bgcolor" in attributes for _, attributes, _ in cells.found)


def sides(table):
    """Where a browser puts each cell's text."""
    cells = Cells(table._repr_html_()).found
    return [attributes["style"].removeprefix("text-align: ") for tag, attributes, _ in cells if tag in ("th", "td")]


def test_a_page_has_names_on_the_left_and_numbers_on_the_right():
    row = ["left", "right", "right"]
    assert sides(SMALL) == [*row, *row, "left", *row]
    assert sides(Table(["a", "b"], [["x", "y"]], left=2)) == ["left"] * 4
    assert sides(Table(["a", "b"], [[1, 2]], left=0)) == ["left", "right"] * 2


def test_a_heading_as_the_first_row_leaves_no_empty_body():
    html = Table(["a", "b"], ["first", ["x", 1], "second", ["y", 2]])._repr_html_()
    assert "<tbody></tbody>" not in html and html.count("<tbody>") == html.count("</tbody>") == 2


def test_without_a_caption_there_is_none():
    table = Table(["a"], [["x"]])
    assert "<caption" not in table._repr_html_() and str(table) == "a\nx"


def test_a_notebook_prefers_the_html_and_has_the_text():
    formatters = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    shown, _ = formatters.format(SMALL)
    assert set(shown) == {"text/plain", "text/html"} and shown["text/plain"] == str(SMALL)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"rows: \['x', 1\] has 2 cells; expected 3, one for a column"):
        Table(["a", "b", "c"], [["x", 1]])


def test_rows_may_come_from_a_generator():
    table = Table(["a", "b"], (row for row in [[1, 2], "part", (x for x in (3, 4))]))
    assert str(table) == str(table) == "a  b\n1  2\npart\n3  4"

"""A table: aligned text in a terminal; in a notebook or on a page HTML, whose cells a screen reader can name."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, repr=False)
class Table:
    """Headings and rows of text; printed, it is aligned, and as the last expression of a notebook's cell it is HTML.

    Parameters
    ----------
    columns
        Headings.
    rows
        A row has one cell for each column, text or a number, and its first cell names it. A row that is a string is a
        heading of the rows below it.
    caption
        A line above the table.
    left
        Number of columns, from the first, that the terminal aligns on the left.

    Raises
    ------
    ValueError
        If a row has more or fewer cells than there are columns.

    Examples
    --------
    >>> from sgdvi_lite.tables import Table
    >>> print(Table(["batch", "rate"], [[4, 0.5], [64, "1.25"]]))
    batch  rate
    4       0.5
    64     1.25
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object] | str]
    caption: str = ""
    left: int = 1

    def __post_init__(self):
        for row in self.rows:
            if not isinstance(row, str) and len(row) != len(self.columns):
                raise ValueError(f"rows: {row!r} has {len(row)} cells; expected {len(self.columns)}, one for a column")

    def __str__(self) -> str:
        lines = [line if isinstance(line, str) else [*map(str, line)] for line in (self.columns, *self.rows)]
        columns = zip(*(line for line in lines if not isinstance(line, str)), strict=True)
        widths = [max(map(len, column)) for column in columns]
        text = [line if isinstance(line, str) else self._aligned(line, widths) for line in lines]
        return "\n".join([self.caption] * bool(self.caption) + text)

    __repr__ = __str__

    def _aligned(self, cells: list[str], widths: list[int]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i < self.left else c.rjust(w) for i, (c, w) in pairs).rstrip()

    def _repr_html_(self) -> str:
        caption = f"<caption>{_html(self.caption)}</caption>" * bool(self.caption)
        head = "".join(f'<th scope="col">{_html(heading)}</th>' for heading in self.columns)
        body = "".join(map(self._html_row, self.rows))
        return f'<table class="table">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _html_row(self, row: Sequence[object] | str) -> str:
        if isinstance(row, str):
            return f'</tbody><tbody><tr><th scope="rowgroup" colspan="{len(self.columns)}">{_html(row)}</th></tr>'
        name, *cells = map(_html, row)
        return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _html(cell: object) -> str:
    """Text of a cell; a number and its error stay on one line."""
    return escape(str(cell)).replace("+-", "±").replace(" ± ", "&nbsp;±&nbsp;")

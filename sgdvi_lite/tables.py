"""A table: aligned text in a terminal; in a notebook or on a page HTML, whose cells a screen reader can name."""

from collections.abc import Iterable, Sequence
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
        Number of columns, from the first, that are aligned on the left; in HTML at least the first is.

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
    rows: Iterable[Iterable[object] | str]
    caption: str = ""
    left: int = 1

    def __post_init__(self):
        object.__setattr__(self, "rows", [row if isinstance(row, str) else [*row] for row in self.rows])
        for row in self.rows:
            if not isinstance(row, str) and len(row) != len(self.columns):
                raise ValueError(f"rows: {row!r} has {len(row)} cells; expected {len(self.columns)}, one for a column")

    def __str__(self) -> str:
        lines = [line if isinstance(line, str) else [*map(str, line)] for line in (self.columns, *self.rows)]
        widths = [max(map(len, texts)) for texts in zip(*(row for row in lines if isinstance(row, list)), strict=True)]
        text = [line if isinstance(line, str) else self._aligned(line, widths) for line in lines]
        return "\n".join([self.caption] * bool(self.caption) + text)

    __repr__ = __str__

    def _aligned(self, cells: list[str], widths: list[int]) -> str:
        pairs = enumerate(zip(cells, widths, strict=True))
        return "  ".join(c.ljust(w) if i < self.left else c.rjust(w) for i, (c, w) in pairs).rstrip()

    def _repr_html_(self) -> str:
        caption = f'<caption style="text-align: left"><span>{_html(self.caption)}</span></caption>' * bool(self.caption)
        head = self._html_row(self.columns, *['th scope="col"'] * 2)
        body = "".join(map(self._html_row, self.rows)).removeprefix("</tbody><tbody>")
        return f'<table class="table">{caption}<thead>{head}</thead><tbody>{body}</tbody></table>'

    def _html_row(self, row: Sequence[object] | str, name: str = 'th scope="row"', cell: str = "td") -> str:
        """A row by the tags of its first cell and of the others; the first is always on the left."""
        if isinstance(row, str):
            head = f'<th scope="rowgroup" colspan="{len(self.columns)}" style="text-align: left">'
            return f"</tbody><tbody><tr>{head}<span>{_html(row)}</span></th></tr>"
        sides = ["left" if i < max(self.left, 1) else "right" for i in range(len(row))]
        cells = zip([name, *[cell] * (len(row) - 1)], sides, map(_html, row), strict=True)
        html = (f'<{tag} style="text-align: {side}">{text}</{tag[:2]}>' for tag, side, text in cells)
        return f"<tr>{''.join(html)}</tr>"


def _html(cell: object) -> str:
    """Text of a cell; a number and its error stay on one line."""
    return escape(str(cell)).replace("+-", "±").replace(" ± ", "&nbsp;±&nbsp;")

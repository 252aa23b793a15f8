"""What every chapter owes its reader: an opening that says what to expect, short cells, figures with words."""

import re
from statistics import median

import chapters
import pytest
from jupytext import reads

from tests.book.conftest import ROOT
from tests.book.test_ledger_ties import checked_ids

each_chapter = pytest.mark.parametrize("chapter", chapters.sources(ROOT), ids=lambda path: path.stem)


def cells(chapter):
    """The code cells of a chapter."""
    notebook = reads(chapter.read_text(encoding="utf-8"), fmt="md:myst")
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def draws(cell) -> bool:
    """Whether a cell makes a figure: at its top level, not in a function that draws a frame for later."""
    drawn = r"^\S.*(\bplt\.(subplots|figure)\(|\.subplots\()|^(slider|reports\.draw)\("
    return re.search(drawn, cell.source, re.MULTILINE) is not None


def alternatives(cell) -> list[str]:
    """The words that stand for a figure; a slider's are an argument, one for each frame."""
    if re.search(r"^slider\(", cell.source, re.MULTILINE):
        assert re.search(r"^slider\(.*\balt\b", cell.source, re.MULTILINE | re.DOTALL), "a slider needs alt"
        return []
    return [cell.metadata["mystnb"]["image"]["alt"]]


@each_chapter
def test_opening_says_what_to_expect(chapter):
    opening = chapter.read_text(encoding="utf-8").split("\n# ", 1)[1].split("\n## ", 1)[0]
    card = re.search(r":class: chapter-card\n(.*?)\n:::", opening, re.DOTALL)
    assert card, "the opening needs an admonition of class chapter-card"
    for pattern in (
        r"\*\*You will be able to\*\* \w",
        r"\*\*You need\*\* \w",
        r"\d+ minutes to read",
        r"minutes? to run",
    ):
        assert re.search(pattern, card[1]), f"the opening does not match {pattern}"


@each_chapter
def test_cells_are_short(chapter):
    lengths = [len(cell.source.splitlines()) for cell in cells(chapter)]
    assert max(lengths) <= 25
    assert median(lengths) <= 8


@each_chapter
def test_figures_have_alt_text_caption_and_name(chapter):
    drawing = [cell for cell in cells(chapter) if draws(cell)]
    captioned = [cell for cell in cells(chapter) if "figure" in cell.metadata.get("mystnb", {})]
    assert [cell.source for cell in drawing] == [cell.source for cell in captioned]
    for cell in captioned:
        figure = cell.metadata["mystnb"]["figure"]
        assert all(len(words.split()) >= 8 for words in [*alternatives(cell), figure["caption"]]), "say what is seen"
        assert figure["name"].startswith("fig-")


@each_chapter
def test_cells_with_checks_are_tagged(chapter):
    imports = "from sgdvi_lite import ledger"
    for cell in cells(chapter):
        assert ("check" in cell.metadata.get("tags", [])) == bool(checked_ids([imports, cell.source])), cell.source

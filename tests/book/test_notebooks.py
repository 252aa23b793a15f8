"""The notebooks beside the chapters: valid, reproducible, current, and with the numbers of the site."""

import re
import shutil
from pathlib import Path

import nbformat
import notebooks
import pytest
from bs4 import BeautifulSoup
from jupytext import reads
from notebooks_inline import macros

from tests.book.conftest import ROOT, SITE

CHAPTERS = notebooks.chapters(ROOT)
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def env():
    return notebooks.environment(ROOT / "_build")


def notebook(chapter: Path):
    return nbformat.read(chapter.with_suffix(".ipynb"), as_version=nbformat.NO_CONVERT)


def prose(chapter: Path) -> str:
    """The text cells, without code."""
    text = "\n\n".join(cell.source for cell in notebook(chapter).cells if cell.cell_type == "markdown")
    text = re.sub(r"^(```+)[^\n]*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)


# ---- the committed notebooks ---------------------------------------------------------------------------------------


def test_there_are_chapters():
    assert CHAPTERS


def test_no_notebook_is_missing_stale_or_without_source(env):
    assert notebooks.stale(ROOT, env) == [], "build the book to write them anew: make book"


@each_chapter
def test_notebook_is_valid(chapter):
    nbformat.validate(notebook(chapter))
    assert notebook(chapter).metadata.kernelspec.name == "python3"


@each_chapter
def test_notebook_has_no_results(chapter):
    code = [cell for cell in notebook(chapter).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@each_chapter
def test_identifiers_are_unique_and_the_same_at_every_build(chapter, env):
    ids = [cell.id for cell in notebook(chapter).cells]
    assert len(set(ids)) == len(ids)
    again = nbformat.reads(notebooks.render(chapter, env), as_version=nbformat.NO_CONVERT)
    assert [cell.id for cell in again.cells] == ids


@each_chapter
def test_code_is_that_of_the_chapter(chapter):
    source = reads(chapter.read_text(encoding="utf-8"), fmt="md:myst")
    code = [cell.source for cell in notebook(chapter).cells if cell.cell_type == "code"]
    assert code[1:] == [cell.source for cell in source.cells if cell.cell_type == "code"]


@each_chapter
def test_no_markup_of_the_site_is_left(chapter):
    assert re.findall(r":::.*|```+\{.*|\{[\w:]+\}`.*|^\(.+\)=$|^%.*", prose(chapter), re.MULTILINE) == []


@each_chapter
def test_no_macro_of_the_site_is_left(chapter, env):
    names = "|".join(macros(env.config))
    assert names
    assert re.findall(rf"\\(?:{names})(?![A-Za-z])", prose(chapter)) == []


@each_chapter
def test_formulas_are_delimited_in_pairs(chapter):
    text = re.sub(r"\\.", "", prose(chapter))
    assert text.count("$$") % 2 == 0
    assert text.replace("$$", "").count("$") % 2 == 0


# ---- the numbers of the site ---------------------------------------------------------------------------------------


@pytest.fixture
def page(chapter, site):
    html = (SITE / "book" / f"{chapter.stem}.html").read_text(encoding="utf-8")
    return BeautifulSoup(html, "html.parser").find("article")


def shown(page, selector: str) -> list[str]:
    """Text of the elements that match, without the sign of the link to themselves."""
    return [element.get_text().strip(" #\n") for element in page.select(selector)]


@each_chapter
def test_equations_have_the_numbers_of_the_site(chapter, page):
    tags = [f"({number})" for number in re.findall(r"\\tag\{([\d.]+)\}", prose(chapter))]
    assert tags == shown(page, ".eqno")


@each_chapter
@pytest.mark.parametrize(
    "pattern, selector",
    [
        (r"^> \*\*([A-Z][a-z]+ \d+\.\d+)\.?\*\*", ".proof .caption-number"),
        (r"^\*\*(Exercise \d+\.\d+)\.?\*\*", ".exercise .caption-number"),
        (r"^\*(Fig\. \d+\.\d+)\. ", "figcaption .caption-number"),
        (r"^#+ (\d[\d.]*\.) ", ".section-number"),
    ],
    ids=["statements", "exercises", "figures", "headings"],
)
def test_numbered_things_are_those_of_the_site(chapter, page, pattern, selector):
    assert re.findall(pattern, prose(chapter), re.MULTILINE) == shown(page, selector)


@each_chapter
def test_references_to_equations_and_statements_are_those_of_the_site(chapter, page):
    links = [link.get_text() for link in page.select("a.reference.internal")]
    pattern = r"\(\d+\.\d+\)|(?:Theorem|Lemma|Proposition|Corollary|Definition|Exercise|Fig\.) \d+\.\d+"
    referred = [text for text in links if re.fullmatch(pattern, text)]
    body = re.sub(r"^(?:> )?\*+[A-Z][^*]*\*\*|^\*Fig\. [\d.]+", "", prose(chapter), flags=re.MULTILINE)
    body = re.sub(r"<summary>.*?</summary>|\$\$.+?\$\$|\$[^$]+\$", "", re.sub(r"\\\W", "", body), flags=re.DOTALL)
    assert sorted(re.findall(pattern, body)) == sorted(referred)


# ---- a stale notebook is found -------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the chapters and their notebooks."""
    (tmp_path / "book").mkdir()
    for chapter in CHAPTERS:
        shutil.copy(chapter, tmp_path / "book")
        shutil.copy(chapter.with_suffix(".ipynb"), tmp_path / "book")
    return tmp_path


def test_a_copy_is_current(copy, env):
    assert notebooks.stale(copy, env) == []


def test_a_notebook_changed_by_hand_is_stale(copy, env):
    path = notebooks.chapters(copy)[0].with_suffix(".ipynb")
    path.write_text(path.read_text(encoding="utf-8").replace('"cells"', '"cells" ', 1), encoding="utf-8")
    assert notebooks.stale(copy, env) == [path.name]


@pytest.mark.parametrize("addition", ["\nOne more sentence.\n", "\n```{code-cell} ipython3\n1 + 1\n```\n"])
def test_a_notebook_behind_its_chapter_is_stale(copy, env, addition):
    chapter = notebooks.chapters(copy)[0]
    chapter.write_text(chapter.read_text(encoding="utf-8") + addition, encoding="utf-8")
    assert notebooks.stale(copy, env) == [f"{chapter.stem}.ipynb"]


def test_a_missing_notebook_and_one_without_source_are_found(copy, env):
    path = notebooks.chapters(copy)[0].with_suffix(".ipynb")
    path.rename(path.with_name("99-nothing.ipynb"))
    assert notebooks.stale(copy, env) == [path.name, "99-nothing.ipynb"]


def test_a_changed_number_of_the_site_makes_a_notebook_stale(copy, env, monkeypatch):
    docname = f"book/{CHAPTERS[0].stem}"
    shifted = {key: (9, *number[1:]) for key, number in env.toc_fignumbers[docname]["displaymath"].items()}
    monkeypatch.setitem(env.toc_fignumbers[docname], "displaymath", shifted)
    assert f"{CHAPTERS[0].stem}.ipynb" in notebooks.stale(copy, env)


def test_a_chapter_outside_the_contents_is_refused(tmp_path, env):
    with pytest.raises(ValueError, match=r"99-new\.md is not in the last build; add it to _toc\.yml"):
        notebooks.render(tmp_path / "99-new.md", env)


def test_without_a_build_the_remedy_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="make book"):
        notebooks.environment(tmp_path)


def test_a_notebook_is_written_only_if_it_differs(tmp_path):
    path = tmp_path / "a.ipynb"
    assert [notebooks.write(path, text) for text in ("1\n", "1\n", "2\n")] == [True, False, True]
    assert path.read_text() == "2\n"
    assert list(tmp_path.iterdir()) == [path]

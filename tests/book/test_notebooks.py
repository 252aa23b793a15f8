"""The notebooks beside the chapters: valid, reproducible, current, and with the numbers of the site."""

import re
from functools import cache
from pathlib import Path

import chapters
import nbformat
import notebooks
import pytest
from bs4 import BeautifulSoup
from jupytext import reads
from notebooks_tex import macros
from notebooks_translator import MarkupError

from tests.book import small_site
from tests.book.conftest import ROOT, SITE

CHAPTERS = chapters.sources(ROOT)
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def builder():
    with small_site.built_book(ROOT) as app:
        yield app.builder


render = cache(notebooks.render)
"""Once for each page and Sphinx."""


def stale(builder) -> list[str]:
    """Names of the notebooks that are missing, behind their source or the site, or have no source."""
    sources = {path.with_suffix(".ipynb"): path for path in chapters.sources(Path(builder.srcdir))}
    missing = [path.name for path in sources.values() if f"book/{path.stem}" not in builder.env.all_docs]
    if missing:
        raise ValueError(f"{missing[0]} is not in the last build; add it to _toc.yml and build the book")
    found = set((Path(builder.srcdir) / "book").glob("*.ipynb"))
    return sorted(path.name for path in found | set(sources) if not is_current(path, sources.get(path), builder))


def is_current(path: Path, source: Path | None, builder) -> bool:
    """Whether a notebook is what the last build gives, and its source was not changed since."""
    if source is None or not path.is_file():
        return False
    docname = f"book/{source.stem}"
    read = builder.env.all_docs[docname]  # in microseconds
    return source.stat().st_mtime_ns // 1000 <= read and path.read_text("utf-8") == render(docname, builder)


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


def test_no_notebook_is_missing_stale_or_without_source(builder):
    assert stale(builder) == [], "build the book to write them anew: make book"


@each_chapter
def test_notebook_is_valid(chapter):
    nbformat.validate(notebook(chapter))
    assert notebook(chapter).metadata.kernelspec.name == "python3"


@each_chapter
def test_notebook_has_no_results(chapter):
    code = [cell for cell in notebook(chapter).cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@each_chapter
def test_identifiers_are_unique_and_the_same_at_every_build(chapter, builder):
    ids = [cell.id for cell in notebook(chapter).cells]
    assert len(set(ids)) == len(ids)
    again = nbformat.reads(render(f"book/{chapter.stem}", builder), as_version=nbformat.NO_CONVERT)
    assert [cell.id for cell in again.cells] == ids


@each_chapter
def test_code_is_that_of_the_chapter(chapter):
    source = reads(chapter.read_text(encoding="utf-8"), fmt="md:myst")
    code = [cell.source for cell in notebook(chapter).cells if cell.cell_type == "code"]
    assert {cell.cell_type for cell in source.cells} == {"code", "markdown"}, "the site shows no raw cell"
    assert code[1:] == [cell.source for cell in source.cells if cell.cell_type == "code"]


@each_chapter
def test_no_markup_of_the_site_is_left(chapter):
    assert re.findall(r":::.*|```+\{.*|\{[\w:]+\}`.*|^\(.+\)=$|^%.*", prose(chapter), re.MULTILINE) == []


@each_chapter
def test_no_macro_of_the_site_is_left(chapter, builder):
    names = "|".join(macros(builder.config))
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
    return article(SITE / "book" / f"{chapter.stem}.html")


@cache
def article(path: Path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").find("article")


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


# ---- the build writes them, and a stale one is found ---------------------------------------------------------------

PAGES = {"01-a": small_site.CHAPTER, "02-b": "# Another\n\nBy {eq}`eq-a` and {numref}`fig-a`.\n"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small book with two chapters, built."""
    build(tmp_path, PAGES)
    return tmp_path


def build(folder: Path, pages: dict[str, str], **config) -> None:
    small_site.write(folder, pages)
    with small_site.sphinx(folder, "notebooks", **config) as app:
        app.build()


def text(folder: Path, name: str) -> str:
    """The text cells of a notebook of the small book."""
    cells = nbformat.read(folder / "book" / f"{name}.ipynb", as_version=nbformat.NO_CONVERT).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def stale_in(folder: Path) -> list[str]:
    with small_site.sphinx(folder) as app:
        return stale(app.builder)


def test_after_a_build_all_are_current(folder):
    assert stale_in(folder) == []
    assert "# 2. Another\n\nBy (1.1) and Fig. 1.4." in text(folder, "02-b")


def test_a_notebook_changed_by_hand_is_stale(folder):
    path = folder / "book/01-a.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace('"cells"', '"cells" ', 1), encoding="utf-8")
    assert stale_in(folder) == [path.name]


@pytest.mark.parametrize("addition", ["\nOne more sentence.\n", "\n```{code-cell} ipython3\n1 + 1\n```\n"])
def test_a_notebook_behind_its_chapter_is_stale(folder, addition):
    chapter = folder / "book/01-a.md"
    chapter.write_text(chapter.read_text(encoding="utf-8") + addition, encoding="utf-8")
    assert stale_in(folder) == ["01-a.ipynb"]


def test_a_missing_notebook_and_one_without_source_are_found(folder):
    path = folder / "book/01-a.ipynb"
    path.rename(path.with_name("99-nothing.ipynb"))
    assert stale_in(folder) == [path.name, "99-nothing.ipynb"]


def test_a_changed_number_of_the_site_makes_a_notebook_stale(folder):
    with small_site.sphinx(folder) as app:
        numbers = app.env.toc_fignumbers["book/01-a"]["displaymath"]
        numbers |= {key: (9, *number[1:]) for key, number in numbers.items()}
        assert "01-a.ipynb" in stale(app.builder)


def test_a_chapter_outside_the_contents_is_refused(folder):
    (folder / "book/99-new.md").write_text("# New\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"99-new\.md is not in the last build; add it to _toc\.yml"):
        stale_in(folder)


def test_without_a_build_the_remedy_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="make book"), small_site.built_book(tmp_path):
        pass


def test_a_notebook_follows_another_page_though_its_own_has_not_changed(folder):
    before = {name: (folder / f"_build/.doctrees/book/{name}.doctree").stat().st_mtime_ns for name in PAGES}
    build(folder, PAGES | {"01-a": PAGES["01-a"].replace("$$ x $$", "$$ z $$ (eq-z)\n\n$$ x $$")})
    after = {name: (folder / f"_build/.doctrees/book/{name}.doctree").stat().st_mtime_ns for name in PAGES}
    assert {name: before[name] != after[name] for name in PAGES} == {"01-a": True, "02-b": False}
    assert "By (1.2) and Fig. 1.4." in text(folder, "02-b")
    assert stale_in(folder) == []


@pytest.mark.parametrize("with_ledger", [True, False], ids=["a page is read at every build", "nothing is read"])
def test_every_build_mends_a_notebook_and_leaves_the_others(tmp_path, monkeypatch, with_ledger):
    if not with_ledger:
        monkeypatch.setattr(small_site, "REST", {"references": small_site.REST["references"]})
    build(tmp_path, PAGES)
    changed, other = (tmp_path / f"book/{name}.ipynb" for name in PAGES)
    content, date = changed.read_bytes(), other.stat().st_mtime_ns
    changed.unlink()
    build(tmp_path, PAGES)
    assert changed.read_bytes() == content
    assert other.stat().st_mtime_ns == date


def test_what_a_notebook_cannot_show_stops_the_build(folder):
    before = (folder / "book/02-b.ipynb").read_bytes()
    (folder / "_build/html/book/02-b.html").unlink()
    with pytest.raises(MarkupError, match=r"^book/02-b\.md:5: notebooks have no form for glossary"):
        build(folder, PAGES | {"02-b": PAGES["02-b"] + "\n:::{glossary}\nA\n: b\n:::\n"})
    assert (folder / "book/02-b.ipynb").read_bytes() == before
    assert not (folder / "_build/html/book/02-b.html").exists()


def test_a_notebook_is_written_only_if_it_differs(tmp_path):
    path = tmp_path / "a.ipynb"
    assert [notebooks.write(path, text) for text in ("1\n", "1\n", "2\n")] == [True, False, True]
    assert path.read_text() == "2\n"
    assert list(tmp_path.iterdir()) == [path]

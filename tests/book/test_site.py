"""The built site: links, citations and types without a browser; then every page in Chromium, light and dark."""

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import accessible
import api_links
import chapters
import pytest
import quiet_kernels
import yaml
from bs4 import BeautifulSoup

import sgdvi_lite
from sgdvi_lite import ledger
from tests.book.conftest import ROOT, SITE, chapter_pages, site_pages

PAGES = site_pages()
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
FEW = {"book/index.html", "book/ledger.html", "book/01-mini-batch-noise.html"}  # the others: make check
IN_A_BROWSER = [pytest.param(page, marks=() if page in FEW else pytest.mark.check) for page in PAGES]
PATIENCE = 300_000  # milliseconds: only a page that never comes is late
THEME_FLAWS = {"label-content-name-mismatch", "region"}  # in the theme's own frame


@cache
def soup(path: Path) -> BeautifulSoup:
    """A built page, parsed once."""
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


# ---- without a browser ---------------------------------------------------------------------------------------------


def test_every_page_of_the_contents_is_built(site):
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    assert {f"{name}.html" for name in files} <= set(PAGES)
    assert "url=book/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_every_chapter_is_in_the_contents():
    written = {f"book/{path.stem}.html" for path in chapters.sources(ROOT)}
    assert written == set(chapter_pages()) != set()


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a link from a page, or None."""
    url, fragment = urldefrag(target)
    if urlsplit(url).scheme or url.startswith("//"):
        return None
    file = (page.parent / unquote(urlsplit(url).path)).resolve() if url else page
    if not file.is_file():
        return f"{target}: no such file"
    if fragment and file.suffix == ".html" and soup(file).find(id=unquote(fragment)) is None:
        return f"{target}: no such anchor"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = SITE / page
    targets = {tag[name] for name in ("href", "src") for tag in soup(path).find_all(attrs={name: True})}
    assert targets - {"#"}
    assert [problem for target in sorted(targets - {"#"}) if (problem := broken(path, target))] == []


def test_a_broken_link_is_noticed(tmp_path):
    page = tmp_path / "a.html"
    page.write_text('<p id="here"></p>')
    assert broken(page, "#here") is None and broken(page, "a.html#here") is None
    assert broken(page, "#there") == "#there: no such anchor"
    assert broken(page, "b.html") == "b.html: no such file"


@pytest.mark.parametrize("page", PAGES)
def test_images_say_what_they_show(page):
    for image in soup(SITE / page).find_all("img"):
        decorative = {"logo__image", "decorative"} & set(image.get("class", []))
        alt = image.get("alt", "").strip()
        assert decorative or len(alt) > 3, f"{page}: {image.get('src')} needs alternative text"
        assert not re.search(r"[0-9a-f]{16}|\.(svg|png)$", alt), f"{page}: {alt!r} is a file name, not a text"


def prose(article) -> str:
    """The text of an article without code and formulas."""

    def is_apart(tag):
        return tag.name in ("pre", "code") or "math" in tag.get("class", [])

    return "".join(text for text in article.strings if not any(map(is_apart, text.parents)))


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_is_left_over(page):
    article = soup(SITE / page).find("article")
    text = prose(article) if article else ""
    assert re.findall(r"\{[a-z:]+\}`|:::|\]\(|\$[^$ ]", text) == []


@pytest.mark.parametrize("page", chapter_pages())
def test_colab_opens_a_notebook_that_exists(page):
    links = [a["href"] for a in soup(SITE / page).find_all("a", href=True) if "colab.research" in a["href"]]
    owner = urlsplit(CONFIG["repository"]["url"]).path
    start = f"https://colab.research.google.com/github{owner}/blob/{CONFIG['repository']['branch']}/"
    assert links and all(link.startswith(start) and link.endswith(".ipynb") for link in links)
    assert all((ROOT / link.removeprefix(start)).is_file() for link in links)


def test_ledger_page_shows_every_claim_with_its_verdict():
    page = soup(SITE / "book/ledger.html")
    for claim in ledger.load():
        row = page.find(id=f"claim-{claim.id}").find_parent("tr")
        assert claim.label in row.get_text() and row.select_one(".verdict").get_text() == claim.verdict


def test_errata_page_shows_every_erratum():
    headings = {tag.get_text().rstrip("#") for tag in soup(SITE / "book/errata.html").select("article h2")}
    assert headings == {claim.label for claim in ledger.load() if claim.erratum}


def test_every_erratum_says_where_what_and_by_what_proof_and_test():
    fields = ["Where", "Printed", "Corrected", "Why", "Proof", "Test", "Ledger"]
    for listing in soup(SITE / "book/errata.html").select("article .erratum"):
        names, texts = ([tag.get_text().strip().rstrip(":") for tag in listing.select(kind)] for kind in ("dt", "dd"))
        assert names == fields and all(texts)
        assert listing.select("dd")[4].find("a") and re.match(r"[1-9]\d* checks? of ", texts[5])


def test_api_page_has_every_public_module():
    library = ROOT / "sgdvi_lite"
    found = [*library.glob("*.py"), *(path.parent for path in library.glob("*/__init__.py"))]
    modules = {path.stem for path in found if not path.stem.startswith("_")}
    anchors = {tag["id"] for tag in soup(SITE / "book/api.html").find_all(id=re.compile("^module-"))}
    assert {f"module-{name}" for name in modules} <= anchors


def test_citation_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    block = next(tag.get_text() for tag in soup(SITE / "book/cite.html").find_all("pre") if "@misc" in tag.get_text())
    assert citation["version"] == sgdvi_lite.__version__ and citation["title"] == CONFIG["title"]
    assert citation["authors"] == [{"name": CONFIG["author"]}]
    for expected in (
        citation["title"],
        citation["authors"][0]["name"],
        citation["version"],
        CONFIG["repository"]["url"],
    ):
        assert f"{{{expected}}}" in block


def test_repository_address_stands_once():
    address = CONFIG["repository"]["url"]
    suffixes = {".md", ".py", ".toml", ".yml", ".cff", ".css"}
    tracked = [path for folder in ("book", "sgdvi_lite") for path in (ROOT / folder).rglob("*")]
    tracked += [path for path in ROOT.iterdir() if path.is_file()]
    texts = [path for path in tracked if path.suffix in suffixes and path.name != "README.md"]
    assert [path.name for path in texts if address in path.read_text(encoding="utf-8")] == ["_config.yml"]


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Tensor", "/tensors.html#torch.Tensor"),
        ("torch.nn.Module", "/generated/torch.nn.Module.html#torch.nn.Module"),
        ("numpy.ndarray", "/generated/numpy.ndarray.html"),
        ("Float", "/jaxtyping/api/array/"),
        ("pathlib.Path", "/library/pathlib.html#pathlib.Path"),
        ("int", "/library/functions.html#int"),
        ("ValueError", "/library/exceptions.html#ValueError"),
        ("None", "/library/constants.html#None"),
    ],
)
def test_types_are_linked(name, end):
    assert api_links.address(name).endswith(end)


@pytest.mark.parametrize("name", ["sgdvi_lite.nothing", "print", "torch.nothing", "N"])
def test_an_unknown_type_stays_unresolved(name):
    assert api_links.address(name) is None


def test_long_signatures_become_plain_lines():
    item = '<em class="sig-param">{}</em>,'
    written = "<dl>\n" + "".join(f"<dd>{item.format(name)}</dd>\n" for name in "ab") + "</dl>"
    lines = "".join(f'<span class="sig-line">{item.format(name)}</span>\n' for name in "ab")
    assert accessible.signatures(f"<p>{written}</p>") == f"<p>{lines}</p>"
    assert accessible.signatures("<dl>\n<dd>text</dd>\n</dl>") == "<dl>\n<dd>text</dd>\n</dl>"


def test_a_chapter_without_a_title_is_refused(tmp_path):
    (tmp_path / "02-empty.md").write_text("no heading")
    with pytest.raises(ValueError, match=r"02-empty\.md: no line begins with '# '"):
        chapters.title(tmp_path / "02-empty.md")


def test_kernels_keep_the_warnings_that_were_asked_for():
    assert quiet_kernels.warnings_setting("") == quiet_kernels.IGNORED
    assert quiet_kernels.warnings_setting("error") == f"error,{quiet_kernels.IGNORED}"


# ---- in a browser --------------------------------------------------------------------------------------------------


class Visit:
    """A page opened in Chromium, with what it complained about and what it fetched."""

    def __init__(self, browser, server, page, width=1280, scheme="light"):
        self.name, self.complaints, self.outside = page, [], []
        size = {"width": width, "height": 844}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._request(request.url, server))
        self.page.goto(f"{server}/{page}", wait_until="load")
        self.page.evaluate("() => window.MathJax?.startup?.promise.then(() => true)")
        self.page.evaluate("() => document.fonts.ready.then(() => true)")

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _request(self, url, server):
        if not url.startswith((server, "data:", "blob:")):
            self.outside.append(url)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()

    def flaws(self) -> list[tuple[str, list[str]]]:
        """What axe finds beyond the theme's own flaws: the rule and the first elements that break it."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        new = [rule for rule in found if rule["id"] not in THEME_FLAWS]
        return [(rule["id"], [node["html"][:160] for node in rule["nodes"][:4]]) for rule in new]


@pytest.fixture(scope="module", params=IN_A_BROWSER)
def desktop(request, browser, server):
    """Each page on a wide screen, in the light."""
    with Visit(browser, server, request.param) as visit:
        yield visit


@pytest.mark.browser
def test_page_loads_quietly_and_alone(desktop):
    assert desktop.complaints == []
    assert desktop.outside == []


@pytest.mark.browser
def test_equations_are_typeset(desktop):
    formulas = len(soup(SITE / desktop.name).select("span.math, div.math"))
    assert desktop.page.locator(".math:not(:has(mjx-container))").count() == 0
    assert desktop.page.locator("mjx-container").count() >= formulas
    assert desktop.page.locator("mjx-merror, [data-mjx-error]").count() == 0
    assert not re.search(r"\\[(\[]|\\begin\{", desktop.page.locator("body").inner_text())


@pytest.mark.browser
def test_axe_finds_nothing_new(desktop):
    assert desktop.page.get_attribute("html", "data-theme") == "light"
    assert desktop.flaws() == []


@pytest.mark.browser
@pytest.mark.parametrize("page", IN_A_BROWSER)
def test_on_a_phone_in_the_dark(browser, server, page):
    with Visit(browser, server, page, width=390, scheme="dark") as visit:
        assert visit.page.evaluate("document.scrollingElement.scrollWidth") <= 390
        assert visit.page.get_attribute("html", "data-theme") == "dark"
        assert visit.flaws() == []


@pytest.mark.browser
def test_search_finds_a_word(browser, server):
    with Visit(browser, server, "search.html?q=diffusion") as visit:
        visit.page.wait_for_selector("#search-results ul.search li a")
        found = visit.page.locator("#search-results ul.search li a").all_inner_texts()
        assert visit.outside == []
    assert any("noise" in title or "Notation" in title for title in found)


@pytest.mark.browser
def test_the_keyboard_reaches_the_text_first_and_shows_where_it_is(browser, server):
    with Visit(browser, server, "book/ledger.html") as visit:
        visit.page.keyboard.press("Tab")
        focused = visit.page.locator(":focus")
        assert "Skip to main content" in focused.inner_text()
        assert focused.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"

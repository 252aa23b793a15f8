"""A small book, read and numbered by Sphinx with the extensions that the notebooks depend on."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jupyter_book.config import get_final_config
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

BIBLIOGRAPHY = r"""
@article{two, author={Ada Lovelace and Emmy Noether}, title={On $D$_x}, journal={J}, year={1901}, doi={10.1/x}}
@article{many, author={A One and B Two and C Three}, title={Many}, journal={J}, year={1902}, eprint={1902.00001},
  archiveprefix={arXiv}}
"""
MACROS = {"E": (r"\operatorname{\mathbb{E}}", 0), "norm": (r"\lVert #1 \rVert", 1), "in": (r"\langle #1,#2\rangle", 2)}
HOME = "https://example.org/us/book"
EXERCISE = ":::{exercise}\nSolve.\n:::\n\n"
FIGURE = "```{figure} a.svg\n:alt: An a\n\nNo label.\n```\n\n"
CHAPTER = f"""\
# A chapter

$$ x $$ (eq-a)

(sec-a)=
## A section

```{{prf:theorem}}
The first.
```

```{{prf:theorem}}
:label: thm-a
The second.
```

{EXERCISE * 2}
:::{{exercise}}
:label: ex-a
Solve.
:::

{FIGURE * 3}
```{{figure}} a.svg
:alt: An a
:name: fig-a

With a label.
```
"""
"""A page with labels and with numbers that differ: (1.1), Theorem 1.2, Exercise 1.3, Fig. 1.4."""

REST = {"references": "# Bibliography\n\n```{bibliography}\n```\n", "ledger": "# Ledger\n\n```{ledger}\n```\n"}
"""Pages without number; that of the ledger is read at every build."""

_CONFIG = {
    "extensions": [
        *("myst_nb", "sphinx_proof", "sphinx_exercise", "sphinxcontrib.bibtex", "sphinx_book_theme"),
        *("ledger_pages", "repository"),
    ],
    "root_doc": "index",
    "exclude_patterns": ["_build/**", "**/*.ipynb"],
    "html_theme": "sphinx_book_theme",
    "html_title": "A book",
    "html_theme_options": {"repository_url": HOME, "repository_branch": "main", "repository_provider": "github"},
    "language": "en",
    "myst_enable_extensions": ["amsmath", "colon_fence", "deflist", "dollarmath"],
    "nb_execution_mode": "off",
    "keep_warnings": True,
    "numfig": True,
    "math_numfig": True,
    "math_eqref_format": "({number})",
    "bibtex_bibfiles": ["book/references.bib"],
    "bibtex_default_style": "alpha",
    "bibtex_reference_style": "author_year",
    "mathjax3_config": {"tex": {"macros": {"E": MACROS["E"][0], "norm": list(MACROS["norm"])}}},
}


def write(folder: Path, pages: dict[str, str]) -> None:
    """Write a book of these pages, in order, all of them numbered, with a bibliography and the ledger."""
    (folder / "book").mkdir(parents=True, exist_ok=True)
    for name in ("Makefile", "book/a.svg"):
        _write(folder / name, '<svg xmlns="http://www.w3.org/2000/svg"/>')
    _write(folder / "book" / "references.bib", BIBLIOGRAPHY)
    for name, text in (pages | REST).items():
        _write(folder / "book" / f"{name}.md", text)
    lists = [
        "\n".join([f"```{{toctree}}\n{option}", *(f"book/{name}" for name in names), "```\n"])
        for option, names in ((":numbered:\n", pages), ("", REST))
    ]
    _write(folder / "index.md", "\n".join(["# A book", "", *lists]))


def _write(path, text):
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


@contextmanager
def sphinx(folder: Path, *extensions: str, **config) -> Iterator[Sphinx]:
    """Sphinx on the book in a folder, with more extensions and other settings; ``app.build()`` builds it."""
    settings = _CONFIG | {"extensions": [*_CONFIG["extensions"], *extensions]} | config
    paths = (folder, None, folder / "_build/html", folder / "_build/.doctrees")
    with patch_docutils(), docutils_namespace():
        yield Sphinx(*paths, "html", confoverrides=settings, status=None, warning=io.StringIO())


@contextmanager
def built_book(root: Path) -> Iterator[Sphinx]:
    """Sphinx on the real book, as its last build has left it; nothing is read or executed anew."""
    if not (root / "_build/.doctrees/environment.pickle").is_file():
        raise FileNotFoundError("there is no environment.pickle of a build; build the book first: make book")
    options = {"user_yaml": root / "_config.yml", "cli_config": {"latex_individualpages": False}}
    config, _ = get_final_config(sourcedir=root, **options)
    with patch_docutils(), docutils_namespace():
        yield Sphinx(
            root, None, root / "_build/html", root / "_build/.doctrees", "html", confoverrides=config, status=None
        )


def read(app: Sphinx) -> None:
    """Read and number the pages without writing any."""
    read = app.builder.read()
    assert list(app.env.check_dependents(app, set(read))) == []

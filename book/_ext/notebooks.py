"""Write each chapter as a notebook for Jupyter and Colab, beside its source and with the numbers of the site.

``book/NN-name.md`` is the source, ``book/NN-name.ipynb`` is generated from it, one way, at every build: no
outputs, the same bytes for the same source, no markup that only the site understands. The notebooks are written before
the pages, because the theme's Colab button looks for them.
"""

import hashlib
import os
import pickle
import re
from pathlib import Path

import nbformat
from myst_nb.core.read import read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from notebooks_blocks import CELL, Converter
from notebooks_inline import Inline, MarkupError, macros
from notebooks_references import References
from repository import address

INSTALL = """\
import importlib.util

if importlib.util.find_spec("sgdvi_lite") is None:
    # pip adds only what is missing: a torch that is already there satisfies torch>=2.6 and stays.
    %pip install --quiet "git+{repository}@{branch}"
"""
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_BLOCK = re.compile(r"^[> ]*(`{3,}|~{3,})(?!\{).*?^[> ]*\1[`~]*\s*$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)(`{1,2})(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LEAK = re.compile(r"^[> ]*(?::{3}|`{3,}\{)|\{[A-Za-z][\w:+.-]*\}`|^\([^()\s]+\)=\s*$|\f", re.MULTILINE)


def chapters(root: Path) -> list[Path]:
    """Sources of the chapters, in order."""
    return sorted((root / "book").glob("[0-9][0-9]-*.md"))


def environment(build: Path):
    """The Sphinx environment that a build has left in its folder."""
    path = build / ".doctrees" / "environment.pickle"
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path.name} of a build; build the book first: make book")
    with path.open("rb") as file:
        return pickle.load(file)


def render(source: Path, env) -> str:
    """The notebook of a chapter, as text.

    Raises ``MarkupError``, with file and line, for markup that a notebook cannot show and for labels that the site does
    not know.
    """
    docname = f"book/{source.stem}"
    if docname not in env.all_docs:
        raise ValueError(f"{source.name} is not in the last build; add it to _toc.yml and build the book")
    text = source.read_text(encoding="utf-8")
    cells = _first_cells(env, docname) + _cells(text, source.name, References(env, docname))
    for position, cell in enumerate(cells):
        cell["id"] = _identifier(source.stem, position, cell)
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=_METADATA)
    notebook.nbformat_minor = 5
    return nbformat.writes(notebook) + "\n"


def stale(root: Path, env) -> list[str]:
    """Names of the notebooks that are missing, differ from what their source gives, or have no source."""
    sources = {path.with_suffix(".ipynb"): path for path in chapters(root)}
    orphans = set((root / "book").glob("*.ipynb")) - set(sources)
    old = {path for path, source in sources.items() if _read(path) != render(source, env)}
    return sorted(path.name for path in orphans | old)


def write(path: Path, text: str) -> bool:
    """Replace a file in one step if its content differs; tells whether it did."""
    if _read(path) == text:
        return False
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8", newline="\n")
    os.replace(new, path)
    return True


def _read(path):
    return path.read_bytes().decode("utf-8") if path.is_file() else None


def _first_cells(env, docname):
    """The cell that installs the library, and where the source and the site are."""
    repository, branch = address(env.config), env.config.html_theme_options["repository_branch"]
    references = References(env, docname)
    book = references.link(f"*{env.config.html_title}*", docname)
    where = (
        f"This notebook is a chapter of {book}. It is generated from {references.role('repo', f'{docname}.md')} in"
        f" [the book's repository]({repository}); change it there. Numbers of equations, theorems and figures are"
        " those of the book."
    )
    return [_code(INSTALL.format(repository=repository, branch=branch).rstrip("\n"), {}), _text(where)]


def _cells(text, file, references):
    """The chapter's own cells."""
    env = references.env
    inline = Inline(file, references.role, macros(env.config))
    numbers = iter(references.headings())
    converter = Converter(inline, references, numbers)
    parsed = read_myst_markdown_notebook(
        text, MdParserConfig(enable_extensions=set(env.config.myst_enable_extensions)), add_source_map=True
    )
    lines = text.split("\n")
    starts = (_skip_blank(lines, start) for start in parsed.metadata.source_map)
    cells = [new for cell, line in zip(parsed.cells, starts, strict=True) for new in _translated(cell, line, converter)]
    if left := list(numbers):
        raise MarkupError(
            file, 1, f"the site numbers {len(left)} more headings than were found; is one inside a directive?"
        )
    return cells + _bibliography(references)


def _skip_blank(lines, start):
    """Number, from 1, of the first line with text from position ``start``."""
    return next((at for at in range(start, len(lines)) if lines[at].strip()), start) + 1


def _translated(cell, line, converter):
    """The notebook's cells for one cell of the source."""
    if cell.cell_type == "code":
        return [_code(cell.source, cell.metadata), *_caption(cell, line, converter)]
    if cell.cell_type != "markdown":
        raise converter.error(line, f"a {cell.cell_type} cell; notebooks have code and text only")
    lines = converter.convert(cell.source.split("\n"), line)
    parts = re.split(rf"^{CELL}\n", "\n".join(lines), flags=re.MULTILINE)
    texts = [part.strip("\n") for part in parts if part.strip()]
    for text in texts:
        _refuse_leak(text, line, converter)
    return [_text(text) for text in texts]


def _caption(cell, line, converter):
    """A cell with the caption of the figure that a code cell draws, if it draws one."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    return [_text(converter.caption(figure.get("name"), figure["caption"], line))] if "caption" in figure else []


def _refuse_leak(text, line, converter):
    """Outside of code, nothing may look like MyST."""
    prose = _SPAN.sub("`", _BLOCK.sub("", text))
    if leak := _LEAK.search(prose):
        raise converter.error(line, f"{leak[0].strip()!r}, in the text from this line on, would show as raw markup")


def _bibliography(references):
    entries = references.bibliography()
    return [_text("\n".join(["## References", "", *(f"- {entry}" for entry in entries)]))] if entries else []


def _text(source):
    return nbformat.v4.new_markdown_cell(source)


def _code(source, metadata):
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def _identifier(stem, position, cell):
    """An id from the chapter, the position and the content, the same at every build."""
    content = f"{stem}\n{position}\n{cell.cell_type}\n{cell.source}"
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _write_all(app, *_):
    """Write the notebooks of all chapters that are in the table of contents."""
    for source in chapters(Path(app.srcdir)):
        if f"book/{source.stem}" in app.env.all_docs:
            write(source.with_suffix(".ipynb"), render(source, app.env))


def _write_at_the_end(app, exception):
    """A build that found nothing to read writes no pages, but a notebook may have been changed by hand."""
    if exception is None:
        _write_all(app)


def setup(app):
    app.connect("env-check-consistency", _write_all)
    app.connect("build-finished", _write_at_the_end)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

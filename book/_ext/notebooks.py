"""Write each chapter as a notebook beside its source, for Jupyter and Colab, with the numbers of the site.

It is generated from what Sphinx makes of the source, at every build and before the pages (whose Colab button looks for
it): no outputs, the same bytes for the same site, no markup of the site.
"""

import hashlib
from pathlib import Path

import chapters
import nbformat
from notebooks_translator import Translator
from pybtex_docutils import Backend
from repository import address, file_address

INSTALL = """\
import importlib.util

if importlib.util.find_spec("sgdvi_lite") is None:
    # pip adds only what is missing: a torch that is already there satisfies torch>=2.6 and stays.
    %pip install --quiet "git+{repository}@{branch}"
"""
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def render(docname: str, builder) -> str:
    """The notebook of a page that ``builder`` has read, as text; raises ``MarkupError`` for what cannot be shown."""
    translator = Translator(builder.env, docname)
    tree = builder.env.get_and_resolve_doctree(docname, builder)
    cells = [*_first_cells(translator), *translator.cells(tree), *_bibliography(translator)]
    for position, cell in enumerate(cells):
        content = f"{Path(docname).name}\n{position}\n{cell.cell_type}\n{cell.source}"
        cell["id"] = hashlib.sha256(content.encode()).hexdigest()[:12]
    metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata)) + "\n"


def write(path: Path, text: str) -> bool:
    """Replace a file in one step if its content differs; tells whether it did."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(text.encode())
    new.replace(path)
    return True


def _first_cells(translator):
    """The cell that installs the library, and where the source and the site are."""
    config, docname = translator.env.config, translator.docname
    repository, branch = address(config), config.html_theme_options["repository_branch"]
    yield nbformat.v4.new_code_cell(INSTALL.format(repository=repository, branch=branch).rstrip("\n"))
    yield nbformat.v4.new_markdown_cell(
        f"This notebook is a chapter of {translator.link(f'*{config.html_title}*', docname)}. It is generated from"
        f" [`{docname}.md`]({file_address(config, f'{docname}.md')}) in [the book's repository]({repository}); change"
        " it there. Numbers of equations, theorems and figures are those of the book."
    )


def _bibliography(translator):
    """The entries that the page cites, in the order of the site, each on one line."""
    citations = translator.env.get_domain("cite").citations
    cited = [c for c in citations if (c.bibliography_key.docname, c.citation_id) in translator.referred]
    entries = ["".join(map(translator, c.formatted_entry.text.render(Backend()))).split() for c in cited]
    if entries:
        yield nbformat.v4.new_markdown_cell("\n".join(["## References", "", *(f"- {' '.join(e)}" for e in entries)]))


def _write_all(app, outcome):
    """Write all chapters of the table of contents before the pages, or at the end of a build that has read nothing."""
    if isinstance(outcome, Exception) or getattr(app, "notebooks_are_written", False):
        return
    for source in chapters.sources(Path(app.srcdir)):
        if (docname := f"book/{source.stem}") in app.env.all_docs:
            write(source.with_suffix(".ipynb"), render(docname, app.builder))
    app.notebooks_are_written = True


def setup(app):
    app.connect("env-check-consistency", _write_all)
    app.connect("build-finished", _write_all)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

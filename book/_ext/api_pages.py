"""The directive ``{api}``: a section for each public module of the library, globbed and filled by autodoc."""

import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

COLON = "\ue000"  # a character of nobody's: it stands for a colon while napoleon looks

AUTOMODULE = """\
```{{eval-rst}}
.. automodule:: sgdvi_lite.{name}
   :members:
   :special-members: __matmul__
```
"""


def modules(root: Path) -> list[str]:
    """The library's public modules, in alphabetical order."""
    found = [
        *(root / "sgdvi_lite").glob("*.py"),
        *(path.parent for path in (root / "sgdvi_lite").glob("*/__init__.py")),
    ]
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


class Api(SphinxDirective):
    """One section for each public module."""

    def run(self):
        """A new module changes the key of the execution cache, so that every page is read again."""
        return [self._section(name) for name in modules(Path(self.env.srcdir))]

    def _section(self, name):
        """A heading and what autodoc finds in the module."""
        section = nodes.section("", nodes.title("", "", nodes.literal("", name)), ids=[f"module-{name}"])
        lines = AUTOMODULE.format(name=name).splitlines()
        self.state.nested_parse(StringList(lines), 0, section)
        return section


def short_types(app, what, name, obj, options, signature, annotation):
    """Write ``Float[Tensor, 'N d']`` where autodoc writes ``jaxtyping.Float[Tensor, 'N d']``."""
    return _short(signature), _short(annotation)


def _short(text):
    return re.sub(r"\bjaxtyping\.(?=\w+\[)", "", text) if text else text


def hide_colons(app, what, name, obj, options, lines):
    """Napoleon reads "Area: of a cell" as a type and a text in an attribute's docstring; ours are plain sentences."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", COLON)


def show_colons(app, what, name, obj, options, lines):
    """Undo :func:`hide_colons` when napoleon is done."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app):
    app.add_directive("api", Api)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", show_colons, priority=600)
    app.connect("autodoc-process-signature", short_types)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

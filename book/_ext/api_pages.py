"""The directive ``{api}``: a section for each public module of the library, globbed and filled by autodoc."""

import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.ext.autodoc import ModuleDocumenter, ObjectMember
from sphinx.ext.napoleon import Config, NumpyDocstring
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

AUTOMODULE = """\
```{{eval-rst}}
.. automodule:: sgdvi_lite.{name}
   :members:
   :special-members: __matmul__
```
"""
NUMPY = Config(napoleon_use_ivar=True)


def modules(root: Path) -> list[str]:
    """The library's public modules and rooms, in alphabetical order."""
    paths = [*(root / "sgdvi_lite").glob("*.py"), *(root / "sgdvi_lite").glob("*/__init__.py")]
    names = (path.parent.name if path.name == "__init__.py" else path.stem for path in paths)
    return sorted(name for name in names if name[0] != "_" and name != "sgdvi_lite")


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


def analysed(module: str) -> ModuleAnalyzer:
    """What Sphinx reads in the source of a module: the order of its names, and texts below its constants."""
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    return analyzer


def home(room, name: str) -> str:
    """The module that defines a name which a room exports; a constant does not say so itself."""
    value = getattr(room, name)
    module = getattr(value, "__module__", None) or ""
    if module.startswith("sgdvi_lite.") and name in analysed(module).tagorder:
        return module
    holders = [m for m, loaded in sys.modules.items() if m[:11] == "sgdvi_lite." and vars(loaded).get(name) is value]
    return next(module for module in holders if name in analysed(module).tagorder)


class Room(ModuleDocumenter):
    """A module by its ``__all__``: each name as the reader imports it, in the order of the sources that define them."""

    def get_object_members(self, want_all):
        """Members in their order; of a constant, text and annotation are fetched from the module that defines it."""
        if self.__all__ is None:
            return super().get_object_members(want_all)
        homes = {name: home(self.object, name) for name in self.__all__}
        here = analysed(self.modname)
        for name, module in homes.items():
            for part in ("attr_docs", "annotations"):
                source = getattr(analysed(module), part)
                getattr(here, part).update({key: source[key] for key in [("", name)] if key in source})
        names = sorted(homes, key=lambda name: (homes[name], analysed(homes[name]).tagorder[name]))
        return False, [ObjectMember(name, getattr(self.object, name)) for name in names]

    def sort_members(self, documenters, order):
        """Keep the order of :meth:`get_object_members`."""
        return documenters if self.__all__ else super().sort_members(documenters, order)


def short_types(app, what, name, obj, options, *types):
    """Write ``Float[Tensor, 'N d']`` where autodoc writes ``jaxtyping.Float[Tensor, 'N d']``."""
    return tuple(text and re.sub(r"\bjaxtyping\.(?=\w+\[)", "", text) for text in types)


def sections(app, what, name, obj, options, lines):
    """Read NumPy's sections; an attribute's docstring has none, and napoleon would read "Area: of a cell" as a type."""
    if what not in ("attribute", "data", "property"):
        lines[:] = NumpyDocstring(lines, NUMPY, app, what, name, obj, options).lines()


def setup(app):
    app.add_directive("api", Api)
    app.add_autodocumenter(Room, override=True)
    app.connect("autodoc-process-docstring", sections)
    app.connect("autodoc-process-signature", short_types)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

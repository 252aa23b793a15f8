"""From the tree of a page, as Sphinx has resolved it, to the Markdown that Jupyter and Colab show.

References and citations arrive as the site shows them; numbers stand in the environment. Admonitions and statements
become quotations, solutions ``<details>``, captions lines in italics. A node without a visitor is an error.
"""

import re
from pathlib import Path
from posixpath import dirname, join, normpath

from docutils import nodes
from nbformat.v4 import new_code_cell, new_markdown_cell
from notebooks_tex import expand, macros
from repository import file_address
from sphinx.errors import SphinxError
from sphinx_proof.nodes import unenumerable_node

_SPECIAL = re.compile(  # what Markdown would not take as text
    r"[\\`*$]|~~|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])\(|^[-+#>](?=\s)|(?<=^\d)[.)](?=\s)", re.MULTILINE
)


class MarkupError(SphinxError):
    """Markup that a notebook cannot show; the message names the file, the line and the markup."""


class Translator:
    """Translates the resolved tree of one page; ``referred`` collects page and anchor of its references."""

    def __init__(self, env, docname: str):
        self.env = env
        self.docname = docname
        self.referred: set[tuple[str, str]] = set()
        self._quoted = False

    def __call__(self, node: nodes.Node) -> str:
        """Markdown of a node, by the visitor named after its class or the nearest base class that has one."""
        visit = next(filter(None, (getattr(self, f"_visit_{kind.__name__}", None) for kind in type(node).__mro__)))
        try:
            return visit(node)
        except ValueError as error:
            while not node.line and node.parent:  # docutils has 0 or nothing for many
                node = node.parent
            raise MarkupError(f"{self.env.doc2path(self.docname, base=False)}:{node.line}: {error}") from None

    def cells(self, section: nodes.Element, level: int = 0):
        """The cells of a document or a section; a heading begins a new one."""
        blocks = []
        for child in section.children:
            is_code = child.get("nb_element") == "cell_code"
            if not is_code and not isinstance(child, nodes.section):
                blocks.append(f"{'#' * level} {self(child)}" if isinstance(child, nodes.title) else self(child))
                continue
            yield from _text(blocks)
            yield from self._code(child) if is_code else self.cells(child, level + 1)
            blocks = []
        yield from _text(blocks)

    def _code(self, cell):
        """A code cell, and the captions of the figures that it draws."""
        yield new_code_cell(self(cell), metadata=cell["cell_metadata"])
        yield from _text(map(self, cell.findall(nodes.caption)))

    def link(self, text: str, docname: str, anchor: str = "") -> str:
        """``text``, as a link to the page if the site has an address (``html_baseurl``)."""
        base = self.env.config.html_baseurl
        return f"[{text}]({base.rstrip('/')}/{docname}.html{'#' * bool(anchor)}{anchor})" if base else text

    def _number(self, node, kind):
        numbers = self.env.toc_fignumbers.get(self.docname, {}).get(kind, {})
        if node["ids"][0] not in numbers:
            raise ValueError(f"{node['ids'][0]!r} has no number; is the page in a numbered part of _toc.yml?")
        return ".".join(map(str, numbers[node["ids"][0]]))

    def _inline(self, node):
        is_loose = "xref" in node["classes"] and not isinstance(node.parent, nodes.reference)
        if is_loose or ("bibtex-citation" in node["classes"] and not node.next_node(nodes.reference)):
            raise ValueError(f"the reference to {node.astext()!r} leads nowhere")
        signs = "".join({"#text": part.astext(), "math": "$x$"}.get(part.tagname, " ") for part in node)
        if "$$" in signs and "literal" not in node.tagname:
            raise ValueError(f"$$ in the text {signs!r}; a formula has lines of its own, in a proof not the first")
        mark = {"emphasis": "*", "strong": "**"}.get(node.tagname, "")
        return f"{mark}{''.join(map(self, node.children))}{mark}"

    def _blocks(self, node, gap="\n\n"):
        return gap.join(filter(None, map(self, node.children)))

    def _quotation(self, node, title="", start=0):
        """The children from ``start``; formulas inside stand on one line, for every line begins with a mark."""
        outer, self._quoted = self._quoted, True
        text = "\n\n".join(filter(None, [title, *map(self, node[start:])]))
        self._quoted = outer
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    _visit_paragraph = _visit_inline = _visit_emphasis = _visit_strong = _inline
    _visit_section = _visit_figure = _blocks
    _visit_block_quote = _quotation
    _visit_target = _visit_comment = staticmethod(lambda node: "")

    def _visit_Node(self, node):
        raise ValueError(f"notebooks have no form for {type(node).__name__} {node['classes']}: {node.astext()[:200]!r}")

    def _visit_Text(self, node):
        return _SPECIAL.sub(r"\\\g<0>", node.astext())

    def _visit_literal(self, node):
        """Code in a line or a block, between marks that do not occur in it."""
        text, is_block = node.astext().rstrip("\n"), isinstance(node, nodes.literal_block)
        self._inline(node)  # refuses a reference that leads nowhere
        marks = "`" * max([3 if is_block else 1, *(len(run) + 1 for run in re.findall("`+", text))])
        language = node.get("language", "").replace("default", "")
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{marks}{language}\n{text}\n{marks}" if is_block else f"{marks}{pad}{text}{pad}{marks}"

    _visit_literal_block = _visit_literal

    def _visit_math(self, node):
        return f"${_one_line(expand(node.astext(), macros(self.env.config)))}$"

    def _visit_math_block(self, node):
        lines = [line.strip() for line in expand(node.astext(), macros(self.env.config)).split("\n") if line.strip()]
        if node["nowrap"]:  # an environment of amsmath without dollars
            return self._visit_Node(node)
        if node.get("label"):
            lines.append(rf"\tag{{{self._number(node, 'displaymath')}}}")
        if self._quoted:
            return " ".join(["$$", *(re.sub(r"(?<!\\)%.*", "", line) for line in lines), "$$"])
        return "\n".join(["$$", *lines, "$$"])

    def _visit_reference(self, node):
        uri, text = node.get("refuri", ""), self._inline(node)
        if not node.get("internal"):
            if not uri.startswith(("https://", "http://", "mailto:")):
                raise ValueError(f"the link {node.astext()!r} leads nowhere in a notebook")
            return f"<{uri}>" if node.astext() == uri else f"[{text}]({uri})"
        page, _, anchor = uri.partition("#")
        docname = normpath(join(dirname(self.docname), page)).removesuffix(".html") if page else self.docname
        self.referred.add(place := (docname, node.get("refid", anchor)))
        return self.link(text, *place)

    def _visit_title(self, node):
        numbers = self.env.toc_secnumbers.get(self.docname, {})
        number = numbers.get(f"#{node.parent['ids'][0]}", numbers.get("", ()))  # the first heading has no anchor
        return "".join([*(f"{part}." for part in number), " " * bool(number), self._inline(node)])

    def _list(self, node):
        """Items without blank lines between, if none has more than a paragraph and lists."""
        gap = "\n" if all(isinstance(child, nodes.Sequential) for item in node for child in item[1:]) else "\n\n"
        items = []
        for number, item in enumerate(node, node.get("start", 1)):
            mark = f"{node['bullet']} " if "bullet" in node else f"{number}{node['suffix']} "
            items.append(re.sub(r"\n(?=.)", f"\n{' ' * len(mark)}", mark + self._blocks(item, gap)))
        return gap.join(items)

    _visit_bullet_list = _visit_enumerated_list = _list

    def _visit_container(self, node):
        """The code of a cell, and no other container."""
        code = node.next_node(lambda part: part.parent.get("nb_element") == "cell_code_source")
        return code.astext() if code and "cell_metadata" in node else self._visit_Node(node)

    def _visit_table(self, node):
        head, *body = node.findall(nodes.row)
        plain = all(len(cell) < 2 and "|" not in cell.astext() for cell in node.findall(nodes.entry))
        if not plain or not isinstance(node[0], nodes.tgroup) or not isinstance(head.parent, nodes.thead):
            raise ValueError(r"in notebooks a table has headings, no title, and no | (\vert) or second block in a cell")
        rules = {"text-left": ":--", "text-center": ":-:", "text-right": "--:"}
        lines = [f"| {' | '.join(_one_line(self._blocks(cell)) for cell in row)} |" for row in (head, *body)]
        rule = "|".join(rules.get("".join(cell["classes"]), "---") for cell in head)
        return "\n".join([lines[0], f"|{rule}|", *lines[1:]])

    def _visit_image(self, node):
        if not node.get("alt", "").strip() or "://" in node["uri"]:
            raise ValueError(f"the image {node['uri']!r} has no alt text, or is no file of the book; add :alt:")
        return f"![{_one_line(node['alt'])}]({file_address(self.env.config, node['uri'], 'raw')})"

    def _visit_caption(self, node):
        number = self.env.config.numfig_format["figure"] % self._number(node.parent, "figure")
        return f"*{number}. {_one_line(self._inline(node))}*"

    def _titled(self, node, number):
        title = self._inline(node[0]).strip()
        return f"**{number}** {title}." if title else f"**{number}.**"

    def _visit_Admonition(self, node):
        """Also theorems and the like, which have a kind and, unless they ask for none, a number."""
        if "realtype" in node:
            number = "" if isinstance(node, unenumerable_node) else self._number(node, node["countertype"])
            return self._quotation(node, self._titled(node, f"{node['realtype'].title()} {number}".strip()), 1)
        if node.first_child_matching_class(nodes.title) == 0:
            return self._quotation(node, f"**{self._inline(node[0])}**", 1)
        return self._quotation(node, f"**{type(node).__name__.replace('see', 'see ').capitalize()}**")

    def _visit_proof_node(self, node):
        """A proof, with a sign where it ends; its lines lack the options and blank lines before its text."""
        node.line = node[0][0].line - 1
        source = Path(self.env.doc2path(self.docname)).read_text(encoding="utf-8").split("\n", node.line)[-1]
        skipped = re.match(r"(?:[ >]*(?::[\w-]+:.*)?\n)*", source)[0].count("\n")
        for part in node[0].findall(lambda part: part.line):
            part.line += skipped
        text = re.sub(r"^Proof\.\s*", "*Proof.* ", self._blocks(node[0]))
        return text + ("\n\n∎" if text.endswith(("$$", "```")) else " ∎")

    def _visit_exercise_enumerable_node(self, node):
        number = self.env.config.numfig_format["exercise"] % self._number(node, "exercise")
        return f"{self._titled(node, number)}\n\n{self._blocks(node[1])}"

    def _visit_solution_node(self, node):
        """Hidden until one clicks; the blank lines let Markdown and formulas through."""
        if len(node[0]) < 2:
            raise ValueError(f"no exercise has the label {node['target_label']!r}")
        summary = f"<summary>Solution to{self._inline(node[0][1])}</summary>"
        return f"<details>\n{summary}\n\n{self._blocks(node[1])}\n\n</details>"


def _text(blocks):
    if text := "\n\n".join(filter(None, blocks)):
        yield new_markdown_cell(text)


def _one_line(text):
    return re.sub(r"\s*\n\s*", " ", text).strip()

"""Blocks of a page: from MyST directives, numbered equations and headings to the Markdown of a notebook.

Admonitions and statements become quotations with a bold title, solutions become ``<details>``, captions become
lines in italics. A directive that is not known is an error.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from myst_parser.parsers.directives import parse_directive_text
from notebooks_inline import Inline, MarkupError
from notebooks_references import References
from sphinx_proof.proof_type import PROOF_TYPES

CELL = "\f"
"""A line that begins a new cell; no text file has it otherwise."""

ADMONITIONS = ("attention", "caution", "danger", "error", "hint", "important", "note", "seealso", "tip", "warning")

_FENCE = re.compile(r"(?P<indent> *)(?P<marks>`{3,}(?=[^`]*$)|~{3,}|:{3,})(?P<info>.*)")
_NAME = re.compile(r"\{(?P<name>[^}\s]+)\}\s*(?P<argument>.*)")
_DISPLAY = re.compile(r" *\$\$(?P<tex>(?:\\.|[^$\\])*)\$\$[ \t]*(?:\((?P<label>[^()\s]+)\))?[ \t]*(?:\n|\Z)", re.DOTALL)
_HEADING = re.compile(r"(?P<marks>#{1,6}) +(?P<title>.*\S)")
_DROPPED = re.compile(r"\([^()\s]+\)=\s*|%.*")


@dataclass(frozen=True)
class Directive:
    """A directive: its name, argument, options and body, and the lines on which it and its body begin."""

    name: str
    argument: str
    options: dict
    body: list[str]
    line: int
    first: int


@dataclass(frozen=True)
class Converter:
    """Translates the Markdown of one page.

    ``headings`` gives the numbers of the page's headings in order. ``quoted`` is true inside a quotation, where a
    formula must stand on one line.
    """

    inline: Inline
    references: References
    headings: Iterator[str]
    quoted: bool = False

    def convert(self, lines: list[str], first: int) -> list[str]:
        """Translate ``lines``, of which the first is line ``first`` of the file."""
        out, at = [], 0
        rules = (self._blank, self._fence, self._display, self._dropped, self._heading, self._paragraph)
        while at < len(lines):
            found = (rule(lines, at, first + at) for rule in rules)
            taken, block = next(result for result in found if result)
            _append(out, block)
            at += taken
        return _stripped(out)

    def caption(self, label: str, text: str, line: int) -> str:
        """A caption with the figure's number, in italics."""
        number = self._known(self.references.numbered, label, line)
        return f"*{number}. {self.inline(' '.join(text.split()), line)}*"

    def error(self, line: int, message: str) -> MarkupError:
        """An error at a line of the page."""
        return MarkupError(self.inline.file, line, message)

    # ---- rules: each takes some lines, or none ---------------------------------------------------------------------

    def _blank(self, lines, at, line):
        return None if lines[at].strip() else (1, [""])

    def _fence(self, lines, at, line):
        """A directive, or a block of code, which stays as it is."""
        match = _FENCE.fullmatch(lines[at])
        if match is None:
            return None
        end = self._end(lines, at, line, match["marks"])
        directive = _NAME.fullmatch(match["info"].strip())
        if directive is None:
            return end + 1 - at, self._code(lines[at : end + 1], match, line)
        body = [text.removeprefix(match["indent"]) for text in lines[at + 1 : end]]
        block = self._directive(self._parsed(directive["name"], directive["argument"], body, line))
        return end + 1 - at, ["", *_indented(block, match["indent"]), ""]

    def _display(self, lines, at, line):
        """A formula on its own lines, with its number."""
        if not lines[at].lstrip().startswith("$$"):
            return None
        match = _DISPLAY.match("\n".join(lines[at:]))
        if match is None:
            return None
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        block = self._formula(match["tex"], match["label"], line)
        return match[0].rstrip("\n").count("\n") + 1, ["", *_indented(block, indent), ""]

    def _dropped(self, lines, at, line):
        return (1, []) if _DROPPED.fullmatch(lines[at]) else None

    def _heading(self, lines, at, line):
        """A heading with its number; it begins a new cell."""
        match = _HEADING.fullmatch(lines[at])
        if match is None:
            return None
        number = next(self.headings, "")
        title = f"{number}. {match['title']}" if number else match["title"]
        return 1, [CELL, self.inline(f"{match['marks']} {title}", line), ""]

    def _paragraph(self, lines, at, line):
        """Lines up to one that is blank or begins something else."""
        end = at + 1
        while end < len(lines) and lines[end].strip() and not self._begins(lines, end):
            end += 1
        return end - at, self.inline("\n".join(lines[at:end]), line).split("\n")

    def _begins(self, lines, at):
        begins_formula = lines[at].lstrip().startswith("$$") and _DISPLAY.match("\n".join(lines[at:]))
        return begins_formula or any(rule.fullmatch(lines[at]) for rule in (_FENCE, _HEADING, _DROPPED))

    # ---- parts of the rules ----------------------------------------------------------------------------------------

    def _end(self, lines, at, line, marks):
        closing = re.compile(rf" *{re.escape(marks[0])}{{{len(marks)},}}\s*")
        for end in range(at + 1, len(lines)):
            if closing.fullmatch(lines[end]):
                return end
        raise self.error(line, f"the fence {marks} is never closed")

    def _code(self, block, match, line):
        if match["marks"].startswith(":"):
            raise self.error(line, f"{match[0].strip()!r} names no directive")
        return block

    def _parsed(self, name, argument, body, line):
        """Split a directive's options from its body, as MyST does."""
        takes = {"required_arguments": 0, "optional_arguments": int(name not in (*ADMONITIONS, "math", "prf:proof"))}
        syntax = {**takes, "final_argument_whitespace": True, "option_spec": {"any": str}, "has_content": True}
        parsed = parse_directive_text(
            type("Syntax", (), syntax), argument, "\n".join(body), validate_options=False, line=line
        )
        if parsed.warnings:
            raise self.error(line, f"directive {{{name}}}: {parsed.warnings[0].msg}")
        first = line + parsed.body_offset + int(not argument or bool(parsed.arguments))
        return Directive(name, "".join(parsed.arguments), parsed.options, parsed.body, line, first)

    def _directive(self, directive):
        """Find who translates a directive."""
        known = {
            "admonition": self._admonition,
            "exercise": self._exercise,
            "figure": self._figure,
            "math": self._math,
            "prf:proof": self._proof,
            "solution": self._solution,
            **dict.fromkeys(ADMONITIONS, self._admonition),
            **{f"prf:{kind}": self._statement for kind in PROOF_TYPES},
        }
        if directive.name not in known:
            names = ", ".join(sorted(known))
            raise self.error(
                directive.line, f"directive {{{directive.name}}}: notebooks do not know it; they know {names}"
            )
        return known[directive.name](directive)

    def _known(self, find, label, line):
        """Look up a number; a label that is missing or unknown is an error."""
        try:
            return find(label)
        except LookupError as error:
            raise self.error(
                line, error.args[0] if label else "this needs a label, so that it can be numbered"
            ) from None

    # ---- directives ------------------------------------------------------------------------------------------------

    def _quotation(self, title, directive):
        """A quotation under a bold title."""
        body = replace(self, quoted=True).convert(directive.body, directive.first)
        return [f"> {text}".rstrip() for text in (title, "", *body)]

    def _admonition(self, directive):
        title = directive.argument or {"seealso": "See also"}.get(directive.name, directive.name.title())
        return self._quotation(f"**{self.inline(title, directive.line)}**", directive)

    def _titled(self, number, directive):
        """A number in bold, and the title in brackets if there is one."""
        title = self.inline(directive.argument, directive.line)
        return f"**{number}** ({title})." if title else f"**{number}.**"

    def _statement(self, directive):
        number = self._known(self.references.statement, directive.options.get("label"), directive.line)
        return self._quotation(self._titled(number, directive), directive)

    def _proof(self, directive):
        """A proof, with a sign where it ends."""
        body = self.convert(directive.body, directive.first)
        plain = body[0] and not body[0].startswith(("$$", ">", "- ", "```"))
        start = [f"*Proof.* {body[0]}", *body[1:]] if plain else ["*Proof.*", "", *body]
        return [*start, "", "∎"] if start[-1].endswith(("$$", "```")) else [*start[:-1], f"{start[-1]} ∎"]

    def _exercise(self, directive):
        number = self._known(self.references.exercise, directive.options.get("label"), directive.line)
        return [self._titled(number, directive), "", *self.convert(directive.body, directive.first)]

    def _solution(self, directive):
        """Hidden until one clicks; the blank lines let Markdown and formulas through."""
        number = self._known(self.references.exercise, directive.argument, directive.line)
        body = self.convert(directive.body, directive.first)
        return ["<details>", f"<summary>Solution to {number}</summary>", "", *body, "", "</details>"]

    def _figure(self, directive):
        """An image from the repository, and its caption."""
        alt = " ".join(str(directive.options.get("alt", "")).split())
        if not alt:
            raise self.error(directive.line, f"figure {directive.argument!r} has no alt text; add :alt:")
        folder = self.references.docname.rpartition("/")[0]
        image = f"![{alt}]({self.references.file(f'{folder}/{directive.argument}', 'raw')})"
        return [image, "", self.caption(directive.options.get("name"), "\n".join(directive.body), directive.first)]

    def _math(self, directive):
        return self._formula("\n".join(directive.body), directive.options.get("label"), directive.first)

    def _formula(self, tex, label, line):
        """A displayed formula with the number of the site."""
        lines = [text.strip() for text in self.inline.tex(tex, line).split("\n") if text.strip()]
        if label:
            lines.append(rf"\tag{{{self._known(self.references.equation, label, line)}}}")
        if not self.quoted:
            return ["$$", *lines, "$$"]
        without_comments = (re.sub(r"(?<!\\)%.*", "", text) for text in lines)
        return [f"$$ {' '.join(without_comments)} $$"]


def _append(out, block):
    """Add a block; two blank lines in a row become one."""
    if block[:1] == [""] and out[-1:] in ([], [""]):
        block = block[1:]
    out.extend(block)


def _indented(block, indent):
    return [f"{indent}{text}" if text else "" for text in block]


def _stripped(lines):
    """Without blank lines at either end."""
    return "\n".join(lines).strip("\n").split("\n")

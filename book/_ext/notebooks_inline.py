"""Text and mathematics inside a paragraph: from MyST to the Markdown that Jupyter and Colab show.

Roles become the text that the site shows, the book's macros in mathematics are written out, and code is left alone.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


class MarkupError(ValueError):
    """Markup that cannot be shown in a notebook; the message names the file, the line and the markup."""

    def __init__(self, file: str, line: int, message: str):
        super().__init__(f"{file}:{line}: {message}")


_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_ARGUMENT = re.compile(r"\s*(\\[A-Za-z]+|\\?\S)")
_TAKES_ONE = re.compile(
    r"(?:[_^]|\\(?:[dt]?frac|sqrt|hat|bar|tilde|vec|d?dot|over(?:line|set)|under(?:line|set)|wide(?:hat|tilde)))\s*$"
)


def macros(config) -> dict[str, tuple[str, int]]:
    """The macros that the site gives to MathJax: name to body and number of arguments."""
    given = ((config.mathjax3_config or {}).get("tex") or {}).get("macros") or {}
    return {name: _macro(name, value) for name, value in given.items()}


def _macro(name, value):
    body, *rest = [value] if isinstance(value, str) else value
    if len(rest) > 1:
        raise ValueError(f"macro {name!r} has an optional argument; notebooks know only macros with fixed arguments")
    return body, rest[0] if rest else 0


def expand(tex: str, known: Mapping[str, tuple[str, int]]) -> str:
    """Write out the macros, so that a formula needs no definition where it is shown."""
    out, at = "", 0
    while match := _COMMAND.search(tex, at):
        out += tex[at : match.start()]
        at = match.end()
        if match[1] not in known:
            out += match[0]
            continue
        body, count = known[match[1]]
        arguments, at = _arguments(tex, at, count, match[0])
        others = {name: macro for name, macro in known.items() if name != match[1]}
        out += _fitted(expand(_filled(body, arguments), others), out)
    return out + tex[at:]


def _arguments(tex, at, count, command):
    """``count`` arguments from position ``at``, and the position after them."""
    found = []
    for _ in range(count):
        match = _ARGUMENT.match(tex, at)
        if match is None:
            raise ValueError(f"{command} takes {count} arguments, and the formula ends after {len(found)}")
        end = _closing(tex, match.start(1)) if match[1] == "{" else match.end()
        found.append(tex[match.start(1) + 1 : end - 1] if match[1] == "{" else match[1])
        at = end
    return found, at


def _closing(tex, start):
    """Position after the brace that closes the one at ``start``."""
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(tex, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    raise ValueError(f"the brace at {tex[start : start + 20]!r} is never closed")


def _filled(body, arguments):
    return re.sub(r"#([1-9])", lambda match: arguments[int(match[1]) - 1], body)


def _fitted(text, before):
    """A macro's text; in braces where TeX would take its first token only, and never glued to the next letter."""
    if _TAKES_ONE.search(before):
        return f"{{{text}}}"
    return text + " " if re.search(r"\\[A-Za-z]+$", text) else text


_TOKEN = re.compile(
    r"""
    (?P<escape>\\[!-/:-@\[-`{-~])
  | \{(?P<role>[A-Za-z][\w:+.-]*)\}(?P<ticks>`+)(?P<body>.+?)(?<!`)(?P=ticks)(?!`)
  | (?P<code>(?P<run>`+)(?!`).+?(?<!`)(?P=run)(?!`))
  | \$\$(?P<display>(?:\\.|[^$\\])+?)\$\$
  | \$(?P<math>(?:\\.|[^$\\])+?)\$
  | \]\((?P<target>[^)\s]+)
  | (?P<footnote>\[\^[^\]\s]+\])
    """,
    re.DOTALL | re.VERBOSE,
)
_OUTSIDE = ("https://", "http://", "mailto:")


@dataclass(frozen=True)
class Inline:
    """Translates paragraphs of one file.

    ``resolve`` takes a role's name and content and returns the text to show; it raises ``LookupError`` with the reason
    where it cannot. ``known`` are the macros.
    """

    file: str
    resolve: Callable[[str, str], str]
    known: Mapping[str, tuple[str, int]]

    def __call__(self, text: str, line: int) -> str:
        """The paragraph ``text``, which begins on ``line`` of the file."""
        return _TOKEN.sub(lambda match: self._token(match, line + text.count("\n", 0, match.start())), text)

    def tex(self, text: str, line: int) -> str:
        """A formula with the macros written out."""
        try:
            return expand(text, self.known)
        except ValueError as error:
            raise MarkupError(self.file, line, str(error)) from None

    def _token(self, match, line):
        if match["role"]:
            return self._role(match["role"], match["body"], line)
        if match["display"] or match["math"]:
            marks = "$$" if match["display"] else "$"
            return marks + self.tex(_one_line(match["display"] or match["math"]), line) + marks
        if match["footnote"] or not (match["target"] or _OUTSIDE[0]).startswith(_OUTSIDE):
            what = match["footnote"] or f"the link to {match['target']!r}"
            raise MarkupError(
                self.file, line, f"{what} leads nowhere in a notebook; use a role: {{ref}}, {{cite}}, ..."
            )
        return match[0]

    def _role(self, name, body, line):
        """What the site shows for a role; one that is not known is an error."""
        try:
            return self.resolve(name, _one_line(body))
        except LookupError as error:
            raise MarkupError(self.file, line, f"role {{{name}}}: {error.args[0]}") from None


def _one_line(text):
    """Line breaks as spaces: a line of a quotation begins with a mark that must not get into a formula."""
    return re.sub(r"\s*\n\s*", " ", text)

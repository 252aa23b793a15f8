"""The book's macros, written out in a formula: a notebook shows it without any definition."""

import re
from collections.abc import Mapping

_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|[^\\]", re.DOTALL)
_UNARY = re.compile(r"([_^]|\\(?:[dt]?frac|sqrt|(?:wide)?(?:hat|tilde)|bar|vec|d?dot|(?:over|under)(?:line|set)))\s*$")


def macros(config) -> dict[str, tuple[str, int]]:
    """The macros that the site gives to MathJax: name to body and number of arguments."""
    given = ((config.mathjax3_config or {}).get("tex") or {}).get("macros") or {}
    parts = {name: (value, 0) if isinstance(value, str) else tuple(value) for name, value in given.items()}
    if odd := [name for name, value in parts.items() if len(value) != 2]:
        raise ValueError(f"macro {odd[0]!r} has an optional argument; notebooks know only macros with fixed arguments")
    return parts


def expand(tex: str, known: Mapping[str, tuple[str, int]]) -> str:
    """Write out the macros of ``known``; raises ``ValueError`` if an argument is missing."""
    tokens, out = _TOKEN.findall(tex)[::-1], ""
    while tokens:
        token = tokens.pop()
        if token[1:] not in known:
            out += token
            continue
        body, count = known[token[1:]]
        for position in range(1, count + 1):
            body = body.replace(f"#{position}", _argument(tokens, token))
        text = expand(body, {name: macro for name, macro in known.items() if name != token[1:]})
        text = f"{{{text}}}" if _UNARY.search(out) else text  # TeX would take the first token only
        out += text + " " if re.search(r"\\[A-Za-z]+$", text) else text  # not glued to the next letter
    return out


def _argument(tokens, command):
    """Take an argument off the end of ``tokens``: a token, or a group without its braces."""
    while tokens and tokens[-1].isspace():
        tokens.pop()
    taken, depth = [], 0
    while tokens:
        taken.append(tokens.pop())
        depth += {"{": 1, "}": -1}.get(taken[-1], 0)
        if depth == 0:
            return "".join(taken[1:-1] if taken[0] == "{" else taken)
    raise ValueError(f"an argument of {command} is missing or its brace is never closed, after {''.join(taken)[:20]!r}")

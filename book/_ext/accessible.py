"""Mend what assistive technology trips over in pages as Sphinx and docutils write them."""

import re

PARAMETERS = re.compile(r'<dl>\n((?:<dd>.*class="sig-param".*</dd>\n)+)</dl>')


def bibliography(body: str) -> str:
    """A bibliography is a list whose entries have a role that ARIA has withdrawn; they are items of that list."""
    return body.replace('role="doc-biblioentry"', 'role="listitem"')


def signatures(body: str) -> str:
    """A long signature is written as a definition list without terms; its lines become plain blocks."""
    return PARAMETERS.sub(lambda match: _lines(match[1]), body)


def _lines(items: str) -> str:
    return items.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


def _mend_page(app, pagename, templatename, context, doctree):
    if "body" in context:
        context["body"] = signatures(bibliography(context["body"]))


def setup(app):
    app.connect("html-page-context", _mend_page)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

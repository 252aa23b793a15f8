"""The ledger in the book: directives and a role that read ``claims.yml``, so that no page repeats it by hand.

``{ledger}`` all claims by chapter; ``{ledger-counts}`` how many have which verdict; ``{findings}`` what was
corrected or refuted; ``{errata}`` the misprints; ``{verdicts}`` what the verdicts mean; ``{claim}`` a
link to one.
"""

import re
from collections import Counter
from itertools import groupby
from pathlib import Path

import chapters
from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective, SphinxRole

from sgdvi_lite import ledger

CHECK = re.compile(r"""\bledger\.check\(\s*["']([\w-]+)["']""")


def chapter_checks(path: Path) -> Counter[str]:
    """How many calls of ``ledger.check`` a chapter has for each claim; a call in a loop counts once."""
    return Counter(CHECK.findall(path.read_text(encoding="utf-8")))


def mark(verdict: str, text: str = "") -> nodes.inline:
    """A verdict as a word with a class; the style sheet adds a sign, so colour never speaks alone."""
    return nodes.inline("", text or verdict, classes=["verdict", f"verdict-{verdict}"])


def doc_link(docname: str, text: str) -> addnodes.pending_xref:
    """A link to another page of the book."""
    return _link("doc", f"/{docname}", text)


def claim_link(claim: ledger.Claim) -> addnodes.pending_xref:
    """A link to a claim's row on the ledger page."""
    return _link("ref", f"claim-{claim.id}", claim.label)


def _link(kind: str, target: str, text: str) -> addnodes.pending_xref:
    options = {"refdomain": "std", "reftype": kind, "reftarget": target, "refexplicit": True, "refwarn": True}
    return addnodes.pending_xref("", nodes.inline("", text), **options)


def row(*cells: list[nodes.Node]) -> nodes.row:
    """A table row; each cell is a list of nodes."""
    return nodes.row("", *(nodes.entry("", *cell) for cell in cells))


def table(head: list[str], body: list[nodes.row], classes: list[str]) -> nodes.table:
    """A table with one header line."""
    columns = [nodes.colspec(colwidth=1) for _ in head]
    header = nodes.thead("", row(*([nodes.paragraph(text=text)] for text in head)))
    group = nodes.tgroup("", *columns, header, nodes.tbody("", *body), cols=len(head))
    return nodes.table("", group, classes=["colwidths-auto", *classes])


class LedgerDirective(SphinxDirective):
    """Base of the directives: reads the ledger, notes that the page depends on it, and knows the chapters."""

    def run(self) -> list[nodes.Node]:
        """Read the ledger and hand it to ``_render``."""
        self.env.note_dependency(str(ledger.default_path()))
        self.env.note_reread()  # the chapters that exist may have changed
        written = chapters.sources(Path(self.env.srcdir))
        self.chapters = {chapters.number(path): path for path in written if f"book/{path.stem}" in self.env.found_docs}
        return self._render(ledger.load())

    def _markdown(self, text: str, classes: list[str] | None = None) -> nodes.Element:
        """Parse one paragraph of the ledger's text, mathematics included."""
        container = nodes.Element()
        self.state.nested_parse([text], 0, container)
        paragraph = container.children[0]
        paragraph["classes"] += classes or []
        return paragraph

    def _chapter(self, number: int) -> list[nodes.Node]:
        """A link to a chapter, or its number while it is not written."""
        if number not in self.chapters:
            return [nodes.Text(f"Chapter {number}, not yet written")]
        title = chapters.title(self.chapters[number])
        return [doc_link(f"book/{self.chapters[number].stem}", f"Chapter {number}, {title}")]


class Ledger(LedgerDirective):
    """All claims, a table for each chapter."""

    def _render(self, claims):
        ordered = sorted(claims, key=lambda claim: claim.chapter)
        groups = groupby(ordered, key=lambda claim: claim.chapter)
        return [self._section(number, list(group)) for number, group in groups]

    def _section(self, number, claims):
        """The claims of one chapter under its own heading."""
        head = ["Claim", "Statement, and what we found"]
        body = table(head, [self._line(claim) for claim in claims], ["ledger"])
        written = self.chapters.get(number)
        name = f"Chapter {number}. {chapters.title(written)}" if written else f"Chapter {number}"
        hint = doc_link(f"book/{written.stem}", "Read it") if written else nodes.Text("Not yet written")
        title, link = nodes.title("", name), nodes.paragraph("", "", hint, classes=["ledger-chapter"])
        return nodes.section("", title, link, body, ids=[f"chapter-{number}"], names=[f"chapter-{number}"])

    def _line(self, claim):
        """One claim: label and verdict, then statement and note."""
        name = f"claim-{claim.id}"
        self.env.get_domain("std").note_hyperlink_target(name, self.env.docname, name, claim.label)
        label = nodes.paragraph("", "", nodes.strong("", claim.label), ids=[name], classes=["claim"])
        note = [self._markdown(claim.note, ["ledger-note"])] if claim.note else []
        verdict = nodes.paragraph("", "", mark(claim.verdict))
        return row([label, verdict], [self._markdown(claim.statement), *note])


class Counts(LedgerDirective):
    """How many statements have which verdict."""

    def _render(self, claims):
        count = Counter(claim.verdict for claim in claims)
        marks = [mark(v, f"{count[v]} {v}") for v in ledger.VERDICTS if count[v]]
        spaced = [node for item in marks for node in (item, nodes.Text(" "))]
        examined = len(claims) - count["open"]
        lead = nodes.Text(f"{examined} of {len(claims)} statements examined so far: ")
        return [nodes.paragraph("", "", lead, *spaced, classes=["ledger-counts"])]


class Findings(LedgerDirective):
    """The claims that needed a repair or have a counterexample, each with its note."""

    def _render(self, claims):
        findings = [claim for claim in claims if claim.verdict in ("corrected", "fails")]
        return [nodes.bullet_list("", *map(self._item, findings), classes=["findings"])]

    def _item(self, claim):
        """One finding: the claim, its verdict, the note and the chapter."""
        lead = nodes.paragraph("", "", claim_link(claim), nodes.Text(" "), mark(claim.verdict))
        where = nodes.paragraph("", "", *self._chapter(claim.chapter), classes=["ledger-chapter"])
        return nodes.list_item("", lead, self._markdown(claim.note), where)


class Errata(LedgerDirective):
    """The misprints: where, what is printed, what should stand there, why, and by what proof and test."""

    def _render(self, claims):
        return [self._section(claim) for claim in claims if claim.erratum]

    def _section(self, claim):
        """One erratum as a list of fields under the claim's label."""
        fields = {
            "Where": nodes.paragraph("", claim.erratum["place"]),
            "Printed": self._markdown(claim.erratum["printed"]),
            "Corrected": self._markdown(claim.erratum["corrected"]),
            "Why": self._markdown(claim.note),
            "Proof": nodes.paragraph("", "", *self._chapter(claim.chapter)),
            "Test": nodes.paragraph("", self._test(claim)),
            "Ledger": nodes.paragraph("", "", claim_link(claim), nodes.Text(" "), mark(claim.verdict)),
        }
        items = [nodes.field("", nodes.field_name("", k), nodes.field_body("", v)) for k, v in fields.items()]
        listing = nodes.field_list("", *items, classes=["erratum"])
        return nodes.section("", nodes.title("", claim.label), listing, ids=[f"erratum-{claim.id}"])

    def _test(self, claim):
        """How often the chapter checks the claim."""
        path = self.chapters.get(claim.chapter)
        n = chapter_checks(path)[claim.id] if path else 0
        plural = "check" if n == 1 else "checks"
        return f"{n} {plural} of {claim.label} in the chapter, run whenever the book is built" if n else "none yet"


class Verdicts(LedgerDirective):
    """The verdicts and their meaning."""

    def _render(self, claims):
        return [nodes.definition_list("", *map(self._entry, ledger.VERDICTS.items()), classes=["verdicts"])]

    def _entry(self, item):
        """One verdict with its meaning."""
        meaning = nodes.definition("", nodes.paragraph("", f"{item[1]}."))
        return nodes.definition_list_item("", nodes.term("", "", mark(item[0])), meaning)


class ClaimRole(SphinxRole):
    """A link to a claim by its id, shown as the paper's label."""

    def run(self):
        """Find the claim; an unknown id is an error."""
        known = {claim.id: claim for claim in ledger.load()}
        if self.text not in known:
            message = f"claim {self.text!r}: the ledger has no such id; its ids are {', '.join(known)}"
            return [], [self.inliner.reporter.error(message, line=self.lineno)]
        return [claim_link(known[self.text])], []


def setup(app):
    directives = {"ledger": Ledger, "ledger-counts": Counts, "findings": Findings, "errata": Errata}
    for name, directive in {**directives, "verdicts": Verdicts}.items():
        app.add_directive(name, directive)
    app.add_role("claim", ClaimRole())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The numbers and names that the site gives to equations, theorems, exercises, figures, sections and citations.

Everything is read from the Sphinx environment of a build, also from the one that a build leaves in its cache.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace

import pybtex_docutils
from docutils import nodes
from pybtex.backends.markdown import Backend
from repository import address
from sphinxcontrib.bibtex.citation_target import parse_citation_targets
from sphinxcontrib.bibtex.plugin import find_plugin
from sphinxcontrib.bibtex.style.referencing import format_references
from sphinxcontrib.bibtex.style.template import SphinxReferenceInfo

from sgdvi_lite import ledger


class _Markdown(Backend):
    """A bibliography entry as Markdown that stays legible as text."""

    symbols = MappingProxyType({"ndash": "–", "newblock": " ", "nbsp": " "})

    def format_str(self, text):
        """Escape only what would change the rendering."""
        return re.sub(r"([*_`$<])", r"\\\1", text)


class References:
    """What a chapter's references show on the site.

    ``env`` is the Sphinx environment after all pages were read, ``docname`` the chapter. Unknown labels raise
    ``LookupError`` with the reason. ``cited`` collects the keys of the citations asked for.
    """

    def __init__(self, env, docname: str):
        self.env = env
        self.docname = docname
        self.cited: set[str] = set()
        self._roles = {
            "eq": self._eq,
            "ref": self._ref,
            "numref": self._numref,
            "doc": self._doc,
            "prf:ref": self._prf,
            "claim": self._claim,
            "repo": self._repo,
        }

    def role(self, name: str, body: str) -> str:
        """The text for a role, linked to the site if the site has an address (``html_baseurl``)."""
        if re.fullmatch(r"cite(:\w+)?", name):
            return self._cite(name.partition(":")[2] or "p", body)
        if name not in self._roles:
            raise LookupError(f"notebooks do not know it; they know {', '.join(self._roles)}, cite and cite:...")
        match = re.fullmatch(r"(?P<title>.+?)\s*<(?P<target>[^<>]+)>", body)
        return self._roles[name](match["target"] if match else body, match["title"] if match else None)

    def equation(self, label: str) -> str:
        """Number of an equation, "1.3"."""
        entry = self.env.domaindata["math"]["objects"].get(label)
        if entry is None:
            raise LookupError(f"no equation has the label {label!r}")
        return self._number(entry[0], "displaymath", nodes.make_id(f"equation-{label}"))

    def statement(self, label: str) -> str:
        """A theorem, lemma or the like: "Theorem 1.1"."""
        entry = self._proof(label)
        if entry["nonumber"]:
            return entry["realtype"].title()
        return f"{entry['realtype'].title()} {self._number(entry['docname'], entry['countertype'], label)}"

    def exercise(self, label: str) -> str:
        """An exercise: "Exercise 1.1"."""
        entry = getattr(self.env, "sphinx_exercise_registry", {}).get(label)
        if entry is None:
            raise LookupError(f"no exercise has the label {label!r}")
        return self.env.config.numfig_format["exercise"] % self._number(entry["docname"], "exercise", label)

    def numbered(self, label: str) -> str:
        """A figure, a table or a section by number: "Fig. 1.1"."""
        docname, anchor = self._anchor(label)
        kind, number = self._kind(docname, anchor, label)
        return self.env.config.numfig_format[kind] % number

    def headings(self) -> list[str]:
        """Numbers of the chapter's headings in order, "1", "1.1", ...; empty if the chapter has no number."""
        return [_dotted(number) for number in self.env.toc_secnumbers.get(self.docname, {}).values()]

    def bibliography(self) -> list[str]:
        """The entries cited so far, in the order of the site, each as one line of Markdown."""
        entries = {c.key: c.formatted_entry.text for c in self.env.domaindata["cite"]["citations"]}
        return [" ".join(text.render(_Markdown()).split()) for key, text in entries.items() if key in self.cited]

    def link(self, text: str, docname: str, anchor: str = "") -> str:
        """``text``, as a link to the page if the site has an address."""
        base = self.env.config.html_baseurl
        return f"[{text}]({base.rstrip('/')}/{docname}.html{'#' * bool(anchor)}{anchor})" if base else text

    def file(self, path: str, kind: str = "blob") -> str:
        """Address of a file of the repository, on the branch that the site is built from."""
        return f"{address(self.env.config)}/{kind}/{self.env.config.html_theme_options['repository_branch']}/{path}"

    def _number(self, docname, kind, anchor):
        numbers = self.env.toc_fignumbers.get(docname, {}).get(kind, {})
        if anchor not in numbers:
            raise LookupError(f"{anchor!r} has no number on the site; is {docname} in a numbered part of _toc.yml?")
        return _dotted(numbers[anchor])

    def _proof(self, label):
        entry = getattr(self.env, "proof_list", {}).get(label)
        if entry is None:
            raise LookupError(f"no theorem, lemma or the like has the label {label!r}")
        return entry

    def _anchor(self, label):
        entry = self.env.domaindata["std"]["anonlabels"].get(label)
        if entry is None:
            raise LookupError(f"no page has the label {label!r}")
        return entry

    def _kind(self, docname, anchor, label):
        """Whether a place is a figure, a table, ... or a section, and its number."""
        for kind, numbers in self.env.toc_fignumbers.get(docname, {}).items():
            if anchor in numbers:
                return kind, _dotted(numbers[anchor])
        title = self.env.domaindata["std"]["labels"].get(label, ("", "", None))[2]
        links = [link for link in self.env.tocs[docname].findall(nodes.reference) if link.astext() == title]
        found = [self.env.toc_secnumbers.get(docname, {}).get(link["anchorname"]) for link in links]
        if len(found) != 1 or found[0] is None:
            raise LookupError(f"{label!r} is no figure, table or section with a number of its own; use {{ref}}")
        return "section", _dotted(found[0])

    def _eq(self, label, title):
        docname = self.env.domaindata["math"]["objects"].get(label, [None])[0]
        text = self.env.config.math_eqref_format.format(number=self.equation(label))
        return self.link(text, docname, nodes.make_id(f"equation-{label}"))

    def _prf(self, label, title):
        return self.link(title or self.statement(label), self._proof(label)["docname"], label)

    def _ref(self, label, title):
        if title is None and label in getattr(self.env, "sphinx_exercise_registry", {}):
            return self._numref(label, None)
        docname, anchor = self._anchor(label)
        named = self.env.domaindata["std"]["labels"].get(label)
        if title is None and named is None:
            raise LookupError(f"the label {label!r} stands before no title; give the text yourself")
        return self.link(title or named[2], docname, anchor)

    def _numref(self, label, title):
        docname, anchor = self._anchor(label)
        if title is None:
            return self.link(self.numbered(label), docname, anchor)
        number = self._kind(docname, anchor, label)[1]
        return self.link(title.replace("%s", number).replace("{number}", number), docname, anchor)

    def _doc(self, name, title):
        path = name[1:] if name.startswith("/") else f"{self.docname.rpartition('/')[0]}/{name}".lstrip("/")
        if path not in self.env.titles:
            raise LookupError(f"there is no page {path!r}")
        return self.link(title or self.env.titles[path].astext(), path)

    def _claim(self, claim_id, title):
        labels = {claim.id: claim.label for claim in ledger.load()}
        if claim_id not in labels:
            raise LookupError(f"the ledger has no claim {claim_id!r}")
        return self.link(title or labels[claim_id], "book/ledger", f"claim-{claim_id}")

    def _repo(self, path, title):
        return f"[{title or f'`{path}`'}]({self.file(path)})"

    def _cite(self, kind, body):
        """The text of a citation, in the style of the site."""
        style = find_plugin("sphinxcontrib.bibtex.style.referencing", self.env.config.bibtex_reference_style)()
        if kind not in style.role_style:
            raise LookupError(f"the citation style knows {', '.join(style.role_style)}")
        citations = {c.key: c for c in self.env.domaindata["cite"]["citations"]}
        targets = {target.key: target for target in parse_citation_targets(body)}
        missing = sorted(set(targets) - set(citations))
        if missing:
            raise LookupError(f"the bibliography has no entry {missing[0]!r}")
        self.cited |= set(targets)
        chosen = [(citations[key], targets[key]) for key in citations if key in targets]
        return _formatted(style, kind, chosen)


def _formatted(style, kind, chosen):
    """The text that the bibliography's style makes of citations; the builder given to it links nothing."""
    builder = SimpleNamespace(name="html", get_relative_uri=lambda *_: "")
    parts = [
        (cite.entry, cite.formatted_entry, SphinxReferenceInfo(builder, "", "", "", None, target.pre, target.post))
        for cite, target in chosen
    ]
    return "".join(node.astext() for node in format_references(style, kind, parts).render(pybtex_docutils.Backend()))


def _dotted(number: tuple[int, ...] | Mapping) -> str:
    return ".".join(map(str, number))

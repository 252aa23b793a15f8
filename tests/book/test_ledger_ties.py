"""The ledger and the chapters are tied both ways: no decided claim without a check, no check without a claim."""

import ast
import re
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from chapters import sources
from IPython.core.inputtransformer2 import TransformerManager
from jupytext import reads
from ledger_pages import chapter_checks

from sgdvi_lite import ledger
from tests.book.conftest import ROOT

CHECK = "sgdvi_lite.ledger.check"
IDS = re.findall(
    r"\S+",
    """
    def-1 lemma-2 eq-fp eq-3 eq-4 assumption-3 thm-4 eq-5 eq-6 jko lemma-5-forward lemma-5-converse lemma-6 remark-7
    remark-8 scaling replacement fig-1 fig-2 noise-scale arch-score eq-8 eq-9 assumption-9 thm-10 eq-10 phi-beta a1 a2
    app-b a3 a4 a5 example-19 fig-3
    """,
)


@dataclass(frozen=True)
class Chapter:
    """A chapter's number and the ids that its cells check, in order; ``None`` for an id that is not written out."""

    number: int
    checked: tuple[str | None, ...]


def checked_ids(cells: list[str]) -> tuple[str | None, ...]:
    """The first argument of each call of ``ledger.check`` in a chapter's cells, under whatever name it is called."""
    tree = ast.parse("\n".join(TransformerManager().transform_cell(cell) for cell in cells))
    names = aliases(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and meaning(node.func, names) == CHECK]
    return tuple(claim_id(call) for call in sorted(calls, key=lambda call: call.lineno))


def aliases(tree: ast.Module) -> dict[str, str]:
    """What names that a chapter imports or assigns stand for."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
        if isinstance(node, ast.Import):
            names |= {item.asname: item.name for item in node.names if item.asname}
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names |= {node.targets[0].id: meant} if (meant := meaning(node.value, names)) else {}
    return names


def meaning(node: ast.expr, names: dict[str, str]) -> str | None:
    """The dotted name that an expression stands for, if it is a name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := meaning(node.value, names)):
        return f"{before}.{node.attr}"
    return None


def claim_id(call: ast.Call) -> str | None:
    """The id given to a check, if it is written out."""
    given = [*call.args[:1], *(word.value for word in call.keywords if word.arg == "claim_id")]
    return given[0].value if given and isinstance(given[0], ast.Constant) else None


def loose_ends(claims: list[ledger.Claim], chapters: list[Chapter]) -> list[str]:
    """Everything that is not tied: empty if the ledger and the chapters agree."""
    known, written = {claim.id: claim for claim in claims}, {chapter.number: chapter for chapter in chapters}
    checks = [(chapter.number, checked) for chapter in chapters for checked in chapter.checked]
    loose = [end for number, checked in checks if (end := loose_check(number, known.get(checked), checked))]
    return loose + [end for claim in claims if (end := loose_claim(claim, written.get(claim.chapter)))]


def loose_check(number: int, claim: ledger.Claim | None, checked: str | None) -> str:
    """What is wrong with a check in chapter ``number``."""
    if claim is None:
        return f"chapter {number} checks {checked!r}, which is no claim"
    if claim.chapter != number:
        return f"chapter {number} checks {claim.id}, which belongs to chapter {claim.chapter}"
    return f"chapter {number} checks {claim.id}, which is open" if claim.verdict == "open" else ""


def loose_claim(claim: ledger.Claim, chapter: Chapter | None) -> str:
    """What is wrong with a claim whose chapter is ``chapter``."""
    if claim.verdict == "open":
        return ""
    if chapter is None:
        return f"{claim.id} is decided, but chapter {claim.chapter} does not exist"
    if claim.id not in chapter.checked:
        return f"{claim.id} is decided, but chapter {claim.chapter} does not check it"
    if claim.verdict in ("corrected", "fails") and not claim.note:
        return f"{claim.id} {claim.verdict}, but has no note"
    wrong = claim.verdict in ("corrected", "fails") and not claim.erratum
    return f"{claim.id} {claim.verdict}, but has no erratum" if wrong else ""


# ---- the book ------------------------------------------------------------------------------------------------------


def cells(path) -> list[str]:
    """Source of a chapter's code cells."""
    notebook = reads(path.read_text(encoding="utf-8"), fmt="md:myst")
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def book() -> list[Chapter]:
    return [Chapter(int(path.name[:2]), checked_ids(cells(path))) for path in sources(ROOT)]


def test_ledger_and_chapters_are_tied(book):
    assert book
    assert loose_ends(ledger.load(), book) == []


def test_the_errata_page_counts_the_checks_that_are_there(book):
    for path, chapter in zip(sources(ROOT), book, strict=True):
        assert chapter_checks(path) == Counter(chapter.checked)


def test_every_claim_of_the_plan_is_in_the_ledger():
    assert set(IDS) - {claim.id for claim in ledger.load()} == set()


def test_claims_of_the_first_chapter_are_decided():
    verdicts = {claim.id: claim.verdict for claim in ledger.load()}
    assert {name: verdicts[name] for name in ("def-1", "a1", "a2", "replacement")} == {
        **{"def-1": "holds", "a1": "holds"},
        **{"a2": "corrected", "replacement": "corrected"},
    }


def test_the_book_fails_when_it_loses_a_check(book):
    claims = ledger.load()
    for chapter in book:
        for lost in set(chapter.checked):
            kept = replace(chapter, checked=tuple(name for name in chapter.checked if name != lost))
            rest = [kept if other is chapter else other for other in book]
            assert loose_ends(claims, rest) == [f"{lost} is decided, but chapter {chapter.number} does not check it"]


def test_the_book_fails_when_it_loses_a_claim(book):
    for chapter in book:
        for lost in set(chapter.checked):
            claims = [claim for claim in ledger.load() if claim.id != lost]
            assert set(loose_ends(claims, book)) == {f"chapter {chapter.number} checks {lost!r}, which is no claim"}


# ---- the tie itself ------------------------------------------------------------------------------------------------

ERRATUM = {"place": "p. 1", "printed": "-", "corrected": "+"}
DECIDED = ledger.Claim("one", "One", "It holds.", "holds", "For all N.", 1)
OPEN = ledger.Claim("two", "Two", "It may hold.", "open", "", 2)
CORRECTED = replace(DECIDED, verdict="corrected", erratum=ERRATUM)


@pytest.mark.parametrize("claim", [DECIDED, CORRECTED, replace(CORRECTED, verdict="fails")])
def test_what_is_tied_is_accepted(claim):
    assert loose_ends([claim, OPEN], [Chapter(1, ("one", "one")), Chapter(2, ())]) == []


@pytest.mark.parametrize(
    "claims, checks, expected",
    [
        ([DECIDED, OPEN], {1: ()}, "one is decided, but chapter 1 does not check it"),
        ([DECIDED, OPEN], {}, "one is decided, but chapter 1 does not exist"),
        ([DECIDED, OPEN], {1: ("one", "gone")}, "chapter 1 checks 'gone', which is no claim"),
        ([DECIDED, OPEN], {1: ("one", None)}, "chapter 1 checks None, which is no claim"),
        ([DECIDED, OPEN], {1: ("one",), 3: ("one",)}, "chapter 3 checks one, which belongs to chapter 1"),
        ([DECIDED, OPEN], {1: ("one",), 2: ("two",)}, "chapter 2 checks two, which is open"),
        ([replace(CORRECTED, erratum=None)], {1: ("one",)}, "one corrected, but has no erratum"),
        ([replace(DECIDED, verdict="fails")], {1: ("one",)}, "one fails, but has no erratum"),
    ],
)
def test_a_loose_end_is_found(claims, checks, expected):
    assert loose_ends(claims, [Chapter(number, ids) for number, ids in checks.items()]) == [expected]


@pytest.mark.parametrize(
    "code",
    [
        "from sgdvi_lite import ledger\nledger.check('one', True, 'so')",
        "from sgdvi_lite import ledger as book\nif x:\n    book.check('one', True, 'so')",
        "from sgdvi_lite.ledger import check as sure\nsure('one', True, 'so')",
        "import sgdvi_lite.ledger as book\nbook.check(claim_id='one', condition=True, what='so')",
        "import sgdvi_lite.ledger\nsgdvi_lite.ledger.check('one', True, 'so')",
        "from sgdvi_lite import ledger\nsure = ledger.check\n%config x = 1\nsure('one', True, 'so')",
    ],
)
def test_a_check_is_found_under_any_name(code):
    assert checked_ids(code.split("\n%config x = 1\n")) == ("one",)


@pytest.mark.parametrize(
    "code", ["# ledger.check('one', True, 'so')", "'ledger.check(\"one\", True, 1)'", "other.check('one', True, 'so')"]
)
def test_what_only_looks_like_a_check_is_not_one(code):
    assert checked_ids(["%matplotlib inline\nfrom sgdvi_lite import ledger", code]) == ()


def test_a_check_must_name_its_claim():
    assert checked_ids(["from sgdvi_lite import ledger", "ledger.check(name, True, 'so')"]) == (None,)

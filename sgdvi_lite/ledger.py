"""The ledger: one entry for each numbered statement of the paper, and checks that can fail.

The entries live in ``book/claims.yml``; an installed wheel carries its own copy. A chapter proves a claim by calling
:func:`check`; the ledger page and the errata page of the book are generated from :func:`load`.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from sympy.logic.boolalg import BooleanAtom

from sgdvi_lite import _checks

VERDICTS = {
    "holds": "true as printed",
    "corrected": "true after the correction given",
    "assumption": "assumed, not proved; the chapter says when it is satisfied",
    "fails": "false; the chapter gives a counterexample",
    "heuristic": "a suggestion, not a statement that can be proved",
    "open": "not yet examined",
}
"""The verdicts and what each one means."""

_REQUIRED = ("id", "label", "statement", "verdict", "note", "chapter")
_ERRATUM = ("place", "printed", "corrected")


@dataclass(frozen=True)
class Claim:
    """One numbered statement of the paper, in our words, with our verdict.

    ``label`` is the paper's own ("Theorem 4"), ``chapter`` the number of the chapter that examines it, and
    ``erratum`` a mapping with the keys ``place``, ``printed`` and ``corrected`` where the print is wrong.
    """

    id: str
    label: str
    statement: str
    verdict: str
    note: str
    chapter: int
    erratum: dict[str, str] | None = None

    def __post_init__(self):
        """Refuse an unknown verdict, a decided claim without a note, and an incomplete erratum."""
        claim = f"claims.yml: claim {self.id!r}"
        known = self.verdict in VERDICTS
        _checks.require(known, f"{claim} has verdict {self.verdict!r}; expected one of {', '.join(VERDICTS)}")
        told = self.note or self.verdict == "open"
        _checks.require(told, f"{claim} is decided ({self.verdict}) but its note is empty")
        keys = sorted(_ERRATUM if self.erratum is None else self.erratum)
        whole = keys == sorted(_ERRATUM)
        _checks.require(whole, f"{claim} has an erratum with the keys {keys}; expected {sorted(_ERRATUM)}")


def default_path() -> Path:
    """Path of ``claims.yml``: the book's when the library is run from its repository, else the wheel's copy."""
    here = Path(__file__).resolve().parent
    candidates = (here.parent / "book" / "claims.yml", here / "claims.yml")
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(f"claims.yml: found at neither {candidates[0]} nor {candidates[1]}; reinstall sgdvi_lite")


def load(path: str | Path | None = None) -> list[Claim]:
    """Read the ledger, in the paper's order.

    Parameters
    ----------
    path
        A ``claims.yml``; by default the book's own.

    Raises
    ------
    ValueError
        If an entry lacks a field, has an unknown one or an unknown verdict, or if an id appears twice.

    Examples
    --------
    >>> from sgdvi_lite import ledger
    >>> [claim.label for claim in ledger.load() if claim.id == "def-1"]
    ['Definition 1']
    """
    path = Path(path or default_path())
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no YAML ({error}); mend it there") from error
    good = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    _checks.require(good, f"{path}: expected a list of claims, each with {', '.join(_REQUIRED)}")
    claims = [_claim(entry) for entry in entries]
    ids = [claim.id for claim in claims]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    _checks.require(not twice, f"claims.yml: the ids {twice} appear more than once; each claim needs its own id")
    return claims


def _claim(entry: dict) -> Claim:
    missing = [name for name in _REQUIRED if name not in entry]
    unknown = sorted(set(entry) - set(_REQUIRED) - {"erratum"})
    claim = f"claims.yml: entry {entry.get('id', entry)!r}"
    _checks.require(not missing and not unknown, f"{claim} lacks {missing}, has unknown fields {unknown}")
    wrong = [name for name in _REQUIRED if type(entry[name]) is not (int if name == "chapter" else str)]
    _checks.require(not wrong, f"{claim} has {wrong} of another type: expected a number for chapter, text elsewhere")
    return Claim(**entry)


@cache
def _by_id() -> dict[str, Claim]:
    return {claim.id: claim for claim in load()}


def check(claim_id: str, condition: object, what: str) -> None:
    """Assert one fact on which a claim's verdict rests, and print a small mark with the claim's label.

    Nearly every object of Python is true in an ``if``: a pair of a false value and a message, a function that was not
    called, NaN, a list with one false entry. So only a truth value is taken for one.

    Parameters
    ----------
    claim_id
        The claim's ``id`` in ``claims.yml``.
    condition
        The fact: a ``bool``, be it Python's, sympy's or NumPy's, or a tensor or array of shape ``()`` of that type. Of
        many truth values write ``.all()`` or ``.any()``; a sympy relation must have been decided.
    what
        What was checked, as a sentence without a full stop.

    Raises
    ------
    KeyError
        If the ledger has no such claim.
    ValueError
        If the condition is no truth value.
    AssertionError
        If the condition is false.

    Examples
    --------
    >>> from sgdvi_lite import ledger
    >>> ledger.check("def-1", 1 + 1 == 2, "one and one make two")
    ✓ Definition 1: one and one make two
    >>> ledger.check("def-1", 1 + 1 == 3, "one and one make three")
    Traceback (most recent call last):
    ...
    AssertionError: Definition 1: not true that one and one make three
    """
    if claim_id not in _by_id():
        raise KeyError(f"claim_id: the ledger has no claim {claim_id!r}; its ids are {', '.join(_by_id())}")
    label = _by_id()[claim_id].label
    tensor = isinstance(condition, torch.Tensor) and condition.dtype == torch.bool
    array = type(condition) is np.ndarray and condition.dtype == np.bool_  # a masked one has no truth value
    single = isinstance(condition, bool | np.bool_ | BooleanAtom) or ((tensor or array) and condition.ndim == 0)
    allowed = "one truth value, such as a bool; compare numbers, call functions, write .all() or .any() for many values"
    _checks.require(single, f"condition = {condition!r} ({type(condition).__name__}) is ambiguous: expected {allowed}")
    if not condition:
        raise AssertionError(f"{label}: not true that {what}")
    print(f"✓ {label}: {what}")

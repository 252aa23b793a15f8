import math
from types import SimpleNamespace

import numpy as np
import pytest
import sympy as sp
import torch
import yaml

from sgdvi_lite import ledger

GOOD = {"id": "x", "label": "X", "statement": "s", "verdict": "holds", "note": "n", "chapter": 1}


def written(tmp_path, *entries):
    path = tmp_path / "claims.yml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def test_the_book_s_ledger_loads_and_its_labels_are_distinct():
    claims = ledger.load()
    assert len({claim.label for claim in claims}) == len(claims)


def test_a_check_passes_prints_and_fails(capsys):
    ledger.check("a1", True, "it is so")
    assert capsys.readouterr().out == "✓ (A1): it is so\n"
    with pytest.raises(AssertionError, match=r"\(A1\): not true that it is so"):
        ledger.check("a1", False, "it is so")
    assert capsys.readouterr().out == ""


def test_a_check_needs_a_claim():
    with pytest.raises(KeyError, match="the ledger has no claim 'a-9'"):
        ledger.check("a-9", True, "anything")


def test_a_condition_that_is_no_single_truth_value_is_refused():
    with pytest.raises((RuntimeError, ValueError), match="ambiguous"):
        ledger.check("a1", torch.tensor([True, False]), "both")


@pytest.mark.parametrize("kind", [bool, np.bool_, np.array, torch.tensor, sp.sympify])
def test_a_truth_value_of_any_library_is_one(kind, capsys):
    ledger.check("a1", kind(True), "it is so")
    assert capsys.readouterr().out == "✓ (A1): it is so\n"
    with pytest.raises(AssertionError, match="not true that it is so"):
        ledger.check("a1", kind(False), "it is so")


X = sp.Symbol("x")


@pytest.mark.parametrize(
    "condition",
    [
        (False, "a message"),
        (True,),
        [False],
        [],
        {},
        {True},
        range(1, 2),
        (value for value in (False,)),
        lambda: False,
        pytest.raises,
        "False",
        "",
        b"x",
        None,
        0,
        1,
        1.0,
        math.nan,
        1j,
        np.float64(1.0),
        np.nan,
        np.array([True]),
        np.array([[True]]),
        np.array([True, True]),
        np.array([], bool),
        np.array(1),
        np.array(True, object),
        np.ma.array(True, mask=True),
        np.ma.masked,
        type("bool", (), {})(),
        SimpleNamespace(dtype="bool", shape=()),
        torch.tensor([True]),
        torch.tensor(1.0),
        torch.tensor([True, False]),
        X < 1,
        sp.Eq(X, 1),
        sp.Integer(1),
        sp.nan,
        X,
        NotImplemented,
        object(),
        bool,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_only_counts_as_true_or_false_is_refused(condition, capsys):
    with pytest.raises(ValueError, match="is ambiguous: expected one truth value"):
        ledger.check("a1", condition, "it is so")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([GOOD | {"verdict": "maybe"}], "claim 'x' has verdict 'maybe'; expected one of holds"),
        ([GOOD | {"note": ""}], r"claim 'x' is decided \(holds\) but its note is empty"),
        ([GOOD, GOOD], r"the ids \['x'\] appear more than once"),
        ([{k: v for k, v in GOOD.items() if k != "label"}], r"entry 'x' lacks \['label'\]"),
        ([GOOD | {"colour": "red"}], r"has unknown fields \['colour'\]"),
        ([GOOD | {"chapter": "1"}], r"entry 'x' has \['chapter'\] of another type: expected a number for chapter"),
        ([GOOD | {"id": 5}], r"entry 5 has \['id'\] of another type: .*, text elsewhere"),
        (["text"], "expected a list of claims, each with id, label"),
        ([GOOD | {"erratum": {"place": "p"}}], "claim 'x' has an erratum with the keys"),
    ],
)
def test_a_bad_entry(tmp_path, entries, message):
    with pytest.raises(ValueError, match=message):
        ledger.load(written(tmp_path, *entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- id: [1\n", "(?s:no YAML .*; mend it there)"),
        (b"-\tid: x\n", "no YAML"),
        (b"\xff\xfe\x00", "no YAML"),
        (b"", "expected a list of claims"),
        (b"id: x\n", "expected a list of claims"),
    ],
)
def test_a_file_that_holds_no_claims_is_named(tmp_path, text, message):
    path = tmp_path / "own.yml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=f"own.yml: {message}"):
        ledger.load(path)


def test_a_good_entry_and_its_erratum(tmp_path):
    erratum = {"place": "p", "printed": "q", "corrected": "r"}
    (claim,) = ledger.load(written(tmp_path, GOOD | {"erratum": erratum}))
    assert claim.erratum == erratum and claim.chapter == 1

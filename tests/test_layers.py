"""The house: imports go downward only, modules are small, functions fit in the head, examples are documented."""

import ast
from pathlib import Path
from statistics import median

import pytest

import sgdvi_lite

LIBRARY = Path(sgdvi_lite.__file__).parent
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")
LAYERS = [
    {"_checks", "_storage", "fokker_planck", "linalg", "series", "symbolic", "ou", "plots", "ledger", "slider"},
    {"data", "nets", "minibatch", "results", "sde", "thermo"},
    {"gradients"},
    {"diffusion", "sgd"},
    {"experiments", "reports"},
    {"__main__"},
]
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports_of(source, known):
    """Modules of the library that a source imports, at whatever place."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("sgdvi_lite.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sgdvi_lite":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names} & known
    return found


def room(path):
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


GRAPH = {}
for path in MODULES:
    GRAPH.setdefault(room(path), set()).update(imports_of(path.read_text(), set(LAYER)) - {room(path)})


def upward(graph):
    return [(name, used) for name, uses in graph.items() for used in uses if LAYER[used] > LAYER[name]]


def cycles(graph):
    """Modules that import themselves by some path."""

    def reachable(name, seen=()):
        below = graph.get(name, set()) - set(seen)
        return below.union(*(reachable(b, (*seen, *below)) for b in below)) if below else below

    return [name for name in graph if name in reachable(name)]


def test_every_module_has_a_layer():
    assert set(GRAPH) <= set(LAYER)


def test_imports_go_downward_and_never_in_circles():
    assert upward(GRAPH) == []
    assert cycles(GRAPH) == []


def test_the_tests_of_the_layers_can_fail():
    assert upward({"linalg": imports_of("from sgdvi_lite import data", set(LAYER))}) == [("linalg", "data")]
    assert upward({"linalg": imports_of("def f():\n    import sgdvi_lite.sgd", set(LAYER))}) == [("linalg", "sgd")]
    assert cycles({"sgd": {"gradients"}, "gradients": {"sgd"}}) == ["sgd", "gradients"]


def functions(path):
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def body_lines(function):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - body[0].lineno + 1 if body else 0


LENGTHS = {path: [body_lines(function) for function in functions(path)] for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_module_is_one_idea_and_its_functions_fit_in_the_head(path):
    assert len(path.read_text().splitlines()) <= 300
    assert max(LENGTHS[path], default=0) <= 40


def test_most_functions_are_a_few_lines():
    assert median(length for lengths in LENGTHS.values() for length in lengths) <= 8

"""The house: imports go downward only, modules are small, functions fit in the head."""

import ast
import io
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path
from statistics import median

import pytest

import sgdvi_lite

LIBRARY = Path(sgdvi_lite.__file__).parent
ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(LIBRARY.rglob("*.py"))
EXTENSIONS = sorted((ROOT / "book" / "_ext").glob("*.py"))

# ---- layers: the contracts are in pyproject.toml -------------------------------------------------------------------


def lint_imports(folder):
    """Whether the package in a folder keeps the contracts beside it, and what import-linter prints."""
    command = "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])"
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path):
    """A copy of the library and of the contracts."""
    shutil.copytree(LIBRARY, tmp_path / "sgdvi_lite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_downward_and_never_in_circles():
    kept, printed = lint_imports(ROOT)
    assert kept, printed


@pytest.mark.parametrize(
    ("module", "line", "path"),
    [
        ("linalg.py", "from sgdvi_lite import data", "sgdvi_lite.linalg -> sgdvi_lite.data"),
        ("linalg.py", "def f():\n    import sgdvi_lite.sgd", "sgdvi_lite.linalg -> sgdvi_lite.sgd"),
        ("gradients/source.py", "from sgdvi_lite.diffusion import matrix", "source -> sgdvi_lite.diffusion.matrix"),
        ("diffusion/certificates.py", "import sgdvi_lite.diffusion.lanczos", "certificates -> sgdvi_lite.diffusion.l"),
        ("sgd/recording.py", "from sgdvi_lite import diffusion", "sgd.recording -> sgdvi_lite.diffusion"),
        ("_storage/files.py", "import sgdvi_lite.data", "_storage.files -> sgdvi_lite.data"),
    ],
)
def test_a_planted_import_upward_or_sideways_is_found(copy, module, line, path):
    with (copy / "sgdvi_lite" / module).open("a") as file:
        file.write(f"\n{line}\n")
    kept, printed = lint_imports(copy)
    assert not kept and path in " ".join(printed.split())


def test_a_planted_circle_is_found(copy):
    (copy / "sgdvi_lite" / "series" / "one.py").write_text("import sgdvi_lite.series.two\n")
    (copy / "sgdvi_lite" / "series" / "two.py").write_text("import sgdvi_lite.series.one\n")
    kept, printed = lint_imports(copy)
    assert not kept and "No circles, at any depth BROKEN" in printed


def test_a_module_without_a_place_is_found(copy):
    (copy / "sgdvi_lite" / "attic.py").touch()
    kept, printed = lint_imports(copy)
    assert not kept and "sgdvi_lite.attic" in printed


def test_every_room_has_its_contract():
    """Each package that holds modules: what is said of the house holds in its rooms, and of all that is in them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [contract for contract in contracts if contract["type"] == "layers"]
    ordered = [container for contract in layers for container in contract["containers"]]
    packages = [path.parent.relative_to(LIBRARY.parent) for path in LIBRARY.rglob("__init__.py")]
    assert sorted(ordered) == sorted(".".join(package.parts) for package in packages)
    assert all(
        contract["exhaustive"] is True and not {"(", ")"} & set("".join(contract["layers"])) for contract in layers
    )
    assert {contract["type"] for contract in contracts} == {"layers", "acyclic_siblings"}


def hidden_imports(source):
    """Imports that import-linter cannot see: of the package as a whole, of its lazy names, or by a text."""
    rooms = {path.stem for path in LIBRARY.iterdir()}
    nodes = list(ast.walk(ast.parse(source)))
    whole = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    lazy = [
        alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module == "sgdvi_lite"
        for alias in node.names
        if alias.name not in rooms
    ]
    named = [node.id for node in nodes if isinstance(node, ast.Name)] + [
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    ]
    return (
        [name for name in whole if name == "sgdvi_lite"]
        + lazy
        + [n for n in named if n in ("import_module", "__import__")]
    )


def test_no_import_is_hidden_from_the_linter():
    hidden = {path.relative_to(LIBRARY): hidden_imports(path.read_text(encoding="utf-8")) for path in MODULES}
    allowed = {Path("__init__.py"): ["import_module"]}  # by which the package imports a room when it is asked for
    assert {path: names for path, names in hidden.items() if names} == allowed


@pytest.mark.parametrize(
    "line",
    [
        "from sgdvi_lite import DiffusionMatrix",
        "def f():\n    import sgdvi_lite\n    return sgdvi_lite.sgd.run",
        "import importlib\nimportlib.import_module('sgdvi_lite.sgd')",
        "from importlib import import_module\nimport_module('sgdvi_lite.sgd')",
    ],
)
def test_a_planted_hidden_import_is_found(line):
    assert hidden_imports(line) != [] and hidden_imports("from sgdvi_lite import sgd") == []


# ---- the picture of the house in CONTRIBUTING.md ---------------------------------------------------------------------


def first_line(path):
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0].replace("``", "")


def rooms(folder):
    """Rooms and modules of the house, or the rooms of a room, with the first lines of their docstrings."""
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py" and folder == LIBRARY]
    named = {f"{path.name}/": path / "__init__.py" for path in packages} | {path.name: path for path in modules}
    return {(folder.name, name): first_line(path) for name, path in named.items()}


def picture(text):
    """The same, as the picture shows it: a room's rooms stand below it, further to the right."""
    shown, house = {}, LIBRARY.name
    (tree,) = re.findall(rf"^```\n{house}/\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for indent, name, words in (re.fullmatch(r"( +)(\S+)(?: +(.+))?", line).groups() for line in tree.splitlines()):
        room = room if len(indent) > 2 else name.rstrip("/")
        shown[house if len(indent) == 2 else room, name] = words
    return shown


CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def house():
    packages = {path.parent for path in LIBRARY.rglob("__init__.py")}
    return {key: line for folder in packages for key, line in rooms(folder).items()}


def test_the_picture_of_the_house_is_the_house():
    assert picture(CONTRIBUTING) == house()


@pytest.mark.parametrize(
    "change", [("  sgd/ ", "  sgt/ "), ("    spectrum/", "  spectrum/"), ("Ranks and", "Ranks or")]
)
def test_another_picture_is_not(change):
    assert change[0] in CONTRIBUTING and picture(CONTRIBUTING.replace(*change)) != house()


def test_the_picture_shows_the_floors_in_their_order():
    contract, *_ = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    shown = [name.removesuffix(".py").rstrip("/") for room, name in picture(CONTRIBUTING) if room == LIBRARY.name]
    floors = [set(re.findall(r"\w+", floor)) & set(shown) for floor in contract["layers"]]
    rest = iter(shown)
    assert [{next(rest) for _ in floor} for floor in floors] == floors and list(rest) == []


def test_a_room_says_in_five_lines_what_it_is_for():
    texts = {path: ast.get_docstring(ast.parse(path.read_text())) for path in LIBRARY.rglob("__init__.py")}
    assert [path for path, text in texts.items() if not 1 <= len(text.splitlines()) <= 5] == []


# ---- sizes ---------------------------------------------------------------------------------------------------------


def docstrings(tree):
    """Numbers of the lines of the docstrings of modules, classes and functions."""
    owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node.body[0] for node in ast.walk(tree) if isinstance(node, owners) and ast.get_docstring(node)]
    return {line for node in nodes for line in range(node.lineno, node.end_lineno + 1)}


def code_lines(source):
    """How many lines are neither blank nor comment nor docstring."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in skipped]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - docstrings(ast.parse(source)))


def body_lines(source):
    """Length of each function's body, without its docstring."""
    nodes = ast.walk(ast.parse(source))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    bodies = [(node, node.body[1:] if ast.get_docstring(node) else node.body) for node in functions]
    return [node.end_lineno - body[0].lineno + 1 if body else 0 for node, body in bodies]


CODE = {path: code_lines(path.read_text(encoding="utf-8")) for path in MODULES + EXTENSIONS}
LENGTHS = {path: body_lines(path.read_text(encoding="utf-8")) for path in MODULES}


def test_what_counts_as_code():
    text = '"""Doc."""\n\nX = 3\n"""Why."""\n\ndef f():  # why\n    """Doc."""\n    # why\n    return """a\n    b"""\n'
    assert code_lines(text) == 5
    assert body_lines(text) == [2]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_module_is_one_idea_and_its_functions_fit_in_the_head(path):
    assert CODE[path] <= 220
    assert max(LENGTHS[path], default=0) <= 40


def test_most_functions_are_a_few_lines():
    assert median(length for lengths in LENGTHS.values() for length in lengths) <= 8


def test_the_library_and_the_extensions_of_the_book_stay_small():
    assert sum(CODE[path] for path in MODULES) <= 6_400
    assert sum(CODE[path] for path in EXTENSIONS) <= 900

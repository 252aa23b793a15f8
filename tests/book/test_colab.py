"""The notebooks where Colab would run them: its packages, the library from a wheel, an empty folder, no book tools."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import chapters
import nbformat
import notebooks
import pytest
import yaml
from filelock import FileLock

from tests.book.conftest import ROOT

COLAB = ROOT / "_build" / "colab"
NOTEBOOKS = [chapter.with_suffix(".ipynb") for chapter in chapters.sources(ROOT)]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
COLAB_HAS = (
    "torch",
    "numpy",
    "scipy",
    "matplotlib",
    "sympy",
    "scikit-learn",
    "pyyaml",
    "tqdm",
    "ipykernel",
    "nbclient",
)
WHEEL_ADDS = {"sgdvi_lite", "jaxtyping", "pooch"}
"""What the wheel may add to such an environment, apart from what these three need themselves."""

RUN = """\
import json, sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
json.dump([[cell.execution_count, cell.outputs] for cell in cells], open(sys.argv[2], "w"))
"""


class Colab(NamedTuple):
    """Python of the environment, and its packages with their versions before and after the library came."""

    python: str
    before: dict[str, str]
    after: dict[str, str]


def run(*command, cwd: Path, **environment) -> str:
    """Run a command without Python settings of ours; a failure shows what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**kept, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def pip(python: Path, *arguments) -> str:
    """Run pip of an environment."""
    return run(python, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=ROOT)


def installed(python: Path) -> dict[str, str]:
    """Packages of an environment with their versions."""
    return {item["name"]: item["version"] for item in json.loads(pip(python, "list", "--format=json"))}


def pins() -> list[str]:
    """The pins of ``requirements.txt`` for what Colab has."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line.partition("==")[0] in COLAB_HAS]
    assert len(found) == len(COLAB_HAS)
    return found


def environment() -> Path:
    """Python of an environment like Colab's, without the library. Made once for each set of pins.

    A stamp is written last, so that an interrupted installation is not taken for a whole one.
    """
    wanted = "\n".join([*pins(), sys.version])
    folder = COLAB / hashlib.sha256(wanted.encode()).hexdigest()[:16]
    python, stamp = folder / "bin" / "python", folder / "complete"
    if not stamp.is_file():
        for old in COLAB.glob("*/complete"):
            shutil.rmtree(old.parent)
        shutil.rmtree(folder, ignore_errors=True)
        run(sys.executable, "-m", "venv", folder, cwd=ROOT)
        pip(python, "install", "--quiet", *pins())
        stamp.write_text(wanted, encoding="utf-8")
    pip(python, "uninstall", "--quiet", "--yes", *WHEEL_ADDS)
    return python


def with_the_library(folder: Path) -> Colab:
    """The environment before and after the library comes into it, from a wheel built in ``folder``."""
    python = environment()
    pip(Path(sys.executable), "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    before = installed(python)
    pip(python, "install", "--quiet", next(folder.glob("sgdvi_lite-*.whl")))
    return Colab(str(python), before, installed(python))


@pytest.fixture(scope="session")
def colab(tmp_path_factory, testrun_uid) -> Colab:
    """One environment for all processes of a run of the tests: the first makes it while the others wait."""
    note = COLAB / f"{testrun_uid}.json"
    COLAB.mkdir(parents=True, exist_ok=True)
    with FileLock(COLAB / "lock"):
        if not note.is_file():
            for old in COLAB.glob("*.json"):
                old.unlink()
            made = with_the_library(tmp_path_factory.mktemp("wheel"))
            note.write_text(json.dumps(made), encoding="utf-8")
        return Colab(*json.loads(note.read_text(encoding="utf-8")))


@pytest.mark.check
@pytest.mark.colab
def test_installation_adds_little_and_changes_nothing(colab):
    before, after = colab.before, colab.after
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) >= {"sgdvi_lite"}
    assert "jupyter-book" not in after


@pytest.mark.check
@pytest.mark.colab
@each_notebook
def test_notebook_runs(path, colab, tmp_path):
    (tmp_path / "empty").mkdir()
    results = tmp_path / "results.json"
    own = {"IPYTHONDIR": str(tmp_path / "ipython"), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    run(colab.python, "-c", RUN, path, results, cwd=tmp_path / "empty", **own)
    (_, installation), *rest = json.loads(results.read_text(encoding="utf-8"))
    assert installation == [], "the first cell installed something, though the library is there"
    assert all(count for count, _ in rest)
    assert any("✓" in json.dumps(outputs, ensure_ascii=False) for _, outputs in rest)


@each_notebook
def test_first_cell_installs_from_the_repository_of_the_configuration(path):
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    first = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells[0].source
    assert re.findall(r"%pip install .*", first) == [
        f'%pip install --quiet "git+{repository["url"]}@{repository["branch"]}"'
    ]
    assert 'find_spec("sgdvi_lite") is None' in first


@pytest.mark.parametrize("found, expected", [(None, 1), (object(), 0)])
def test_first_cell_installs_only_what_is_missing(monkeypatch, found, expected):
    calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    cell = notebooks.INSTALL.format(repository="https://example.org/book", branch="main")
    exec(re.sub(r"%pip (.*)", r"pip('''\1''')", cell), {"pip": calls.append})
    assert calls == ['install --quiet "git+https://example.org/book@main"'] * expected

"""The key of the execution cache: it changes with everything a chapter's cells can see, and with nothing else."""

from pathlib import Path
from types import SimpleNamespace

import freshness
import pytest


@pytest.fixture
def tree(tmp_path) -> Path:
    """A small tree with one file of each kind."""
    names = [
        "sgdvi_lite/linalg.py",
        "sgdvi_lite/sub/deep.py",
        "sgdvi_lite/page.html",
        "book/claims.yml",
        "book/results/run.npz",
        "book/results/run.json",
        "requirements.txt",
        "README.md",
        "book/01-chapter.md",
        "sgdvi_lite/notes.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "sgdvi_lite/linalg.py",
        "sgdvi_lite/sub/deep.py",
        "sgdvi_lite/page.html",
        "book/claims.yml",
        "book/results/run.npz",
        "book/results/run.json",
        "requirements.txt",
    ],
)
def test_key_changes_with_what_a_cell_can_see(tree, name):
    before = freshness.key(tree)
    (tree / name).write_text("two")
    assert freshness.key(tree) != before


@pytest.mark.parametrize("name", ["README.md", "book/01-chapter.md", "sgdvi_lite/notes.txt", "new.py"])
def test_key_ignores_other_files(tree, name):
    before = freshness.key(tree)
    (tree / name).write_text("two")
    assert freshness.key(tree) == before


def test_key_ignores_a_new_date_and_another_folder(tree, tmp_path_factory):
    before = freshness.key(tree)
    (tree / "sgdvi_lite/linalg.py").touch()
    moved = tree.rename(tmp_path_factory.mktemp("elsewhere") / "copy")
    assert freshness.key(moved) == before


def test_key_changes_when_a_file_comes_goes_or_is_renamed(tree):
    keys = [freshness.key(tree)]
    (tree / "sgdvi_lite/new.py").write_text("three")
    keys.append(freshness.key(tree))
    (tree / "sgdvi_lite/new.py").rename(tree / "sgdvi_lite/other.py")
    keys.append(freshness.key(tree))
    (tree / "sgdvi_lite/linalg.py").unlink()
    keys.append(freshness.key(tree))
    assert len(set(keys)) == 4


def test_key_changes_with_python(tree):
    assert freshness.key(tree, "3.11.0") != freshness.key(tree, "3.12.0")


def test_prune_keeps_the_current_cache_alone(tmp_path):
    for name in ("old", "older", "current"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "global.db").write_text("x")
    (tmp_path / "stray.db").write_text("x")
    freshness.prune(tmp_path / "current")
    assert [path.name for path in tmp_path.iterdir()] == ["current"]
    assert (tmp_path / "current" / "global.db").is_file()


def _app(tree):
    config = SimpleNamespace(nb_execution_cache_path="")
    return SimpleNamespace(srcdir=str(tree), outdir=str(tree / "_build/html"), config=config)


def test_extension_points_the_cache_at_the_key(tree):
    app = _app(tree)
    freshness._point_cache(app, app.config)
    assert Path(app.config.nb_execution_cache_path) == tree / "_build/.jupyter_cache" / freshness.key(tree)


@pytest.mark.parametrize("failed", [True, False])
def test_extension_prunes_only_after_a_good_build(tree, failed):
    app = _app(tree)
    freshness._point_cache(app, app.config)
    old = tree / "_build/.jupyter_cache/old"
    for folder in (old, Path(app.config.nb_execution_cache_path)):
        folder.mkdir(parents=True)
    freshness._prune_after(app, RuntimeError("cell failed") if failed else None)
    assert old.is_dir() == failed

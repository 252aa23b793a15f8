"""The runner of these tests: which of them run, and what a worker is like."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgdvi_lite import linalg

TESTS = """
import pytest
def test_plain(): pass
@pytest.mark.browser
def test_of_a_few_pages(): pass
@pytest.mark.browser
@pytest.mark.check
def test_of_all_pages(): pass
@pytest.mark.large
def test_of_an_hour(): pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four tests below the conftest of these tests."""
    folder = tmp_path_factory.mktemp("runner")
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_four.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    browser\n    check\n    large\n")
    return folder


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", ["plain", "of_a_few_pages"]),
        ("browser", ["of_a_few_pages"]),
        ("check", ["of_all_pages"]),
        ("large", ["of_an_hour"]),
    ],
)
def test_what_takes_long_runs_only_when_its_mark_is_named(folder, expression, expected):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", expression, "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if "::" in line]
    assert [line.partition("::test_")[2] for line in lines] == expected


def test_arguments_are_checked_against_their_annotations():
    with pytest.raises(TypeError, match="Type-check error"):
        linalg.participation_ratio("no spectrum")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="there is one process, with all threads")
def test_a_worker_has_one_thread():
    assert torch.get_num_threads() == 1

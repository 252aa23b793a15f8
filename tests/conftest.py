"""Which tests run, on how many threads, and the browser of those that need one."""

import os
import shutil
from importlib.util import find_spec

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker, as there is a worker for each core: before torch is imported, and for what the tests start.
    os.environ["OMP_NUM_THREADS"] = "1"

ASKED_FOR = ("check", "gpu", "large")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(config, items):
    """A test with one of these marks runs only where ``-m`` names the mark; any other ``-m`` leaves it out."""
    unnamed = {mark for mark in ASKED_FOR if mark not in config.option.markexpr}
    left_out = [item for item in items if any(mark.name in unnamed for mark in item.iter_markers())]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def browser():
    """System Chromium; without one the test is skipped, or fails if SGDVI_REQUIRE_BROWSER is 1."""
    absent = pytest.fail if os.environ.get("SGDVI_REQUIRE_BROWSER") == "1" else pytest.skip
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        absent(f"no browser on PATH (looked for {', '.join(BROWSERS)}); install chromium")
    if find_spec("playwright") is None:
        absent("playwright drives the browser; install it: pip install -r requirements.txt")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()

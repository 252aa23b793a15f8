"""Fixtures and paths shared by the tests of the book: the tree, the built site, a server and a browser for it."""

import functools
import http.server
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
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

sys.path.insert(0, str(ROOT / "book" / "_ext"))


def is_redirect(path: Path) -> bool:
    """Whether a page only sends the reader on."""
    return 'http-equiv="Refresh"' in path.read_text(encoding="utf-8")[:500]


def site_pages() -> list[str]:
    """Every page of the built site, as a path below it."""
    pages = [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.relative_to(SITE).parts]
    return [path.relative_to(SITE).as_posix() for path in pages if not is_redirect(path)]


def chapter_pages() -> list[str]:
    """The pages of the chapters."""
    return [page for page in site_pages() if Path(page).name[:2].isdigit()]


@pytest.fixture(scope="session")
def site() -> Path:
    """The built site; fails with the remedy when there is none."""
    if not (SITE / "index.html").is_file():
        pytest.fail("there is no site in _build/html; build it first: make book")
    return SITE


@pytest.fixture(scope="session")
def server(site):
    """The address at which the built site is served, on this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture(scope="module")
def browser():
    """System Chromium; without one the test is skipped, or fails if SGDVI_REQUIRE_BROWSER is 1.

    It lives for one module: Playwright keeps an event loop running, in which notebooks could not be executed.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = f"no browser on PATH (looked for {', '.join(BROWSERS)}); install chromium"
        (pytest.fail if os.environ.get("SGDVI_REQUIRE_BROWSER") == "1" else pytest.skip)(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()

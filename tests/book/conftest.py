"""Fixtures and paths shared by the tests of the book: the tree, the built site and a server for it."""

import functools
import http.server
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"

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

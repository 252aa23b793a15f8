"""Key the execution cache on everything a chapter's cells can see, so that a stale result is never shown.

MyST-NB's cache knows a chapter's cells but not the library they call. Here the cache lives in a folder named
after a hash of the library, the ledger, the saved results, the pins and the version of Python. A change in
any of them starts an empty cache and re-executes the chapters; an unchanged tree executes nothing.
"""

import hashlib
import platform
import shutil
from pathlib import Path

PATTERNS = ("sgdvi_lite/**/*.py", "sgdvi_lite/**/*.html", "book/claims.yml", "book/results/**/*", "requirements.txt")


def inputs(root: Path) -> list[Path]:
    """Every file below ``root`` that a chapter's cells can depend on, in a fixed order."""
    return sorted({path for pattern in PATTERNS for path in root.glob(pattern) if path.is_file()})


def key(root: Path, python: str = platform.python_version()) -> str:
    """Hash of the names and contents of :func:`inputs` and of the version of Python."""
    digest = hashlib.sha256(python.encode())
    for path in inputs(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\n{path.relative_to(root).as_posix()} {content}".encode())
    return digest.hexdigest()[:16]


def folder(build: Path, root: Path) -> Path:
    """Where the executed chapters are cached: one folder a key, under the build folder."""
    return build / ".jupyter_cache" / key(root)


def prune(current: Path) -> None:
    """Remove the caches of other keys that lie beside ``current``."""
    for other in current.parent.iterdir():
        if other != current:
            shutil.rmtree(other) if other.is_dir() else other.unlink()


def _point_cache(app, config):
    config.nb_execution_cache_path = str(folder(Path(app.outdir).parent, Path(app.srcdir)))


def _prune_after(app, exception):
    current = Path(app.config.nb_execution_cache_path)
    if exception is None and current.is_dir():
        prune(current)


def setup(app):
    app.connect("config-inited", _point_cache, priority=100)
    app.connect("build-finished", _prune_after)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

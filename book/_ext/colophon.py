"""The directive ``{colophon}``: with what, on what and when this copy of the book was built."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

PACKAGES = (
    *("torch", "numpy", "scipy", "sympy", "matplotlib", "scikit-learn"),
    *("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme"),
)


def processor() -> str:
    """The processor's own name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def device() -> str:
    """The processor with torch's number of threads, and the GPU if torch sees one."""
    cpu = f"{processor()}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()}; {cpu}" if torch.cuda.is_available() else cpu


def commit(root: Path) -> str:
    """The commit of the working tree, marked if there are changes; says so where there is none."""
    describe = ["git", "describe", "--always", "--abbrev=12", "--dirty=, with uncommitted changes"]
    try:
        return subprocess.run(describe, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "none: the tree is not a git checkout with a commit"


def facts(root: Path) -> dict[str, str]:
    """Everything the colophon states, by name."""
    built = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    packages = {name: version(name) for name in PACKAGES}
    system = {"Commit": commit(root), "Built": built, "Device": device(), "System": platform.system()}
    return {**system, "Python": platform.python_version(), **packages}


class Colophon(SphinxDirective):
    """A field list of :func:`facts`."""

    def run(self):
        """Read the facts at every build."""
        self.env.note_reread()
        items = [
            nodes.field("", nodes.field_name("", name), nodes.field_body("", nodes.paragraph("", text)))
            for name, text in facts(Path(self.env.srcdir)).items()
        ]
        return [nodes.field_list("", *items, classes=["colophon"])]


def setup(app):
    app.add_directive("colophon", Colophon)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

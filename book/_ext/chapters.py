"""The chapters of the book, as the folder has them: ``book/NN-name.md``."""

from pathlib import Path


def sources(root: Path) -> list[Path]:
    """Sources of the chapters, in order."""
    return sorted((root / "book").glob("[0-9][0-9]-*.md"))


def number(source: Path) -> int:
    """Number of a chapter, which begins the file's name."""
    return int(source.name[:2])


def title(source: Path) -> str:
    """Text of a chapter's first heading."""
    lines = source.read_text(encoding="utf-8").splitlines()
    headings = [line[2:].strip() for line in lines if line.startswith("# ")]
    if not headings:
        raise ValueError(f"{source.name}: no line begins with '# '; a chapter needs a title")
    return headings[0]

"""What a reader of our pages copies: commands, YAML, and flags for helm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "charts/modelfleet/README.md")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FLAGS = re.compile(r"`(--set[a-z-]* [^`]+)`")


def commands(page: Path) -> Iterator[str]:
    """Each line after a `$ `, with the lines that it goes on in."""
    for language, text in _BLOCK.findall(page.read_text()):
        if language == "console":
            joined = text.replace("\\\n", " ")
            yield from (line[2:].strip() for line in joined.splitlines() if line.startswith("$ "))


def helm_flags(page: Path) -> Iterator[str]:
    """`--set …` in running text and tables, as a shell gets it."""
    yield from _FLAGS.findall(page.read_text().replace("\\|", "|"))


def documents(page: Path) -> Iterator[Any]:
    """Each YAML document of a page, or of a file of YAML."""
    if page.suffix == ".yaml":
        yield from (document for document in yaml.safe_load_all(page.read_text()) if document)
        return
    for language, text in _BLOCK.findall(page.read_text()):
        if language == "yaml":
            yield from (document for document in yaml.safe_load_all(text) if document)


def of(pages: list[Path], found: Any) -> list[tuple[str, Any]]:
    """Name of the page and what was found there, for a parametrized test."""
    return [(str(page.relative_to(ROOT)), each) for page in pages for each in found(page)]

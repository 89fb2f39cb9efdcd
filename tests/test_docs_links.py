"""What the pages link to and name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = ("operator", "gateway", "worker", "process", "proto", "tests", "tools", "e2e", "benchmarks")
FILES = [
    *(file for file in ROOT.iterdir() if file.is_file()),
    *(f for folder in (*CODE, "charts", "docs", "findings") for f in (ROOT / folder).rglob("*.*")),
]
PAGES = sorted(str(file.relative_to(ROOT)) for file in FILES if file.suffix == ".md")


def prose(page: Path) -> str:
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings: "## A step in `explain`" -> a-step-in-explain."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_resolves(page: str):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(ROOT / page))):
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        if "://" not in target:
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", ["docs/extending.md", "docs/walkthrough.md"])
def test_every_file_and_function_that_is_named_exists(page: str):
    words = re.findall(r"`([^`\n]+)`", prose(ROOT / page))
    paths = [file.as_posix() for file in FILES]
    for word in words:
        if re.fullmatch(r"[\w./-]+\.(py|cpp|h|md|yaml|json|proto)", word):
            assert any(path.endswith(f"/{word}") for path in paths), word
    code = "".join(f.read_text() for f in FILES if f.suffix in {".py", ".cpp", ".h"})
    for name in {found for word in words for found in re.findall(r"(\w+)\(", word)}:
        assert re.search(rf"\b(def|class) {name}\b|\b{name}\(", code), name

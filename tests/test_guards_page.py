"""docs/security.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = re.findall(
    r"^\| (\d+)\. .* \| (.*) \|$", (ROOT / "docs/security.md").read_text(), re.MULTILINE
)


def test_each_guard_has_a_row():
    guards = [*range(1, 28)]
    assert [int(number) for number, _ in ROWS] == guards


@pytest.mark.parametrize(("number", "tests"), ROWS)
def test_its_tests_exist(number: str, tests: str):
    named = re.findall(r"`([^`:]+)::(\w+)`", tests)
    assert named, number
    for file, name in named:
        source = (ROOT / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{file}::{name}"

"""docs/troubleshooting.md explains every reason that a condition can have, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from modelfleet_operator.decisions.reasons import Reason

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def explained() -> list[str]:
    """The reasons in the first column of the tables that have one."""
    found: list[str] = []
    is_of_reasons = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            is_of_reasons = False
        elif line.startswith("| reason |"):
            is_of_reasons = True
        elif is_of_reasons and not line.startswith("|---"):
            found += re.findall(r"`(\w+)`", line.split("|")[1])
    return found


def test_every_reason_is_explained_once():
    assert sorted(explained()) == sorted(reason.value for reason in Reason)

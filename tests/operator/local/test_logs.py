"""Which files are a deployment's, and what of them is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelfleet_operator.errors import LogsError
from modelfleet_operator.local.logs import find_logs, follow, last_lines


def log(folder: Path, name: str, text: str, age: int = 0) -> Path:
    file = folder / f"{name}.log"
    file.write_text(text)
    os.utime(file, (1000 - age, 1000 - age))
    return file


def test_finds_the_workers_of_one_deployment_the_latest_last(tmp_path: Path):
    log(tmp_path, "default.smol-0123abcd-0", "new")
    log(tmp_path, "default.smol-89abcdef-1", "old", age=9)
    log(tmp_path, "default.smol-chat-0123abcd-0", "another's, whose name begins alike")
    log(tmp_path, "b.smol-0123abcd-0", "of another namespace")
    log(tmp_path, "gateway", "no worker")
    assert list(find_logs(tmp_path, "default/smol")) == ["smol-89abcdef-1", "smol-0123abcd-0"]
    with pytest.raises(LogsError, match="no worker of default/none"):
        find_logs(tmp_path, "default/none")


@pytest.mark.parametrize(("count", "lines"), [(2, ["b", "c"]), (9, ["a", "b", "c"]), (0, [])])
def test_the_last_lines(tmp_path: Path, count: int, lines: list[str]):
    file = log(tmp_path, "x", "a\nb\nc\n")
    assert last_lines(file, count) == (lines, 6)
    assert last_lines(file, -1) == (["a", "b", "c"], 6)


def test_goes_on_with_what_is_written_later_also_by_a_new_worker(tmp_path: Path):
    file = log(tmp_path, "default.smol-0123abcd-0", "before\n")
    lines = follow(tmp_path, "default/smol", {"smol-0123abcd-0": last_lines(file, 0)[1]})
    with file.open("a") as opened:
        opened.write("after\nhalf")
    assert next(lines) == ("smol-0123abcd-0", "after")
    with file.open("a") as opened:
        opened.write(" a line\n")
    assert next(lines) == ("smol-0123abcd-0", "half a line")
    log(tmp_path, "default.smol-0123abcd-1", "hello\n")
    assert next(lines) == ("smol-0123abcd-1", "hello")

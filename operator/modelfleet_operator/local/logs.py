"""The logs of workers that run, or ran, on this machine."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import LogsError

INTERVAL = 0.3  # seconds between two looks of `follow`


def find_logs(folder: Path, key: str) -> dict[str, Path]:
    """Of `namespace/name`: worker -> its file, the one that wrote last at the end. LogsError."""
    namespace, name = key.split("/")
    # As `decisions.names` makes them: NAME-REVISION-ORDINAL.
    worker = re.compile(rf"{re.escape(namespace)}\.({re.escape(name)}-[0-9a-f]{{8}}-\d+)\.log")
    found = {}
    for file in sorted(folder.glob("*.log"), key=lambda file: file.stat().st_mtime):
        if match := worker.fullmatch(file.name):
            found[match[1]] = file
    if not found:
        raise LogsError(f"no worker of {key} has written a log in {folder} yet")
    return found


def last_lines(file: Path, count: int) -> tuple[list[str], int]:
    """The last `count` lines (negative: all), and where the file ended, in bytes."""
    content = file.read_bytes()
    lines = content.decode(errors="replace").splitlines()
    return (lines if count < 0 else lines[max(len(lines) - count, 0) :]), len(content)


def follow(folder: Path, key: str, ends: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Worker and line of all that is written from now on, by workers that start later, too.

    `ends` says up to which byte each worker's file was read already.
    """
    places = dict(ends)
    rests: dict[str, bytes] = {}
    while True:
        for worker, file in find_logs(folder, key).items():
            with file.open("rb") as opened:
                opened.seek(places.get(worker, 0))
                written = opened.read()
                places[worker] = opened.tell()
            *lines, rests[worker] = (rests.get(worker, b"") + written).split(b"\n")
            for line in lines:
                yield worker, line.decode(errors="replace")
        time.sleep(INTERVAL)

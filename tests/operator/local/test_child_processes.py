from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from modelfleet_operator.errors import PassingError
from modelfleet_operator.local.processes import Child


async def start(tmp_path: Path, code: str, lines: list[str] | None = None) -> Child:
    return await Child.start(
        [sys.executable, "-c", code],
        address_file=tmp_path / "address",
        log_file=tmp_path / "log",
        show=(lines if lines is not None else []).append,
    )


async def test_tells_where_it_listens_what_it_said_and_why_it_ended(tmp_path: Path):
    lines: list[str] = []
    code = """
import sys
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open(flags["--address-file"], "w").write("127.0.0.1:7")
print("x" * 200_000)
print("error: out of luck", flush=True)
print("last words")
sys.exit(3)
"""
    child = await start(tmp_path, code, lines)
    assert await child.address() == "127.0.0.1:7"
    assert await child.wait() == 3
    assert lines == ["x" * 200_000, "error: out of luck", "last words"]
    assert (tmp_path / "log").read_text().endswith("last words\n")
    assert child.why_it_ended() == "exit code 3: error: out of luck"


async def test_one_that_ends_before_it_listens_has_no_address(tmp_path: Path):
    (tmp_path / "address").write_text("of an earlier one")
    child = await start(tmp_path, "pass")
    assert await child.address() is None


async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("modelfleet_operator.local.processes.KILL_DELAY", 0.2)
    lines: list[str] = []
    code = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""
    child = await start(tmp_path, code, lines)
    while not lines:
        await asyncio.sleep(0.01)
    started = time.monotonic()
    assert await child.end(0.1) == -signal.SIGKILL
    assert time.monotonic() - started < 5
    assert child.why_it_ended() == "ended by SIGKILL"


async def test_a_stopped_process_hears_that_it_should_end(tmp_path: Path):
    child = await start(tmp_path, "import time; time.sleep(60)")
    child.send(signal.SIGSTOP)
    assert await child.end(30) == -signal.SIGTERM


async def test_a_signal_to_one_that_just_ended_costs_nothing(tmp_path: Path):
    child = await start(tmp_path, "import sys; sys.exit(5)")
    while child.is_running:
        child.send(signal.SIGCONT)
        await asyncio.sleep(0.01)
    assert await child.wait() == 5, "its exit code was not lost"


async def test_a_program_that_is_not_there_is_a_passing_error(tmp_path: Path):
    with pytest.raises(PassingError, match="no-such-program"):
        await Child.start(
            ["/no-such-program"],
            address_file=tmp_path / "a", log_file=tmp_path / "l", show=print,
        )  # fmt: skip

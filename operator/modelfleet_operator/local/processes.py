"""Child processes: started apart from our terminal, logged, and never left behind."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ..errors import PassingError

KILL_DELAY = 5.0  # seconds beyond its own drain that a process may take to end
TAIL = 20  # lines of output that are remembered
POLL = 0.02  # seconds between reads of the address file of a process that starts
OUTPUT_DELAY = 1.0  # seconds to wait for the last lines of a process that ended


class Child:
    """One running process. Its output goes to a file and, line by line, to `show`."""

    def __init__(
        self, process: asyncio.subprocess.Process, address_file: Path, log_file: Path
    ) -> None:
        self._process = process
        self._address_file = address_file
        self._log_file = log_file
        self._tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        self._output: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        address_file: Path,
        log_file: Path,
        show: Callable[[str], None],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Child:
        """Adds what every part understands, and `environment` to our own.

        PassingError if there is no room for a process now.
        """
        address_file.unlink(missing_ok=True)  # noqa: ASYNC240  a local file, microseconds
        flags = ("--address-file", str(address_file), "--die-with-parent")
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                *flags,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,  # Ctrl-C reaches us only, and we end things in order
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )
        except OSError as error:
            raise PassingError(f"cannot start {command[0]}: {error.strerror}") from error
        child = cls(process, address_file, log_file)
        child._output = asyncio.create_task(child._pump(show))
        return child

    def log_into(self, log_file: Path) -> None:
        """What it says from now on goes to this file."""
        self._log_file = log_file

    @property
    def pid(self) -> int:
        """Of a process that may have ended."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was not reaped yet."""
        return self._process.returncode is None

    async def address(self) -> str | None:
        """host:port as soon as it listens; None if it ends before."""
        # The file is the only sign of it.
        while (address := self._read_address()) is None and self.is_running:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        return address

    async def wait(self) -> int:
        """The exit code, minus a signal's number if one ended it; then its output is complete."""
        code = await self._process.wait()
        if self._output is not None:
            # A grandchild may hold the pipe open; its output is not waited for.
            await asyncio.wait([self._output], timeout=OUTPUT_DELAY)
        return code

    async def end(self, drain_timeout: float) -> int:
        """SIGTERM, and SIGKILL when draining takes longer than it may."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # a suspended process gets SIGTERM only when it continues
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_timeout + KILL_DELAY):
                return await self.wait()
        self.send(signal.SIGKILL)
        return await self.wait()

    def send(self, number: signal.Signals) -> None:
        """A signal, if it still runs."""
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                # Popen's own send_signal would reap a child that just exited, before asyncio does.
                os.kill(self.pid, number)

    def _read_address(self) -> str | None:
        try:
            return self._address_file.read_text().strip()
        except FileNotFoundError:
            return None

    def why_it_ended(self) -> str:
        """One line for a person, after `wait`."""
        code = self._process.returncode or 0
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        errors = [line for line in self._tail if "error" in line.lower()]
        last = (errors or list(self._tail) or [""])[-1]
        return f"{how}: {last}" if last and code >= 0 else how

    async def _pump(self, show: Callable[[str], None]) -> None:
        """In chunks, since a line may be longer than any buffer."""
        assert self._process.stdout is not None  # noqa: S101  it was started with a pipe
        rest = b""
        written = self._log_file
        file = written.open("ab", buffering=0)
        try:
            while chunk := await self._process.stdout.read(1 << 16):
                if written != self._log_file:
                    file.close()
                    written = self._log_file
                    file = written.open("ab", buffering=0)
                file.write(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(line, show)
        finally:
            file.close()
        self._say(rest, show)

    def _say(self, line: bytes, show: Callable[[str], None]) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._tail.append(text)
            show(text)

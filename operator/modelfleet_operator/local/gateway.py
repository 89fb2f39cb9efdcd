"""The gateway's process: started, watched, started again when it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from modelfleet_process.addresses import dialled_here, join_address, split_address

from ..decisions.memory import STABLE, back_off
from ..errors import StartError
from .processes import Child

POLL = 0.05  # seconds between readiness checks while it starts
ATTEMPTS = 3  # starts that may fail before it was ready for the first time
USAGE_ERROR = 2  # exit code of a command line that the gateway refuses

log = structlog.get_logger()


class Gateway:
    """`run` keeps one gateway process running until `end`."""

    def __init__(
        self,
        host: str,
        port: int,
        flags: Sequence[str],
        folder: Path,
        log_file: Path,
        show: Callable[[str], None],
        on_ready: Callable[[str], None],
        *,
        has_tls: bool = False,
    ) -> None:
        """`port` 0 picks one, kept over restarts; `on_ready` gets the endpoint's URL each time.

        `has_tls`: the flags give it a certificate.
        """
        self._scheme = "https" if has_tls else "http"
        self._host = host
        self._port = port
        self._flags = flags
        self._address_file = folder / "gateway"
        self._metrics_file = folder / "gateway-metrics"  # gets the HOST:PORT of /metrics
        self._log_file = log_file
        self._show = show
        self._on_ready = on_ready
        self._child: Child | None = None
        self._is_ending = False

    async def run(self) -> None:
        """Returns after `end`. StartError when it never becomes ready."""
        failures, was_ready = 0, False
        while not self._is_ending:
            started = time.monotonic()
            child = await self._start()
            was_ready = await self._wait_ready(child) or was_ready
            code = await child.wait()
            if self._is_ending:
                return
            if time.monotonic() - started > STABLE:
                failures = 0
            failures += 1
            if not was_ready and (code == USAGE_ERROR or failures >= ATTEMPTS):
                raise StartError(
                    f"the gateway does not start: {child.why_it_ended()} (see {self._log_file})"
                )
            delay = back_off(failures)
            again = f"in {delay:g} s" if delay else "now"
            log.warning(f"the gateway exited ({child.why_it_ended()}): started again {again}")
            await asyncio.sleep(delay)

    async def end(self, drain_timeout: float) -> None:
        """It stops accepting, finishes what it has, and is gone."""
        self._is_ending = True
        if self._child is not None:
            await self._child.end(drain_timeout)

    def kill(self) -> None:
        """SIGKILL."""
        self._is_ending = True
        if self._child is not None:
            self._child.send(signal.SIGKILL)

    async def _start(self) -> Child:
        command = [
            *(sys.executable, "-P", "-m", "modelfleet_gateway"),
            *("--listen", join_address(self._host, self._port), "--gateway-id", "local"),
            *("--metrics-listen", "127.0.0.1:0"),
            *("--metrics-address-file", str(self._metrics_file)),
            *self._flags,
        ]
        self._child = await Child.start(
            command, address_file=self._address_file, log_file=self._log_file, show=self._show
        )
        return self._child

    async def _wait_ready(self, child: Child) -> bool:
        """False if it ends before."""
        import httpx  # 0.1 s, in which the gateway starts

        address = await child.address()
        if address is None:
            return False
        _, self._port = split_address(address)
        # Only whether it answers: its certificate is for other names than this machine's.
        url = f"{self._scheme}://{address}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:  # noqa: S501
            while child.is_running:
                try:
                    if (await client.get("/readyz")).is_success:
                        self._on_ready(f"{self._scheme}://{dialled_here(address)}")
                        return True
                except httpx.TransportError:
                    pass  # it does not accept yet
                await asyncio.sleep(POLL)
        return False


def check_port(host: str, port: int) -> None:
    """StartError if the port cannot be listened on; checked before anything is started."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StartError(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "end what listens there, or choose another --port or --host"
        ) from error

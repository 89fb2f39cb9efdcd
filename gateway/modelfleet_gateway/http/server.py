"""The gateway's process: listen, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from modelfleet_process.addresses import join_address, split_address
from modelfleet_process.tracing import start_tracing
from modelfleet_proto.mtls.credentials import Credentials
from modelfleet_proto.mtls.renewal import Issuer, Renewal

from ..access.keys import KeyRing
from ..errors import StartupError
from ..metrics import Metrics
from ..operator_link.link import OperatorLink
from ..options import Options
from ..routing.dispatch import Dispatcher
from ..tasks import TaskBag, supervise
from .app import App
from .connection import HttpConfig
from .door import Door

BACKLOG: Final = 2048
# Bytes that the kernel holds for a client that does not read: without it these may be megabytes,
# and a stream would run on for minutes before it is seen that no one reads it.
MAX_UNSENT: Final = 64 * 1024
# Bytes that are read of one connection at once: with 200 clients that send as fast as they can, the
# usual 256 KiB would be 50 MB in one turn of the event loop, and streams would wait for it.
RECEIVE_BUFFER: Final = 64 * 1024
ERROR_GRACE: Final = 6  # seconds for errors to reach clients after the drain timeout

log = structlog.get_logger()


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to `serve`."""
        yield


def listen(address: str, flag: str = "--listen") -> socket.socket:
    """A listening socket; StartupError when the address is taken or not ours."""
    host, port = split_address(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if sys.platform == "linux":
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {address}: {error.strerror or error}. "
            f"Choose another address or port with {flag}."
        ) from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """The actual HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return join_address(host, port)


class Gateway:
    """One gateway: give it a listening socket, run it, ask it to stop."""

    def __init__(
        self,
        options: Options,
        listener: socket.socket,
        metrics_listener: socket.socket | None = None,
    ) -> None:
        self._options = options
        self._listener = listener
        self._metrics_listener = metrics_listener
        self.metrics = Metrics()
        self.credentials = Credentials() if options.tls else None
        keys = KeyRing(required=options.require_keys)
        self.dispatcher = Dispatcher(self.metrics, keys, self.credentials)
        self._tracing = start_tracing("modelfleet-gateway", options.gateway_id)
        self.app = App(self.dispatcher, self.metrics, options, self._tracing)
        drain_timeout = int(options.drain_timeout) + ERROR_GRACE
        self._door = Door(options.door) if options.door else None
        config = HttpConfig(
            self.app.api,
            options.limits,
            drain_timeout=drain_timeout,
            door=self._door.context if self._door else None,
        )
        self._server = HttpServer(config)

    async def run(self) -> None:
        """Serves until `drain` is called and the last request has ended."""
        options = self._options
        link = OperatorLink(options.operator, options.gateway_id, self.dispatcher, self.credentials)
        tasks = TaskBag()
        if options.tls is not None and self.credentials is not None:
            issuer = Issuer(
                address=options.tls.issuer,
                token_file=options.tls.token_file,
                authorities=options.tls.authorities_file.read_bytes,
            )
            renewal = Renewal("gateway", issuer, self.credentials)
            tasks.start(supervise("certificate", renewal.run))
        if self._door is not None:
            tasks.start(supervise("the door's certificate", self._door.follow))
        tasks.start(supervise("operator", link.run))
        runner = self.app.runner
        if runner is not None:
            tasks.start(supervise("batches", runner.run))
        probes = HttpServer(HttpConfig(self.app.probes, self._options.limits, drain_timeout=0))
        probing = None
        if self._metrics_listener is not None:
            probing = asyncio.create_task(probes.serve(sockets=[self._metrics_listener]))
        try:
            await self._server.serve(sockets=[self._listener])
            if runner is not None:
                await runner.finish(self.app.stop)
        finally:
            probes.should_exit = True
            await tasks.close()
            if runner is not None:
                await runner.close()
            if probing is not None:
                await probing
            await self.dispatcher.close()
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)

    def drain(self) -> None:
        """Serves on for `linger` seconds, then takes no new requests and finishes running ones.

        What still runs after `drain_timeout` ends with an error; after a second call, at once.
        """
        if self.app.draining.is_set():
            self._server.should_exit = True
            self._end()
            return
        log.info("draining", linger=self._options.linger, timeout=self._options.drain_timeout)
        self.app.draining.set()
        asyncio.get_running_loop().call_later(self._options.linger, self._close)

    def _close(self) -> None:
        self._server.should_exit = True
        asyncio.get_running_loop().call_later(self._options.drain_timeout, self._end)

    def _end(self) -> None:
        if not self.app.stop.done():
            self.app.stop.set_result(None)


async def serve(options: Options) -> None:
    """Runs a gateway until SIGTERM or SIGINT."""
    listener = listen(options.listen)
    metrics_listener = None
    if options.metrics_listen:
        metrics_listener = listen(options.metrics_listen, "--metrics-listen")
    gateway = Gateway(options, listener, metrics_listener)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.drain)
    address = address_of(listener)
    log.info("listening", address=address, operator=options.operator, id=options.gateway_id)
    if not options.require_keys:
        log.info("no API key is asked for, unless the operator says so (--require-keys)")
    if options.address_file is not None:
        write_address(options.address_file, address, "--address-file")
    if metrics_listener is not None and options.metrics_address_file is not None:
        address = address_of(metrics_listener)
        write_address(options.metrics_address_file, address, "--metrics-address-file")
    await gateway.run()
    log.info("stopped")


def write_address(path: Path, address: str, flag: str) -> None:
    """Writes the file as a whole: a reader never sees half of it."""
    try:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(address)
        temporary.replace(path)
    except OSError as error:
        raise StartupError(f"cannot write {flag} {path}: {error.strerror}") from error

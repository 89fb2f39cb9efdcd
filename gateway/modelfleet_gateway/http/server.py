"""The gateway's process: listen, serve, drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from ..errors import StartupError
from ..metrics import Metrics
from ..operator_link.link import OperatorLink
from ..options import Options, split_address
from ..routing.dispatch import Dispatcher
from ..tasks import TaskBag, supervise
from .app import App
from .asgi import CloseOnDrain

KEEP_ALIVE: Final = 75  # seconds; longer than load balancers', so that they close first
BACKLOG: Final = 2048
ERROR_GRACE: Final = 6  # seconds for errors to reach clients after the drain timeout

log = structlog.get_logger()


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, which would end the process by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to `serve`."""
        yield


def listen(address: str) -> socket.socket:
    """A listening socket; StartupError when the address is wrong or taken."""
    host, port = split_address(address, "--listen")
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        raise StartupError(
            f"cannot listen on {address}: {error.strerror or error}. "
            "Choose another address or port with --listen."
        ) from error
    listener.setblocking(False)
    return listener


def address_of(listener: socket.socket) -> str:
    """The actual HOST:PORT."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Gateway:
    """One gateway: give it a listening socket, run it, ask it to stop."""

    def __init__(self, options: Options, listener: socket.socket) -> None:
        self._options = options
        self._listener = listener
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self.metrics)
        self.app = App(self.dispatcher, self.metrics, max_body_bytes=options.max_body_bytes)
        self._server = HttpServer(
            uvicorn.Config(
                CloseOnDrain(self.app.starlette, self.app.draining),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=int(options.drain_timeout) + ERROR_GRACE,
            )
        )

    async def run(self) -> None:
        """Serves until `drain` is called and the last request has ended."""
        link = OperatorLink(self._options.operator, self._options.gateway_id, self.dispatcher)
        tasks = TaskBag()
        tasks.start(supervise("operator", link.run))
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            await tasks.close()
            await self.dispatcher.close()

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
    split_address(options.operator, "--operator")
    gateway = Gateway(options, listener)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.drain)
    address = address_of(listener)
    log.info("listening", address=address, operator=options.operator, id=options.gateway_id)
    if options.address_file is not None:
        write_address(options.address_file, address)
    await gateway.run()
    log.info("stopped")


def write_address(path: Path, address: str) -> None:
    """Writes the file as a whole: a reader never sees half of it."""
    try:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(address)
        temporary.replace(path)
    except OSError as error:
        raise StartupError(f"cannot write --address-file {path}: {error.strerror}") from error

"""The process: starts the gRPC server, loads what it was told to, drains on a signal, ends."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from modelfleet_process.addresses import join_address, split_address
from modelfleet_process.tracing import start_tracing
from modelfleet_proto import worker_pb2, worker_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor
from modelfleet_proto.mtls.access import PlaintextInterceptor

from ..errors import UsageError
from ..loading.device_loaders import Loader
from ..loading.preload import Preload
from ..loading.preload import run as run_preload
from ..spec import ModelSpec
from .lifecycle import Lifecycle
from .service import WorkerService
from .state import State
from .tls import TlsOptions, TlsPort

log = structlog.get_logger()

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name
_MAX_MESSAGE = 64 * 2**20
OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.http2.max_ping_strikes", 0),  # no GOAWAY too_many_pings: gateways ping every 5 s
    # Without this, a second worker on the same port would silently take half of its calls.
    ("grpc.so_reuseport", 0),
)
_STAY_SECONDS = 1.0  # how long a broken worker stays so that Stats can say why
_CLOSE_SECONDS = 2.0  # how long calls may take to end once they were told to


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What the command line says about the process itself."""

    listen: str  # HOST:PORT; port 0 picks one
    worker_id: str
    address_file: Path | None = None  # gets HOST:PORT once calls are taken
    drain_timeout: float = 30.0  # seconds
    asleep: bool = False  # load the model, and take requests only after LoadModel
    tls: TlsOptions | None = None  # None: everything without TLS


class WorkerServer:
    """The gRPC server with its services; start it, then `address` is known."""

    def __init__(self, lifecycle: Lifecycle, options: ServerOptions) -> None:
        self._lifecycle = lifecycle
        self._options = options
        self._tls = TlsPort(options.tls, OPTIONS) if options.tls else None
        credentials = self._tls.credentials if self._tls else None
        self._tracing = start_tracing("modelfleet-worker", options.worker_id)
        self._service = WorkerService(lifecycle, options.worker_id, self._tracing, credentials)
        self._health = HealthServicer()
        interceptors: list[grpc.aio.ServerInterceptor] = [VersionInterceptor("worker")]
        if credentials is not None:
            # The kubelet's probes know no TLS, and ask for nothing but health.
            interceptors += [PlaintextInterceptor([health.SERVICE_NAME], credentials)]
        self._server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
        worker_pb2_grpc.add_WorkerServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._tls is None:
            reflection.enable_server_reflection(
                (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
            )
        self._tasks: list[asyncio.Task[None]] = []
        self.address = ""

    async def start(self) -> None:
        """Takes calls. Raises UsageError if the address cannot be had."""
        host, _ = split_address(self._options.listen)
        try:
            bound = self._server.add_insecure_port(self._options.listen)
        except RuntimeError as error:
            raise UsageError(
                f"cannot listen on {self._options.listen}: is the port taken, is the host ours?"
            ) from error
        await self._server.start()
        self.address = join_address(host, bound)
        self._tasks = [
            asyncio.create_task(self._lifecycle.watch_engine()),
            asyncio.create_task(self._follow_health()),
        ]
        if self._tls is not None:
            self._tasks += [asyncio.create_task(self._tls.run(self._service))]

    async def stop(self) -> None:
        """Ends all calls and the engine."""
        self._service.close()
        await self._health.enter_graceful_shutdown()
        ends = [self._tls.stop(_CLOSE_SECONDS)] if self._tls is not None else []
        await asyncio.gather(self._server.stop(_CLOSE_SECONDS), *ends)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lifecycle.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    async def _follow_health(self) -> None:
        changed, seen = self._lifecycle.changed, -1
        while True:
            seen = await changed.wait_after(seen)
            serves = self._lifecycle.status.state is State.READY
            status = health_pb2.HealthCheckResponse.ServingStatus.Value(
                "SERVING" if serves else "NOT_SERVING"
            )
            for service in (health.OVERALL_HEALTH, SERVICE):
                await self._health.set(service, status)


async def serve(
    options: ServerOptions,
    loader: Loader,
    spec: ModelSpec | None,
    preload: Preload | None = None,
) -> int:
    """Runs until a signal or a broken engine; returns the exit code. Raises UsageError."""
    lifecycle = Lifecycle(loader)
    server = WorkerServer(lifecycle, options)
    await server.start()
    signalled = _on_signals(lifecycle, options.drain_timeout)
    if options.address_file is not None:
        _write_whole(options.address_file, server.address)
    age = time.time() - psutil.Process().create_time()  # imports, most of it
    log.info("listening", address=server.address, after=round(age, 3))
    if spec is not None:
        (lifecycle.sleep if options.asleep else lifecycle.load)(spec)
    preloading = asyncio.create_task(run_preload(preload)) if preload is not None else None

    ends = [asyncio.create_task(event.wait()) for event in (signalled, lifecycle.broken)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if signalled.is_set():
        drained = asyncio.create_task(lifecycle.drained())
        await asyncio.wait([drained, ends[1]], return_when=asyncio.FIRST_COMPLETED)
    else:
        await asyncio.sleep(_STAY_SECONDS)
    if preloading is not None:
        preloading.cancel()
    await server.stop()
    log.info("ended", broken=lifecycle.broken.is_set())
    return 1 if lifecycle.broken.is_set() else 0


def _on_signals(lifecycle: Lifecycle, drain_timeout: float) -> asyncio.Event:
    """The first SIGTERM or SIGINT drains, a second one hands over at once."""
    signalled = asyncio.Event()

    def drain() -> None:
        lifecycle.drain(0.0 if signalled.is_set() else drain_timeout)
        signalled.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain)
    return signalled


def _write_whole(path: Path, text: str) -> None:
    """Readers see the old content or the new, never a part. Raises UsageError."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise UsageError(f"cannot write --address-file {path}: {error.strerror}") from error

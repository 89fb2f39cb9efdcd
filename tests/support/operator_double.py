"""An operator that pushes the views that a test sets."""

import asyncio

import grpc

from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.handshake import VersionInterceptor
from modelfleet_proto.mtls.credentials import Credentials


class OperatorDouble(fleet_pb2_grpc.FleetServicer):
    """Pushes the views that a test sets, and keeps what gateways say."""

    def __init__(self) -> None:
        self.view = fleet_pb2.View(term=1, version=1)
        self.redirect = ""
        self.changes: list[fleet_pb2.ViewChange] = []  # sent next, instead of a view
        self.heartbeat: float | None = None  # seconds; None: as versions before there were any
        self.hellos: list[str] = []
        self.instances: list[str] = []  # of the gateways that said hello
        self.signals: list[fleet_pb2.Signals] = []
        self.address = ""
        self.credentials: Credentials | None = None  # with TLS
        self._changed: set[asyncio.Event] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        server = grpc.aio.server(
            interceptors=(VersionInterceptor("operator"),),
            options=(("grpc.http2.max_ping_strikes", 0),),
        )
        fleet_pb2_grpc.add_FleetServicer_to_server(self, server)
        where = self.address or "127.0.0.1:0"
        if self.credentials is None:
            port = server.add_insecure_port(where)
        else:
            port = server.add_secure_port(where, self.credentials.server())
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    def push(self, view: fleet_pb2.View) -> None:
        self.view = view
        for event in self._changed:
            event.set()

    def change(self, change: fleet_pb2.ViewChange) -> None:
        self.changes.append(change)
        for event in self._changed:
            event.set()

    async def Connect(self, requests, context):  # noqa: N802 - the protocol's name
        if self.redirect:
            yield fleet_pb2.OperatorMessage(redirect=fleet_pb2.Redirect(address=self.redirect))
            return
        changed = asyncio.Event()
        self._changed.add(changed)

        async def read():
            async for message in requests:
                if message.WhichOneof("message") == "hello":
                    self.hellos.append(message.hello.gateway_id)
                    self.instances.append(message.hello.instance_id)
                else:
                    self.signals.append(message.signals)

        reader = asyncio.create_task(read())
        try:
            while True:
                if self.changes:
                    yield fleet_pb2.OperatorMessage(change=self.changes.pop(0))
                else:
                    yield fleet_pb2.OperatorMessage(view=self.view)
                while not changed.is_set():
                    try:
                        async with asyncio.timeout(self.heartbeat):
                            await changed.wait()
                    except TimeoutError:
                        yield fleet_pb2.OperatorMessage()
                changed.clear()
        finally:
            reader.cancel()
            self._changed.discard(changed)

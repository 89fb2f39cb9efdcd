"""A served Fleet service, and the gateway's side of its streams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc

from modelfleet_operator.decisions.view import ModelView, WorkerRoute
from modelfleet_operator.fleet.service import FleetService, serve
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2
from modelfleet_proto.handshake import call_metadata

MODEL, WORKER = "default/tiny", "default/tiny-aaaa-0"


def a_model(*workers: WorkerRoute, model: str = MODEL) -> ModelView:
    return ModelView(
        model=model,
        served_names=("tiny",),
        max_queue=5,
        hold_timeout=30,
        created=1000,
        workers=workers,
        eta=0,
        phase="",
    )


def at(address: str, *, routable: bool = True) -> WorkerRoute:
    return WorkerRoute(id=WORKER, address=address, routable=routable, revision="aaaa")


@dataclass
class Service:
    """A served FleetService with a clock that the test moves, and what it woke."""

    fleet: FleetService
    port: int
    now: list[float]
    woken: list[str] = field(default_factory=list)

    async def until(self, condition) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def service(*models: str, lead: bool = True) -> AsyncIterator[Service]:
    now, woken = [1000.0], []
    fleet = FleetService(lambda: now[0], wake=woken.append, wake_all=lambda: woken.append("all"))
    if lead:
        fleet.lead(3, models)
    server, port = await serve(fleet, "127.0.0.1:0")
    try:
        yield Service(fleet=fleet, port=port, now=now, woken=woken)
    finally:
        await server.stop(0)


class GatewayDouble:
    """The gateway's side of one stream."""

    def __init__(self, call) -> None:
        self._call = call

    async def message(self):
        return await asyncio.wait_for(self._call.read(), 5)

    async def receive(self):
        """What is no heartbeat."""
        while (message := await self.message()).WhichOneof("message") is None:
            pass
        return message

    async def view(self):
        message = await self.receive()
        assert message.HasField("view"), message
        return message.view

    async def change(self):
        message = await self.receive()
        assert message.HasField("change"), message
        return message.change

    async def say_partly(self, version: int, *models: fleet_pb2.ModelSignals) -> None:
        signals = fleet_pb2.Signals(term=3, version=version, models=models, partial=True)
        await self._call.write(fleet_pb2.GatewayMessage(signals=signals))

    async def say(self, view, *, waiting=0, running=0, reachable=None, stats=None) -> None:
        """Signals that acknowledge this view."""
        workers = []
        if reachable is not None:
            workers = [fleet_pb2.WorkerSignals(worker_id=WORKER, reachable=reachable, stats=stats)]
        models = [
            fleet_pb2.ModelSignals(model=m.model, waiting=waiting, running=running)
            for m in view.models
        ]
        await self.send(
            fleet_pb2.Signals(term=view.term, version=view.version, models=models, workers=workers)
        )

    async def send(self, signals: fleet_pb2.Signals) -> None:
        await self._call.write(fleet_pb2.GatewayMessage(signals=signals))


@contextlib.asynccontextmanager
async def connected(
    service: Service, name="gw", version=None, takes_changes=False, instance=""
) -> AsyncIterator[GatewayDouble]:
    metadata = call_metadata("gateway", version) if version else call_metadata("gateway")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        call = fleet_pb2_grpc.FleetStub(channel).Connect(metadata=metadata)
        hello = fleet_pb2.GatewayHello(
            gateway_id=name, takes_changes=takes_changes, instance_id=instance
        )
        await call.write(fleet_pb2.GatewayMessage(hello=hello))
        yield GatewayDouble(call)
        call.cancel()


READY = worker_pb2.Stats(state=worker_pb2.WORKER_STATE_READY, slots=8, running=2, waiting=1)

"""A gateway of the scale benchmark: it reaches every worker, and tells of a load that changes.

It says only what every version of the contract has, so that builds can be measured beside others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc

from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2
from modelfleet_proto.handshake import call_metadata

PAUSE = 0.5  # seconds between signals, as a gateway has it
RUNNING = (0, 3, 9, 5)  # requests of one model, in turn: each change is news to the operator
TOKENS = 200  # of one request, prompt and answer each


@dataclass
class FakeGateway:
    """`rate`: models a second whose load changes; 0: none, and only heartbeats pass."""

    address: str
    rate: float = 0.0
    _view: dict[str, fleet_pb2.ModelView] = field(default_factory=dict)
    _term: int = 0
    _version: int = 0
    _requests: dict[str, int] = field(default_factory=dict)  # by model, since the start
    _news: set[str] = field(default_factory=set)  # models to tell of with the next signals
    _is_whole: bool = True  # whether the next signals are of all models

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """While the block runs; a stream that ends fails it."""
        task = asyncio.create_task(self._run())
        try:
            yield
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(self.address, options=options) as channel:
            stub = fleet_pb2_grpc.FleetStub(channel)
            call = stub.Connect(self._messages(), metadata=call_metadata("gateway"))
            async for message in call:
                match message.WhichOneof("message"):
                    case "view":
                        self._take_view(message.view)
                    case "change":
                        self._take_change(message.change)
        raise RuntimeError("the operator ended the gateway's stream")

    def _take_view(self, view: fleet_pb2.View) -> None:
        self._term, self._version = view.term, view.version
        self._view = {model.model: model for model in view.models}
        self._is_whole = True

    def _take_change(self, change: fleet_pb2.ViewChange) -> None:
        self._version = change.version
        for name in change.removed:
            self._view.pop(name, None)
        for model in change.models:
            self._view[model.model] = model
            self._news.add(model.model)

    async def _messages(self) -> AsyncIterator[fleet_pb2.GatewayMessage]:
        hello = fleet_pb2.GatewayHello(gateway_id="benchmark", takes_changes=True, instance_id="1")
        yield fleet_pb2.GatewayMessage(hello=hello)
        due = 0.0
        for turn in itertools.count():
            await asyncio.sleep(PAUSE)
            due = due + self.rate * PAUSE if self._view else 0.0
            names = sorted(self._view)
            for number in range(int(due)):
                name = names[(turn * int(self.rate * PAUSE) + number) % len(names)]
                self._requests[name] = self._requests.get(name, 0) + 1
                self._news.add(name)
            due -= int(due)
            yield fleet_pb2.GatewayMessage(signals=self._signals())

    def _signals(self) -> fleet_pb2.Signals:
        told = self._view if self._is_whole else self._news & self._view.keys()
        signals = fleet_pb2.Signals(
            term=self._term, version=self._version, partial=not self._is_whole
        )
        for name in told:
            self._tell(signals, self._view[name])
        self._news.clear()
        self._is_whole = not self._view
        return signals

    def _tell(self, signals: fleet_pb2.Signals, model: fleet_pb2.ModelView) -> None:
        requests = self._requests.get(model.model, 0)
        workers = [worker for worker in model.workers if worker.routable]
        running = RUNNING[requests % len(RUNNING)] if workers else 0
        signals.models.add(
            model=model.model,
            running=running,
            last_request=time.time() if requests else 0.0,
            requests=requests,
            prompt_tokens=requests * TOKENS,
            completion_tokens=requests * TOKENS,
        )
        for worker in model.workers:
            share = running // len(workers) if worker.routable else 0
            stats = worker_pb2.Stats(
                worker_id=worker.worker_id,
                instance_id="1",
                state=worker_pb2.WORKER_STATE_READY,
                model=model.model,
                model_digest="benchmark",
                slots=64,
                running=share,
            )
            signals.workers.add(
                worker_id=worker.worker_id, reachable=True, running=share, stats=stats
            )

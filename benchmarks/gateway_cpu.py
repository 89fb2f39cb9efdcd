"""The gateway's CPU seconds for 1,000 streamed chats, of one or more builds in turn.

python benchmarks/gateway_cpu.py [--checkout DIR ...] [--rounds 3] [--chats 500]

Each checkout brings its own `.venv`; the others are compared with the first. Worker and operator
are doubles in this process; the worker stands in the view four times, with routing by prefix. It is
paced: in each step all requests get one token, so that of a gateway that calls Generate each token
is a message of its own, and of one that calls GenerateMany all tokens of a step are one message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import psutil
from google.protobuf.message import Message

from alternation import compare
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2, worker_pb2_grpc

MODEL = "default/model"
STREAMS = 16  # at once
TOKENS = 32  # of each answer
STEP = 0.01  # seconds
WARMING = 50  # chats before those that count
ROUTES = 4  # in the view: the worker, as if it were several
SAID = [("system", "You are a helpful assistant. " * 40), ("user", "Hello")]
BODY = {
    "model": MODEL,
    "messages": [{"role": role, "content": content} for role, content in SAID],
    "stream": True,
}


class Worker(worker_pb2_grpc.WorkerServicer):
    """Answers every request with the same tokens, one a step."""

    def __init__(self) -> None:
        self._step = asyncio.Event()

    async def run(self) -> None:
        """Takes the time of steps."""
        while True:
            await asyncio.sleep(STEP)
            self._step.set()
            self._step = asyncio.Event()

    async def WatchStats(self, request, context):  # noqa: N802 - the protocol's name
        while True:
            yield worker_pb2.Stats(
                worker_id="w-0",
                state=worker_pb2.WORKER_STATE_READY,
                model=MODEL,
                model_digest="digest",
                slots=STREAMS,
                takes_many=True,
            )
            await asyncio.sleep(1)

    async def Generate(self, request, context):  # noqa: N802 - the protocol's name
        for kind, event in answer():
            if kind == "tokens":
                await self._step.wait()
            yield worker_pb2.GenerateResponse(**{kind: event})

    async def GenerateMany(self, requests, context):  # noqa: N802 - the protocol's name
        running: dict[int, Iterator[tuple[str, Message]]] = {}

        async def read() -> None:
            async for command in requests:
                running[command.number] = answer()

        reading = asyncio.create_task(read())
        while not reading.done():
            await self._step.wait()
            events = worker_pb2.GenerateEvents()
            for number, rest in list(running.items()):
                for kind, event in rest:
                    events.events.add(number=number, **{kind: event})
                    if kind == "tokens" and event.ids[0] < TOKENS - 1:
                        break
                    if kind == "finished":
                        del running[number]
            if events.events:
                yield events


def answer() -> Iterator[tuple[str, Message]]:
    """The events of one request; the end comes with the last token."""
    yield (
        "accepted",
        worker_pb2.Accepted(model_digest="digest", worker_id="w-0", prompt_tokens=9),
    )
    for token in range(TOKENS):
        yield "tokens", worker_pb2.Tokens(ids=[token], text=" word")
    yield (
        "finished",
        worker_pb2.Finished(
            reason=worker_pb2.FINISH_REASON_LENGTH, prompt_tokens=9, completion_tokens=TOKENS
        ),
    )


class Operator(fleet_pb2_grpc.FleetServicer):
    """Sends one view, and heartbeats."""

    def __init__(self, worker_address: str) -> None:
        routes = [
            fleet_pb2.WorkerRoute(worker_id=f"w-{n}", address=worker_address, routable=True)
            for n in range(ROUTES)
        ]
        self.serve(
            fleet_pb2.ModelView(
                model=MODEL,
                max_queue=100,
                hold_timeout=30,
                workers=routes,
                routing_policy="PrefixAware",
            )
        )

    def serve(self, model: fleet_pb2.ModelView) -> None:
        """This is the one model of the view from the next gateway on."""
        self._view = fleet_pb2.View(term=1, version=1, models=[model], takes_partial=True)

    async def Connect(self, requests, context):  # noqa: N802 - the protocol's name
        yield fleet_pb2.OperatorMessage(view=self._view)
        while True:
            await asyncio.sleep(2)
            yield fleet_pb2.OperatorMessage()


@contextlib.asynccontextmanager
async def serving(add_servicer, servicer, largest: int = 4 * 2**20) -> AsyncIterator[str]:
    """The address of a gRPC server on the loopback; `largest`: bytes of a message."""
    # no GOAWAY too_many_pings: gateways ping every 5 s
    options = [("grpc.http2.max_ping_strikes", 0), ("grpc.max_receive_message_length", largest)]
    server = grpc.aio.server(options=options)
    add_servicer(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@contextlib.contextmanager
def gateway(checkout: Path, operator: str) -> Iterator[tuple[psutil.Process, str]]:
    """A checkout's gateway process that listens, and its address."""
    with tempfile.TemporaryDirectory() as scratch:
        address = Path(scratch, "address")
        command = [
            *(checkout / ".venv/bin/python", "-m", "modelfleet_gateway", "--die-with-parent"),
            *("--listen", "127.0.0.1:0", "--operator", operator, "--address-file", str(address)),
        ]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not address.exists():
                assert process.poll() is None, f"the gateway of {checkout} did not start"
                time.sleep(0.02)
            yield psutil.Process(process.pid), address.read_text()
        finally:
            process.kill()
            process.wait()


async def chat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One streamed chat on a connection that is kept; checks that the answer is whole."""
    body = json.dumps(BODY).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    answer = await reader.readuntil(b"\r\n0\r\n\r\n")  # the last chunk
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]
    assert answer.count(b" word") == TOKENS
    assert b"data: [DONE]" in answer


async def chats(address: str, count: int) -> None:
    """So many chats on STREAMS connections."""
    host, _, port = address.partition(":")
    left = iter(range(count))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in left:
            await chat(reader, writer)
        writer.close()

    await asyncio.gather(*(client() for _ in range(STREAMS)))


async def measure(checkout: Path, count: int) -> float:
    """CPU seconds of a checkout's gateway for 1,000 chats."""
    double = Worker()
    stepping = asyncio.create_task(double.run())
    async with (
        serving(worker_pb2_grpc.add_WorkerServicer_to_server, double) as worker,
        serving(fleet_pb2_grpc.add_FleetServicer_to_server, Operator(worker)) as operator,
    ):
        with gateway(checkout, operator) as (process, address):
            await wait_until_ready(address)
            await chats(address, WARMING)
            before = process.cpu_times()
            await chats(address, count)
            after = process.cpu_times()
    stepping.cancel()
    seconds = after.user + after.system - before.user - before.system
    return seconds / count * 1000


async def wait_until_ready(address: str) -> None:
    """Returns when the gateway has its first view."""
    host, _, port = address.partition(":")
    answer = b""
    while not answer.startswith(b"HTTP/1.1 200 "):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()


if __name__ == "__main__":
    compare(measure, (__doc__ or "").partition("\n")[0], "chats", 500)

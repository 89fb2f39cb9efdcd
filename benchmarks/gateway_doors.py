"""The gateway under requests made to take much of it, beside good ones, of one or more builds.

python benchmarks/gateway_doors.py [--checkout DIR ...] [--seconds 20] [--clients 200]

Workers and operator are doubles. The hostile clients, and the worker of the model that they ask,
are processes of their own; all of it stays on the loopback, bounded in time and count.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import uvloop

from gateway_cpu import MODEL, Operator, gateway, serving, wait_until_ready
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2, worker_pb2_grpc

OTHER = "default/other"  # what the hostile clients ask for
LARGEST = 8 * 1024 * 1024  # --max-body-bytes
SLOTS = 4000
TOKENS, PACE = 16, 0.01  # of a good request, seconds a token
STREAM_TOKENS, STREAM_PACE = 400, 0.02  # of the good stream
HOSTILE_MESSAGES = 250_000
SPAWNING = multiprocessing.get_context("spawn")  # gRPC does not survive a fork


class Worker(worker_pb2_grpc.WorkerServicer):
    """Takes every request, and a while for each token."""

    def __init__(self, model: str) -> None:
        self._model = model

    async def WatchStats(self, request, context):  # noqa: N802 - the protocol's name
        while True:
            yield worker_pb2.Stats(
                worker_id=self._model,
                state=worker_pb2.WORKER_STATE_READY,
                model=self._model,
                model_digest="digest",
                slots=SLOTS,
                takes_many=True,
            )
            await asyncio.sleep(1)

    async def Generate(self, request, context):  # noqa: N802 - the protocol's name
        count = request.stop.max_tokens or TOKENS
        pace = STREAM_PACE if count == STREAM_TOKENS else PACE
        accepted = worker_pb2.Accepted(model_digest="digest", worker_id="w", prompt_tokens=1)
        yield worker_pb2.GenerateResponse(accepted=accepted)
        for _ in range(count):
            await asyncio.sleep(pace)
            yield worker_pb2.GenerateResponse(tokens=worker_pb2.Tokens(ids=[1], text=" word"))
        finished = worker_pb2.Finished(
            reason=worker_pb2.FINISH_REASON_STOP, prompt_tokens=1, completion_tokens=count
        )
        yield worker_pb2.GenerateResponse(finished=finished)

    async def GenerateMany(self, requests, context):  # noqa: N802 - the protocol's name
        events: asyncio.Queue[worker_pb2.GenerateEvent] = asyncio.Queue(maxsize=16)
        tasks: dict[int, asyncio.Task[None]] = {}

        async def serve(number: int, request: worker_pb2.GenerateRequest) -> None:
            async for response in self.Generate(request, None):
                kind = response.WhichOneof("event")
                event = {kind: getattr(response, kind)}
                await events.put(worker_pb2.GenerateEvent(number=number, **event))

        async def read() -> None:
            async for command in requests:
                if command.WhichOneof("command") == "start":
                    request = worker_pb2.GenerateRequest.FromString(command.start)
                    tasks[command.number] = asyncio.create_task(serve(command.number, request))
                elif command.cancel:
                    tasks.pop(command.number).cancel()

        reading = asyncio.create_task(read())
        while not reading.done():
            yield worker_pb2.GenerateEvents(events=[await events.get()])


class Fleet(Operator):
    """Knows both models."""

    def __init__(self, addresses: dict[str, str]) -> None:
        models = [
            fleet_pb2.ModelView(
                model=model,
                max_queue=SLOTS,
                hold_timeout=30,
                workers=[fleet_pb2.WorkerRoute(worker_id=model, address=address, routable=True)],
            )
            for model, address in addresses.items()
        ]
        self._view = fleet_pb2.View(term=1, version=1, models=models, takes_partial=True)


def other_worker(told: multiprocessing.Queue) -> None:
    """The hostile clients' worker, in a process of its own; tells its address."""

    async def run() -> None:
        add = worker_pb2_grpc.add_WorkerServicer_to_server
        async with serving(add, Worker(OTHER), LARGEST * 2) as address:
            told.put(address)
            await asyncio.Event().wait()

    asyncio.run(run())


def post(body: bytes, url: str = "/v1/chat/completions") -> bytes:
    """A request."""
    head = f"POST {url} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
    return f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def chat_body(**fields: object) -> bytes:
    """A short chat."""
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": MODEL, "messages": messages, **fields}).encode()


async def answer_to(address: str, sent: bytes) -> tuple[int, float]:
    """Status (0: none) and seconds."""
    host, _, port = address.partition(":")
    began = time.monotonic()
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        raw = await reader.read()
        writer.close()
        return int(raw[9:12] or 0), time.monotonic() - began
    return 0, time.monotonic() - began


def hostile_clients(
    address: str, count: int, seconds: float, answers: multiprocessing.Queue
) -> None:
    """Half of them send the largest body over and over; the other half never send its end."""
    prompt = json.dumps({"model": OTHER, "n": 16, "prompt": ""}).encode()[:-2]
    large = post(prompt + b"x" * (LARGEST - len(prompt) - 2) + b'"}', "/v1/completions")
    statuses: Counter[int] = Counter()

    async def send(number: int) -> None:
        host, _, port = address.partition(":")
        while True:
            if number % 2:
                status, _ = await answer_to(address, large)
                statuses[status] += 1
                await asyncio.sleep(2)  # what Retry-After says
                continue
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(large[:-1])
                await writer.drain()
                statuses[int((await reader.read())[9:12] or 0)] += 1
                writer.close()
            await asyncio.sleep(2)

    async def run() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(send(number) for number in range(count)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # it copies no body
        runner.run(run())
    answers.put(dict(statuses))


async def good_requests(address: str, seconds: float) -> list[float]:
    """Seconds of good requests, one after the other."""
    taken: list[float] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        status, duration = await answer_to(address, post(chat_body(max_tokens=TOKENS)))
        assert status == 200, status
        taken.append(duration)
    return taken


async def gaps(address: str) -> list[float]:
    """Seconds between the pieces of one good stream."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(post(chat_body(max_tokens=STREAM_TOKENS, stream=True)))
    found: list[float] = []
    last, text = 0.0, b""
    while data := await reader.read(65536):
        now = time.monotonic()
        if last:
            found.append(now - last)
        last, text = now, text + data
    writer.close()
    assert text.count(b" word") == STREAM_TOKENS, "the stream is whole"
    return found


@contextlib.asynccontextmanager
async def started(checkout: Path) -> AsyncIterator[tuple[psutil.Process, str]]:
    """A gateway with its doubles, which has answered before."""
    told = SPAWNING.Queue()
    other = SPAWNING.Process(target=other_worker, args=(told,), daemon=True)
    other.start()
    addresses = {OTHER: await asyncio.to_thread(told.get, timeout=60)}
    try:
        async with serving(
            worker_pb2_grpc.add_WorkerServicer_to_server, Worker(MODEL), LARGEST * 2
        ) as addresses[MODEL]:
            add = fleet_pb2_grpc.add_FleetServicer_to_server
            async with serving(add, Fleet(addresses)) as operator:
                with gateway(checkout, operator) as (process, address):
                    await wait_until_ready(address)
                    await good_requests(address, 2)
                    yield process, address
    finally:
        other.kill()
        other.join()


def forget_peak(pid: int) -> None:
    """The peak counts from here."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_memory(pid: int) -> int:
    """Bytes that were resident at once, at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def crowd(checkout: Path, clients: int, seconds: float) -> None:
    """Memory and a good request's time under many large bodies."""
    async with started(checkout) as (process, address):
        quiet = await good_requests(address, seconds / 2)
        forget_peak(process.pid)
        answers = SPAWNING.Queue()
        attack = SPAWNING.Process(
            target=hostile_clients, args=(address, clients, seconds, answers), daemon=True
        )
        attack.start()
        used = process.cpu_times()
        meanwhile = await good_requests(address, seconds)
        used = sum(process.cpu_times()[:2]) - sum(used[:2])
        statuses = await asyncio.to_thread(answers.get, timeout=60)
        attack.join()
        peak = peak_memory(process.pid)
    before, after = statistics.median(quiet), statistics.median(meanwhile)
    print(f"  {clients} clients with {LARGEST >> 20} MiB at n: 16, answers {statuses}:")
    print(
        f"    peak memory {peak >> 20} MiB (bar: 512), {used:.1f} s of a processor in {seconds:g} s"
    )
    print(
        f"    a good request {before:.3f} -> {after:.3f} s, {after / before:.2f}x (bar: 2; "
        f"longest {max(quiet):.3f} -> {max(meanwhile):.3f} s)"
    )


async def shape(checkout: Path) -> None:
    """A chat of very many messages beside a good stream."""
    message = {"role": "user", "content": ""}
    body = {"model": MODEL, "messages": [message] * HOSTILE_MESSAGES}
    hostile = post(json.dumps(body, separators=(",", ":")).encode())
    async with started(checkout) as (_, address):
        quiet = await gaps(address)
        streaming = asyncio.create_task(gaps(address))
        await asyncio.sleep(2)
        status, seconds = await answer_to(address, hostile)
        meanwhile = await streaming
    more = max(meanwhile) - max(quiet)
    print(
        f"  a chat of {HOSTILE_MESSAGES} messages: {status} after {seconds:.2f} s (bar: 400, 1 s)"
    )
    print(
        f"    longest gap of a good stream {max(quiet):.3f} -> {max(meanwhile):.3f} s, "
        f"{more:+.3f} s (bar: +0.3)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--checkout", type=Path, action="append", help="with its own .venv")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=200)
    args = parser.parse_args()
    for checkout in args.checkout or [here]:
        print(checkout)
        asyncio.run(shape(checkout))
        asyncio.run(crowd(checkout, args.clients, args.seconds))


if __name__ == "__main__":
    main()

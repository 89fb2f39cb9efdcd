"""Two workers with different instruction sets: a stream of the one goes on on the other."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import structlog

from gateway_doubles import OperatorDouble, eventually
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.options import Options
from modelfleet_proto import fleet_pb2, worker_pb2_grpc
from modelfleet_proto import worker_pb2 as pb
from native_sets import ONE_OF_EACH_ARITHMETIC
from prepare_smollm2 import model_folder

MODEL = "default/model"
TOKENS = 48
PROMPT = "The history of Rome begins"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(len(ONE_OF_EACH_ARITHMETIC) < 2, reason="needs two kinds of arithmetic"),
]


@dataclass
class WorkerProcess:
    name: str
    process: asyncio.subprocess.Process
    address: str

    async def generate(self, *resumed: int, **resume: str) -> tuple[list[int], str]:
        """An undisturbed answer, or what follows the `resumed` ids."""
        request = pb.GenerateRequest(model=MODEL, prompt=PROMPT, seed=1)
        request.stop.max_tokens, request.stop.ignore_eos = TOKENS, True
        if resume:
            request.resume.CopyFrom(pb.Resume(token_ids=resumed, **resume))
        async with grpc.aio.insecure_channel(self.address) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            events = [event async for event in stub.Generate(request)]
        ids = [i for event in events for i in event.tokens.ids]
        return ids, "".join(event.tokens.text + event.finished.text for event in events)

    async def ready(self) -> pb.Stats:
        """Its Stats once it is."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            async for stats in worker_pb2_grpc.WorkerStub(channel).WatchStats(pb.StatsRequest()):
                if stats.state == pb.WORKER_STATE_READY:
                    return stats
        raise AssertionError("it ended before")


@contextlib.asynccontextmanager
async def worker(name: str, folder: Path) -> AsyncIterator[WorkerProcess]:
    """Named by its instruction set."""
    address = folder / f"{name}.address"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelfleet_worker", "--worker-id", name, "--die-with-parent"),
        *("--address-file", str(address), "--kv-cache-memory", "64Mi"),
        *("--model", MODEL, "--source", model_folder().as_uri()),
        env={**os.environ, "MODELFLEET_ISA": name},
    )
    try:
        await eventually(address.exists, within=30)
        yield WorkerProcess(name, process, address.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def route(process: WorkerProcess) -> fleet_pb2.WorkerRoute:
    return fleet_pb2.WorkerRoute(
        worker_id=process.name, address=process.address, routable=True, revision="r"
    )


async def test_a_killed_workers_stream_goes_on_on_another_set_and_says_how_exactly(tmp_path: Path):
    first_name, other_name = ONE_OF_EACH_ARITHMETIC[:2]
    operator = OperatorDouble()
    await operator.start()
    listener = listen("127.0.0.1:0")
    gateway = Gateway(Options(operator=operator.address), listener)
    running = asyncio.create_task(gateway.run())
    async with worker(first_name, tmp_path) as first, worker(other_name, tmp_path) as other:
        view = fleet_pb2.ModelView(model=MODEL, max_queue=9, hold_timeout=60)
        view.workers.append(route(first))
        operator.push(fleet_pb2.View(term=1, version=2, models=[view]))
        queues = gateway.dispatcher.queues
        await eventually(lambda: MODEL in queues and queues[MODEL].ready_workers == 1, within=60)
        stats = [await process.ready() for process in (first, other)]
        ids, undisturbed = await first.generate()
        assert stats[0].model_digest != stats[1].model_digest
        assert [s.computation.instruction_set for s in stats] == [first_name, other_name]

        body = {"model": MODEL, "prompt": PROMPT, "max_tokens": TOKENS, "seed": 1, "stream": True}
        body |= {"ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True}}
        lines: list[str] = []
        url = f"http://{address_of(listener)}/v1/completions"
        meter = queues[MODEL].meter
        with structlog.testing.capture_logs() as logs:
            async with (
                httpx.AsyncClient(timeout=60) as client,
                client.stream("POST", url, json=body) as answer,
            ):
                async for line in answer.aiter_lines():
                    lines.append(line)
                    if first.process.returncode is None and meter.completion_tokens > 3:
                        first.process.kill()
                        await first.process.wait()
                        view.workers.append(route(other))
                        operator.push(fleet_pb2.View(term=1, version=3, models=[view]))
        chunks = [json.loads(x[6:]) for x in lines if x.startswith("data: {")]
        assert [x for x in lines if x.startswith(":")] == [
            f": continued on {other_name}: approximate"
        ]
        assert chunks[-1]["usage"]["completion_tokens"] == TOKENS
        prints = list(dict.fromkeys(chunk["system_fingerprint"] for chunk in chunks))
        assert prints == [s.model_digest for s in stats]

        # What came is the first one's answer up to some token, and what the other makes of that.
        text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
        [count] = [line["tokens"] for line in logs if line["event"] == "a stream goes on"]
        began = {k: getattr(stats[0], k) for k in ("model_digest", "weights_digest")}
        _, rest = await other.generate(*ids[:count], **began)
        assert text.endswith(rest)
        assert undisturbed.startswith(text.removesuffix(rest))
        exposition = gateway.app.exposition()[0].decode()
        assert f'continued_total{{exactness="approximate",model="{MODEL}"}} 1.0' in exposition
        assert f'lost_total{{model="{MODEL}"}} 0.0' in exposition
    gateway.drain()
    gateway.drain()
    await running
    await operator.stop()

"""A constrained stream whose workers are killed is the answer that it would have been."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft202012Validator

from gateway_doubles import OperatorDouble, eventually
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.options import Options
from modelfleet_proto import fleet_pb2
from prepare_smollm2 import model_folder
from tiny_model import blank_tokens, write_tiny_model

MODEL = "default/model"
WORKERS = 4
SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"kind": {"enum": ["first", "second"]}, "n": {"enum": [1, 20, 300]}},
        "required": ["kind", "n"],
        "additionalProperties": False,
    },
    "minItems": 20,
    "maxItems": 20,
}
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "List them."}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
    "seed": 5,
    "temperature": 1,
    "stream": True,
}

pytestmark = pytest.mark.integration


@dataclass
class WorkerProcess:
    name: str
    process: asyncio.subprocess.Process
    address: str

    @property
    def route(self) -> fleet_pb2.WorkerRoute:
        return fleet_pb2.WorkerRoute(
            worker_id=self.name, address=self.address, routable=True, revision="r"
        )


@contextlib.asynccontextmanager
async def worker(number: int, source: Path, scratch: Path) -> AsyncIterator[WorkerProcess]:
    address = scratch / f"{number}.address"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelfleet_worker", "--worker-id", f"w-{number}"),
        *("--address-file", str(address), "--kv-cache-memory", "16Mi", "--die-with-parent"),
        *("--model", MODEL, "--source", source.as_uri()),
    )
    try:
        await eventually(address.exists, within=60)
        yield WorkerProcess(f"w-{number}", process, address.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_killed_again_and_again_a_constrained_stream_is_the_same(tmp_path: Path):
    source = tmp_path / "model"
    write_tiny_model(source, model_folder(), hidden=128)
    body = BODY | {"logit_bias": dict.fromkeys(map(str, blank_tokens(source)), -100)}
    operator = OperatorDouble()
    await operator.start()
    listener = listen("127.0.0.1:0")
    gateway = Gateway(Options(operator=operator.address), listener)
    running = asyncio.create_task(gateway.run())
    view = fleet_pb2.ModelView(model=MODEL, max_queue=9, hold_timeout=60)

    def show(*workers: WorkerProcess) -> None:
        del view.workers[:]
        view.workers.extend(one.route for one in workers)
        shown = next(versions)
        operator.push(fleet_pb2.View(term=1, version=shown, models=[view]))

    versions = iter(range(2, 100))
    async with contextlib.AsyncExitStack() as stack:
        starting = [
            stack.enter_async_context(worker(number, source, tmp_path)) for number in range(WORKERS)
        ]
        workers = [await start for start in starting]
        queues = gateway.dispatcher.queues
        show(*workers)
        await eventually(
            lambda: MODEL in queues and queues[MODEL].ready_workers == WORKERS, within=90
        )
        meter = queues[MODEL].meter
        url = f"http://{address_of(listener)}/v1/chat/completions"

        async def stream(kill_after: int | None) -> tuple[str, str, int]:
            """The text, how it ended, how often its worker was killed."""
            text, reason, killed, seen = "", "", 0, meter.completion_tokens
            async with (
                httpx.AsyncClient(timeout=60) as client,
                client.stream("POST", url, json=body) as answer,
            ):
                assert answer.status_code == 200, await answer.aread()
                async for line in answer.aiter_lines():
                    if not line.startswith("data: {"):
                        continue
                    [choice] = json.loads(line[6:])["choices"]
                    text += choice["delta"].get("content", "")
                    reason = choice["finish_reason"] or reason
                    came = meter.completion_tokens - seen
                    if kill_after and came >= kill_after * (killed + 1) and killed < WORKERS - 1:
                        serving = next(w for w in queues[MODEL].workers.values() if w.running)
                        doomed = next(w for w in workers if w.name == serving.worker_id)
                        doomed.process.kill()
                        await doomed.process.wait()
                        workers.remove(doomed)
                        killed += 1
                        show(*workers)
            return text, reason, killed

        whole, reason, _ = await stream(kill_after=None)
        assert reason == "stop"
        Draft202012Validator(SCHEMA).validate(json.loads(whole))
        text, reason, killed = await stream(kill_after=10)
        assert (text, reason) == (whole, "stop")
        assert killed > 1
    gateway.drain()
    await running

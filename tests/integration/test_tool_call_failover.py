"""A call of a tool, whose workers are killed one after the other, is that of an undisturbed one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway_doubles import OperatorDouble, eventually
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.options import Options
from modelfleet_proto import fleet_pb2
from prepare_smollm2 import model_folder
from tool_templates import HERMES_WITHOUT_REASONING

pytestmark = pytest.mark.integration

MODEL = "default/model"
WORKERS = 4
PACE = 10  # tokens between kills
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 60},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "notes": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 2},
    },
    "required": ["city", "days", "notes"],
    "additionalProperties": False,
}
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "What will the weather in Oslo be this week?"}],
    "tools": [
        {
            "type": "function",
            "function": {"name": "get_weather", "strict": True, "parameters": SCHEMA},
        }
    ],
    "tool_choice": "required",
    "stream": True,
    "seed": 5,
    "temperature": 0.8,
    "max_tokens": PACE * WORKERS,
}


def with_tools(folder: Path) -> Path:
    """The real model with a chat template that has tools."""
    folder.mkdir()
    for path in model_folder().iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(HERMES_WITHOUT_REASONING)
    return folder


@contextlib.asynccontextmanager
async def worker(name: str, model: Path, folder: Path) -> AsyncIterator[tuple[Any, str]]:
    address = folder / f"{name}.address"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelfleet_worker", "--worker-id", name, "--die-with-parent"),
        *("--address-file", str(address), "--kv-cache-memory", "64Mi"),
        *("--model", MODEL, "--source", model.as_uri()),
    )
    try:
        await eventually(address.exists, within=60)
        yield process, address.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def deltas_of(lines: list[str]) -> list[tuple[Any, ...]]:
    """Kind and text, joined; each call with its ids."""
    joined: list[list[Any]] = []
    ids: dict[int, str] = {}
    for line in lines:
        for choice in json.loads(line[6:])["choices"] if line.startswith("data: {") else ():
            for call in choice["delta"].get("tool_calls", ()):
                function = call["function"]
                if "id" in call:
                    assert call["index"] not in ids
                    ids[call["index"]] = call["id"]
                    joined.append([call["index"], function["name"], ""])
                joined[-1][-1] += function["arguments"]
            if text := choice["delta"].get("content"):
                joined.append(["text", text])
            if reason := choice["finish_reason"]:
                joined.append(["end", reason])
    return [tuple(one) for one in joined]


async def test_sigkill_at_every_tenth_token_gives_the_same_call(tmp_path: Path):
    model = with_tools(tmp_path / "model")
    operator = OperatorDouble()
    await operator.start()
    listener = listen("127.0.0.1:0")
    gateway = Gateway(Options(operator=operator.address), listener)
    running = asyncio.create_task(gateway.run())
    url = f"http://{address_of(listener)}/v1/chat/completions"
    async with contextlib.AsyncExitStack() as stack:
        started = await asyncio.gather(
            *(stack.enter_async_context(worker(f"w-{i}", model, tmp_path)) for i in range(WORKERS))
        )
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=120))
        version = 1

        def route_to(number: int) -> None:
            nonlocal version
            version += 1
            view = fleet_pb2.ModelView(model=MODEL, max_queue=9, hold_timeout=120)
            view.workers.add(
                worker_id=f"w-{number}", address=started[number][1], routable=True, revision="r"
            )
            operator.push(fleet_pb2.View(term=1, version=version, models=[view]))

        async def ask(*, kills: bool) -> tuple[list[tuple[Any, ...]], int]:
            lines, current = [], 0
            route_to(current)
            queues = gateway.dispatcher.queues
            await eventually(lambda: MODEL in queues and queues[MODEL].ready_workers, within=120)
            meter = queues[MODEL].meter
            before = meter.completion_tokens
            async with client.stream("POST", url, json=BODY) as answer:
                assert answer.status_code == 200, await answer.aread()
                async for line in answer.aiter_lines():
                    lines.append(line)
                    due = meter.completion_tokens - before >= PACE * (current + 1)
                    if kills and due and current + 1 < WORKERS:
                        started[current][0].kill()
                        await started[current][0].wait()
                        current += 1
                        route_to(current)
            return deltas_of(lines), current

        undisturbed, _ = await ask(kills=False)
        disturbed, killed = await ask(kills=True)
        assert killed >= 2
        assert disturbed == undisturbed
        assert undisturbed[0][:2] == (0, "get_weather")
        lost = f'lost_total{{model="{MODEL}"}} 0.0'
        assert lost in gateway.app.exposition()[0].decode()
    gateway.drain()
    gateway.drain()
    await running
    await operator.stop()

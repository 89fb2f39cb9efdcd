"""Real worker processes, killed and stopped in the middle of streams."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from gateway_doubles import MODEL, Fleet, ScriptedWorker, eventually, route, running_fleet

pytestmark = pytest.mark.integration

TOKENS = 60


class Paced:
    """One such process."""

    def __init__(self, process: asyncio.subprocess.Process, double: ScriptedWorker, file: Path):
        self.process = process
        self.route = double  # never started: it only names the worker in the view
        self.address_file = file


@contextlib.asynccontextmanager
async def paced_workers(folder: Path, *names: str) -> AsyncIterator[list[Paced]]:
    """Worker processes without a model: they take time and answer with what the request fixes."""
    workers = []
    try:
        for name in names:
            address = folder / f"{name}.address"
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "modelfleet_worker", "--device", "paced", "--model", MODEL),
                *("--source", "file:///none", "--worker-id", name, "--die-with-parent"),
                *("--address-file", str(address)),
            )
            workers.append(Paced(process, ScriptedWorker(name), address))
        for worker in workers:
            await eventually(worker.address_file.exists, within=20)
            worker.route.address = worker.address_file.read_text()
        yield workers
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            await worker.process.wait()


async def ask(fleet: Fleet, number: int, *, stream: bool) -> str:
    fields = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"question {number}"}],
        "max_tokens": TOKENS,
        "seed": number,
        "extra_body": {"ignore_eos": True},
    }
    if not stream:
        answer = await fleet.client.chat.completions.create(**fields)
        return answer.choices[0].message.content
    chunks = await fleet.client.chat.completions.create(**fields, stream=True)
    return "".join([c.choices[0].delta.content or "" async for c in chunks])


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
async def test_8_streams_end_with_the_same_text_when_one_of_two_workers_goes(tmp_path, sent):
    flags = [True, False] * 4
    async with paced_workers(tmp_path, "w-0", "w-1") as workers, running_fleet() as fleet:
        fleet.push(route(*(worker.route for worker in workers)))
        await fleet.ready(2)
        undisturbed = await asyncio.gather(
            *(ask(fleet, number, stream=stream) for number, stream in enumerate(flags))
        )
        asked = [
            asyncio.create_task(ask(fleet, number, stream=stream))
            for number, stream in enumerate(flags)
        ]
        desk = fleet.gateway.dispatcher.desks[MODEL]
        tokens = desk.meter.completion_tokens
        await eventually(lambda: desk.meter.completion_tokens > tokens + 80)
        assert desk.workers["w-0"].running == 4
        workers[0].process.send_signal(sent)
        try:
            assert await asyncio.gather(*asked) == undisturbed
        except openai.APIError as error:
            pytest.fail(str(error))
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
        assert await fleet.metric("modelfleet_gateway_lost_total") == 0
        resumed = await fleet.metric("modelfleet_gateway_resumed_total")
        assert resumed == (0 if sent == signal.SIGTERM else 4), "a drain lets them finish"
        assert await ask(fleet, 0, stream=True) == undisturbed[0], "it goes on serving"

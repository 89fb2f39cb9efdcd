"""Real worker processes, killed and stopped in the middle of streams."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway_doubles import MODEL, Fleet, ScriptedWorker, eventually, model_view, running_fleet
from modelfleet_gateway.routing.channels import METADATA, open_channel

pytestmark = pytest.mark.integration

TOKENS = 60


class Paced:
    """One such process."""

    def __init__(self, process: asyncio.subprocess.Process, double: ScriptedWorker, file: Path):
        self.process = process
        self.double = double  # never started: it only names the worker in the view
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
            worker.double.address = worker.address_file.read_text()
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
        fleet.push(model_view(*(worker.double for worker in workers)))
        await fleet.ready(2)
        undisturbed = await asyncio.gather(
            *(ask(fleet, number, stream=stream) for number, stream in enumerate(flags))
        )
        asked = [
            asyncio.create_task(ask(fleet, number, stream=stream))
            for number, stream in enumerate(flags)
        ]
        queue = fleet.gateway.dispatcher.queues[MODEL]
        tokens = queue.meter.completion_tokens
        await eventually(lambda: queue.meter.completion_tokens > tokens + 80)
        assert queue.workers["w-0"].running == 4
        workers[0].process.send_signal(sent)
        try:
            assert await asyncio.gather(*asked) == undisturbed
        except openai.APIError as error:
            pytest.fail(str(error))
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
        assert await fleet.metric("modelfleet_gateway_lost_total") == 0
        resumed = await fleet.metric("modelfleet_gateway_resumed_total")
        assert resumed == (0 if sent == signal.SIGTERM else 4), "a drain lets them finish"
        assert await ask(fleet, 0, stream=True) == undisturbed[0], "it serves on"


async def test_a_call_without_messages_notices_a_stopped_worker(tmp_path):
    """Keepalive alone: a ping after 5 s of silence, an answer to it within 5 s."""
    async with (
        paced_workers(tmp_path, "w-0") as [worker],
        open_channel(worker.double.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        call = health.Watch(health_pb2.HealthCheckRequest(), metadata=METADATA)
        async with asyncio.timeout(20):  # the model may still be loading
            while (await call.read()).status != health_pb2.HealthCheckResponse.SERVING:
                pass
        await asyncio.sleep(0.5)  # the messages are acknowledged: only a ping can notice it
        worker.process.send_signal(signal.SIGSTOP)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            async with asyncio.timeout(15):
                await call.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def text_of_stream(fleet: Fleet, path: str, number: int) -> str:
    """What an answer of another API says, of all its events."""
    question = f"question {number}"
    body = {
        "/v1/responses": {"input": question, "max_output_tokens": TOKENS, "ignore_eos": True},
        "/v1/messages": {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": TOKENS,
            "temperature": 0,
        },
        "/api/generate": {"prompt": question, "options": {"num_predict": TOKENS, "seed": 1}},
    }[path]
    answer = await fleet.http.post(path, json=body | {"model": MODEL, "stream": True, "seed": 1})
    assert answer.status_code == 200
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    assert events[-1].get("type") in (None, "message_stop", "response.incomplete")
    texts = [
        event["delta"] if path == "/v1/responses" else event.get("delta", event)
        for event in events
        if path != "/v1/responses" or event["type"] == "response.output_text.delta"
    ]
    said = [t if isinstance(t, str) else t.get("text") or t.get("response") or "" for t in texts]
    return "".join(said)


async def test_streams_of_other_apis_are_the_same_when_a_worker_is_killed(tmp_path):
    paths = ["/v1/responses", "/v1/messages", "/api/generate"] * 2
    async with paced_workers(tmp_path, "w-0", "w-1") as workers, running_fleet() as fleet:
        fleet.push(model_view(*(worker.double for worker in workers)))
        await fleet.ready(2)

        def ask_all():
            return asyncio.gather(*(text_of_stream(fleet, p, i) for i, p in enumerate(paths)))

        undisturbed = await ask_all()
        assert all(undisturbed)
        queue = fleet.gateway.dispatcher.queues[MODEL]
        tokens = queue.meter.completion_tokens
        asked = asyncio.ensure_future(ask_all())
        await eventually(lambda: queue.meter.completion_tokens > tokens + 30)
        workers[0].process.send_signal(signal.SIGKILL)
        assert await asked == undisturbed
        assert await fleet.metric("modelfleet_gateway_resumed_total") > 0

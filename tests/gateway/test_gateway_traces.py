"""Traces from the client's header to the worker's steps, and logs that hold nobody's text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from clients import tls
from gateway_doubles import (
    DEFAULTS,
    MODEL,
    OperatorDouble,
    ScriptedWorker,
    eventually,
    model_view,
    running_fleet,
)
from modelfleet_process.tracing import is_configured, read_traceparent, trace_id
from trace_collector import Collector, trace_collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{PARENT}-01"
SECRET = "zanzibar-umbrella"  # a word of a prompt that stands nowhere else
COLLECTED = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": ""}
LOGS = ("--log-level", "debug", "--log-format", "json")


@dataclass
class Part:
    process: asyncio.subprocess.Process
    log: Path
    address: str


@contextlib.asynccontextmanager
async def part(folder: Path, name: str, *command: str, **environment: str) -> AsyncIterator[Part]:
    """A process of ours with its log in a file."""
    address, log = folder / f"{name}.address", folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *command, "--address-file", str(address)),
            *("--die-with-parent", *LOGS),
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
    try:
        await eventually(address.exists, within=30)
        yield Part(process, log, address.read_text())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass
class Traced:
    collector: Collector
    workers: list[Part]
    gateway: Part
    http: httpx.AsyncClient

    def logs(self) -> str:
        return "".join(each.log.read_text() for each in (*self.workers, self.gateway))


@pytest.fixture
async def traced(tmp_path: Path) -> AsyncIterator[Traced]:
    """Two paced workers and a gateway that send their spans to one collector."""
    async with contextlib.AsyncExitStack() as stack:
        collector = await stack.enter_async_context(trace_collector())
        told = {**COLLECTED, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        workers = [
            await stack.enter_async_context(
                part(
                    tmp_path, name, "modelfleet_worker", "--worker-id", name, "--device", "paced",
                    "--model", MODEL, "--source", "file:///none", **told,
                )
            )
            for name in ("w-0", "w-1")
        ]  # fmt: skip
        operator = OperatorDouble()
        await operator.start()
        stack.push_async_callback(operator.stop)
        named = [ScriptedWorker(f"w-{i}", address=w.address) for i, w in enumerate(workers)]
        operator.view.models.append(model_view(*named))
        gateway = await stack.enter_async_context(
            part(
                tmp_path, "gateway", "modelfleet_gateway", "--listen", "127.0.0.1:0",
                "--operator", operator.address, "--access-log", str(tmp_path / "access.jsonl"),
                **told,
            )
        )  # fmt: skip
        http = httpx.AsyncClient(base_url=f"http://{gateway.address}", timeout=30, verify=tls())
        await stack.enter_async_context(http)
        async with asyncio.timeout(60):
            while (await http.get("/readyz")).status_code != httpx.codes.OK:
                await asyncio.sleep(0.05)
        yield Traced(collector, workers, gateway, http)


def chat(**fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": f"Where is the {SECRET} now?"}]
    return {"model": "tiny", "messages": messages, "max_tokens": 40, "ignore_eos": True, **fields}


async def test_one_trace_has_the_request_its_waits_its_workers_and_their_steps(
    traced: Traced, tmp_path: Path
):
    headers = {"traceparent": HEADER}
    async with traced.http.stream(
        "POST", "/v1/chat/completions", json=chat(stream=True), headers=headers
    ) as reply:
        assert reply.status_code == 200, await reply.aread()
        first = traced.workers[int(reply.headers["x-modelfleet-worker"][-1])]
        tokens = 0
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                tokens += 1
                if tokens == 5:
                    first.process.kill()
    collector = traced.collector
    await eventually(lambda: collector.named("chat"))
    await eventually(lambda: collector.named("decode"))
    assert {span.trace for span in collector.spans} == {TRACE}

    (request,) = collector.named("chat")
    assert (request.parent, request.service) == (PARENT, "modelfleet-gateway")
    assert request.name == f"chat {MODEL}"
    said = request.attributes
    assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("tiny", MODEL)
    assert said["gen_ai.usage.output_tokens"] == 40
    assert said["gen_ai.usage.input_tokens"] > 5
    assert said["http.response.status_code"] == 200
    assert 0 < said["modelfleet.time_to_first_token"] < 30
    assert [name for name, _ in request.events] == ["failover", "continued"]
    assert request.events[1][1]["modelfleet.exactness"] == "exact"

    gateways = [span for span in collector.spans if span.parent == request.id]
    assert [span.name for span in sorted(gateways, key=lambda span: span.start)] == [
        "queue", "generate", "queue", "generate",
    ]  # fmt: skip
    lost, second = collector.named("generate")
    assert lost.failed
    assert not second.failed
    assert second.attributes["modelfleet.attempt"] == 2

    # The worker that was killed took its spans with it.
    (worker,) = collector.named("worker")
    assert (worker.parent, worker.service) == (second.id, "modelfleet-worker")
    resumed = worker.attributes["modelfleet.resumed_tokens"]
    assert resumed == request.events[0][1]["modelfleet.tokens"] > 0
    (queue,) = [s for s in collector.named("queue") if s.parent == worker.id]
    (prefill,), (decode,) = collector.named("prefill"), collector.named("decode")
    assert prefill.parent == decode.parent == worker.id
    assert queue.end == prefill.start <= prefill.end == decode.start < decode.end
    assert prefill.attributes["modelfleet.steps"] == 1
    assert decode.attributes["modelfleet.tokens"] == 40 - resumed
    assert decode.attributes["modelfleet.steps"] == 39 - resumed

    (line,) = map(json.loads, (tmp_path / "access.jsonl").read_text().splitlines())
    assert line["trace"] == TRACE


async def test_no_log_and_no_span_has_a_text_of_anybody(traced: Traced, tmp_path: Path):
    schema = {"type": "object", "properties": {SECRET: {"not": {}}}}
    held = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    asked = [
        chat(),
        chat(stream=True),
        chat(max_tokens=100_000),
        chat(messages=[{"role": "user", "content": f"{SECRET} " * 9000}]),
        chat(messages=[{"role": SECRET, "content": SECRET}]),
        chat(response_format=held),
        chat(tools=[{"type": "function", "function": {"name": SECRET, "parameters": schema}}]),
        chat(tool_choice={"type": "function", "function": {"name": SECRET}}),
        chat(stop=[SECRET]),
        chat(**{SECRET: 1}),
        chat(temperature=SECRET),
    ]  # fmt: skip
    replies = [await traced.http.post("/v1/chat/completions", json=body) for body in asked]
    statuses = [reply.status_code for reply in replies]
    body = {"model": "tiny", "prompt": SECRET, "max_tokens": 4}
    statuses.append((await traced.http.post("/v1/completions", json=body)).status_code)
    broken = await traced.http.post(
        "/v1/chat/completions",
        content=f'{{"{SECRET}',
        headers={"content-type": "application/json"},
    )
    statuses.append(broken.status_code)
    assert statuses.count(200) >= 3
    assert statuses.count(400) >= 6
    await eventually(lambda: len(traced.collector.named("chat", "gateway")) == len(asked) + 1)
    assert SECRET not in traced.logs()
    assert SECRET not in (tmp_path / "access.jsonl").read_text()
    assert SECRET not in "".join(traced.collector.raw)
    assert '"event": "finished"' in traced.logs()  # debug lines are there


async def test_without_a_collector_the_clients_context_goes_through(tmp_path: Path):
    worker, path = ScriptedWorker(), tmp_path / "access.jsonl"
    options = replace(DEFAULTS, access_log=str(path))
    async with running_fleet(worker, options=options) as fleet:
        for header in (HEADER, "00-0-0-01", ""):
            body = {"model": "tiny", "prompt": "a"}
            reply = await fleet.http.post(
                "/v1/completions", json=body, headers={"traceparent": header}
            )
            assert reply.status_code == 200
    assert [request.traceparent for request in worker.requests] == [HEADER, "", ""]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["trace"] for line in lines] == [TRACE, None, None]


@pytest.mark.parametrize("start", ["modelfleet_gateway.main", "modelfleet_worker.serving.server"])
async def test_what_does_not_trace_does_not_import_it(start: str):
    code = (
        f"import {start}, sys; from modelfleet_process.tracing import start_tracing; "
        "assert start_tracing('s', 'i') is None; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (HEADER, True),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        (f"{HEADER}\n", False),
        (None, False),
    ],
)
def test_only_a_well_formed_context_is_continued(header: str | None, kept: bool):
    assert read_traceparent(header) == (header if kept else "")
    assert trace_id(read_traceparent(header)) == (TRACE if kept else "")


@pytest.mark.parametrize(
    ("environment", "asks"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_environment_asks_for_traces(environment: dict[str, str], asks: bool):
    assert is_configured(environment) is asks

"""Streams of every API: how they go on elsewhere, how they end, and how they break off."""

import asyncio
import json

import pytest

from answer_parts import call, one_a_token, reasoning, text
from gateway_doubles import ScriptedWorker, eventually, running_fleet
from gateway_streams import hand_over, undisturbed
from raw_http import connect

PARTS = one_a_token(
    reasoning("let me "),
    reasoning("think"),
    text("so"),
    text(" it is"),
    call(0, "f", '{"a"'),
    call(0, "", ": 1}"),
)
HELLO = [{"role": "user", "content": "hello"}]
BODIES = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 100},
    "/api/chat": {"messages": HELLO},
    "/api/generate": {"prompt": "hello"},
}
PARSED = [path for path in BODIES if path != "/v1/completions"]
# What an answer has by chance, or by the clock.
CHANGING = (
    "id",
    "item_id",
    "call_id",
    "created",
    "created_at",
    "completed_at",
    "encrypted_content",
)
END = {
    "/v1/chat/completions": b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/responses": b"response.completed",
    "/v1/messages": b"message_stop",
    "/api/chat": b'"done":true',
    "/api/generate": b'"done":true',
}


def without_chance(value: object) -> object:
    if isinstance(value, list):
        return [without_chance(one) for one in value]
    if isinstance(value, dict):
        return {
            name: without_chance(one)
            for name, one in value.items()
            if name not in CHANGING and not name.endswith("_duration")
        }
    return value


def events_of(raw: str) -> list[object]:
    """The JSON of a stream, whichever API's."""
    lines = [line.removeprefix("data: ") for line in raw.splitlines()]
    return [without_chance(json.loads(line)) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("path", PARSED)
async def test_goes_on_elsewhere_with_the_same_events(path: str):
    body = {"model": "tiny", "stream": True, "seed": 7, "options": {"seed": 7}} | BODIES[path]
    first, second = ScriptedWorker("w-0", parts=PARTS), ScriptedWorker("w-1", parts=PARTS)
    async with running_fleet(first, second) as fleet:
        whole = await fleet.http.post(path, json=body)
        first.before_token = second.before_token = once(hand_over)
        disturbed = await fleet.http.post(path, json=body)
        await undisturbed(fleet)
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 1
    assert events_of(disturbed.text) == events_of(whole.text)
    is_sse = not path.startswith("/api/")
    assert (": continued on" in disturbed.text) == is_sse, "lines of JSON have no comments"


def once(fault):
    """Only the first time that it would do anything."""
    has_happened = False

    async def run(context, request, position):
        nonlocal has_happened
        if not has_happened:
            has_happened = position == 3
            await fault(context, request, position)

    return run


async def exchange(url: str, path: str, body: dict) -> bytes:
    """All that comes on the connection of one request."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n"
    reader, writer = await connect(url)
    writer.write(f"{head}content-type: application/json\r\nconnection: close\r\n\r\n".encode())
    writer.write(data)
    async with asyncio.timeout(30):
        raw = await reader.read()
    writer.close()
    return raw


@pytest.mark.parametrize("path", BODIES)
async def test_a_whole_stream_ends_in_good_order_and_no_other_does(path: str):
    async def fail(context, request, position):
        if position == 2:
            raise KeyError("a bug of the worker")

    body = {"model": "tiny", "stream": True} | BODIES[path]
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        whole = await exchange(fleet.url, path, body)
        worker.before_token = fail
        broken = await exchange(fleet.url, path, body)
        await eventually(lambda: not fleet.gateway.app.bodies.budget.used)
    assert whole.startswith(b"HTTP/1.1 200 ")
    assert whole.endswith(b"0\r\n\r\n")
    assert END[path] in whole
    assert broken.startswith(b"HTTP/1.1 200 "), "it had begun"
    assert not broken.endswith(b"0\r\n\r\n")
    assert END[path] not in broken
    assert b"Workers failed" in broken


@pytest.mark.parametrize("path", BODIES)
async def test_usage_metrics_and_headers_are_the_same_for_all(path: str):
    body = {"model": "tiny", "stream": False} | BODIES[path]
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post(path, json=body, headers={"x-request-id": "mine"})
        assert await fleet.metric("modelfleet_gateway_completion_tokens_total") == 8
        assert await fleet.metric("modelfleet_gateway_requests_total") == 1
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-modelfleet-model"] == "default/tiny"
    assert answer.headers["x-modelfleet-worker"] == "w-0"


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
FORMATS = {
    "/v1/responses": {
        "text": {"format": {"type": "json_schema", "name": "n", "strict": True, "schema": SCHEMA}}
    },
    "/v1/messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "/api/chat": {"format": SCHEMA},
    "/api/generate": {"format": SCHEMA, "raw": True},
}


@pytest.mark.parametrize("path", FORMATS)
async def test_a_schema_reaches_a_worker_that_holds_answers_to_it(path: str):
    body = {"model": "tiny", "stream": False} | BODIES[path] | FORMATS[path]
    old, new = ScriptedWorker("w-0", features=()), ScriptedWorker("w-1")
    async with running_fleet(old, new) as fleet:
        for _ in range(3):
            answer = await fleet.http.post(path, json=body)
            assert answer.status_code == 200, answer.text
    assert not old.requests
    assert [json.loads(r.output_format.json_schema) for r in new.requests] == [SCHEMA] * 3


@pytest.mark.parametrize(
    ("path", "field", "name"),
    [
        ("/v1/responses", {"text": {"format": {"type": "json_object"}}}, "text.format"),
        ("/api/chat", {"format": "json"}, "format"),
    ],
)
async def test_any_object_is_a_format_too(path: str, field: dict, name: str):
    worker = ScriptedWorker(tokens=1)
    body = {"model": "tiny", "stream": False} | BODIES[path] | field
    async with running_fleet(worker) as fleet:
        assert (await fleet.http.post(path, json=body)).status_code == 200, name
    assert worker.requests[0].output_format.json_object


@pytest.mark.parametrize(
    ("path", "field", "found"),
    [
        (
            "/v1/messages",
            {"output_config": {"format": {"type": "json_schema"}}},
            "'output_config.format.schema'",
        ),
        ("/v1/messages", {"stop_sequences": [""]}, "'stop_sequences.0'"),
        ("/v1/responses", {"reasoning": {"effort": "x" * 65}}, "'reasoning.effort'"),
        ("/api/chat", {"options": {"repeat_penalty": 99}}, "'options.repeat_penalty'"),
    ],
)
async def test_errors_have_the_clients_names_for_fields(path: str, field: dict, found: str):
    body = {"model": "tiny"} | BODIES[path] | field
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post(path, json=body)
    assert answer.status_code == 400
    assert found in answer.text


@pytest.mark.parametrize("path", BODIES)
async def test_what_a_stream_keeps_for_its_end_is_counted(path: str):
    """Responses repeat all that they said; nothing else is kept of a stream that is read."""
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    async def wait(context, request, position):
        if position == 5:
            reached.set()
            await may_go_on.wait()

    worker = ScriptedWorker(filler="x" * 2000, before_token=wait)
    body = {"model": "tiny", "stream": True} | BODIES[path]
    async with running_fleet(worker) as fleet:
        budget = fleet.gateway.app.bodies.budget
        asked = asyncio.create_task(fleet.http.post(path, json=body))
        await reached.wait()
        queue = fleet.gateway.dispatcher.queues["default/tiny"]
        await eventually(lambda: queue.meter.completion_tokens == 5)
        if path == "/v1/responses":
            await eventually(lambda: budget.used > 10_000)
        else:
            await eventually(lambda: budget.used < 2000)
        may_go_on.set()
        assert (await asked).status_code == 200
        await eventually(lambda: not budget.used)

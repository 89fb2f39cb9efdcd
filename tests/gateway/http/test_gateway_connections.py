"""Connections that are slow, silent, too large or no HTTP: each ends, and in OpenAI's shape."""

import asyncio
import json

import pytest

from gateway_doubles import ScriptedWorker, eventually, expected_text, running_fleet
from modelfleet_gateway.options import ConnectionLimits, Options
from raw_http import TIMEOUT, ask, connect, parse, request, until_closed

TEXT = json.dumps({"model": "tiny", "prompt": "hi", "seed": 7}).encode()
STREAM = json.dumps({"model": "tiny", "prompt": "hi", "seed": 7, "stream": True}).encode()
HEADERS = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
QUICK = Options(
    operator="",
    limits=ConnectionLimits(
        header_time=0.3, body_time=0.3, idle_time=0.3, stall_time=0.3, linger_time=0.3
    ),
)


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        pytest.param(b"P", "headers", id="a letter"),
        pytest.param(HEADERS, "headers", id="half of the headers"),
        pytest.param(HEADERS + b"x: " + b"y" * 9000, "headers", id="half of one header"),
        pytest.param(HEADERS + b"content-length: 9\r\n\r\n", "body", id="no body"),
        pytest.param(HEADERS + b"content-length: 9\r\n\r\n{", "body", id="half of the body"),
        pytest.param(
            HEADERS + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n", "body", id="a chunk"
        ),
    ],
)
async def test_an_unfinished_request_ends_with_408(sent: bytes, says: str):
    async with running_fleet(ScriptedWorker(), options=QUICK) as fleet:
        answer = await ask(fleet.url, sent)
    assert answer.status == 408
    assert answer.error["code"] == "request_timeout"
    assert f"The {says} were not" in answer.error["message"] or says == "body"
    assert answer.headers["connection"] == "close"


async def test_bytes_that_trickle_do_not_extend_the_time():
    async with running_fleet(ScriptedWorker(), options=QUICK) as fleet, asyncio.timeout(TIMEOUT):
        reader, writer = await connect(fleet.url)
        answer = asyncio.create_task(reader.read())
        for byte in HEADERS + b"y" * 2000:
            if answer.done():
                break
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)
        assert parse(await answer).status == 408
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n"])
async def test_a_silent_connection_is_closed(sent: bytes):
    async with running_fleet(ScriptedWorker(), options=QUICK) as fleet:
        assert await until_closed(fleet.url, sent) == b""
        # After an answer as well.
        kept = request("GET /healthz").replace(b"connection: close\r\n", b"")
        assert parse(await until_closed(fleet.url, kept)).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEADERS + b"x: " + b"y" * 40_000 + b"\r\n\r\n", id="one header"),
        pytest.param(HEADERS + b"x: " + b"y" * 40_000, id="one that does not end"),
        pytest.param(HEADERS + b"x: y\r\n" * 9000 + b"\r\n", id="many headers"),
        pytest.param(b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", id="the URL"),
        pytest.param(HEADERS + b"x: " + b"y" * 30_000_000, id="30 MB"),
    ],
)
async def test_headers_over_32_kib_are_a_431(sent: bytes):
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await ask(fleet.url, sent)
    assert (answer.status, answer.error["code"]) == (431, "headers_too_large")


async def test_a_client_that_does_not_read_is_cut_and_its_slot_serves_the_next():
    # More than the kernel keeps for a reader, which may be 4 MB for each.
    worker = ScriptedWorker(slots=2, tokens=2000, filler="x" * 20_000)
    async with running_fleet(worker, options=QUICK) as fleet, asyncio.timeout(TIMEOUT):
        stalled = [await connect(fleet.url, receive_buffer=8192) for _ in range(2)]
        asked = {"model": "tiny", "prompt": "hi", "stream": True, "max_tokens": 2000}
        for _, writer in stalled:
            writer.write(request(body=json.dumps(asked).encode()))
        await eventually(lambda: worker.running == 2)
        answer = await fleet.client.completions.create(model="tiny", prompt="p", max_tokens=1)
        assert answer.choices[0].finish_reason == "length"
        await eventually(lambda: not worker.running)
        for _, writer in stalled:
            writer.close()


async def test_an_answer_that_is_finished_and_not_read_holds_no_slot():
    worker = ScriptedWorker(slots=1, tokens=10, filler="x" * 20_000)
    async with running_fleet(worker) as fleet, asyncio.timeout(TIMEOUT):
        reader, writer = await connect(fleet.url, receive_buffer=8192)
        writer.write(request(body=STREAM))
        await eventually(lambda: worker.requests and not worker.running)
        await fleet.client.completions.create(model="tiny", prompt="p", max_tokens=1)
        assert not worker.cancelled
        assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "it is all there"
        writer.close()


async def test_the_last_words_of_an_answer_wait_for_their_reader_without_a_slot():
    worker = ScriptedWorker(slots=1, tokens=3)
    last_words, asked = asyncio.Event(), asyncio.Event()

    async def receive() -> dict[str, object]:
        if asked.is_set():
            await asyncio.Event().wait()
        asked.set()
        return {"type": "http.request", "body": STREAM, "more_body": False}

    async def send(message) -> None:
        if b'finish_reason":"' in message.get("body", b""):
            last_words.set()
            await asyncio.Event().wait()  # the connection takes nothing more

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
    }
    async with running_fleet(worker) as fleet, asyncio.timeout(TIMEOUT):
        answering = asyncio.create_task(fleet.gateway.app.api(scope, receive, send))
        await last_words.wait()
        await fleet.client.completions.create(model="tiny", prompt="p", max_tokens=1)
        answering.cancel()


async def test_a_slow_reader_that_reads_is_not_cut():
    worker = ScriptedWorker(tokens=100, filler="x" * 20_000)
    async with running_fleet(worker, options=QUICK) as fleet, asyncio.timeout(TIMEOUT):
        reader, writer = await connect(fleet.url, receive_buffer=8192)
        writer.write(request(body=STREAM))
        size = 0
        while data := await reader.read(50_000):
            size += len(data)
            await asyncio.sleep(0.01)
        writer.close()
    assert size > 100 * 20_000


async def test_http_1_0_gets_streams_without_chunks():
    async with running_fleet(ScriptedWorker(tokens=3)) as fleet:
        answer = await ask(fleet.url, request(body=STREAM, version="1.0"))
        whole = await ask(fleet.url, request(body=TEXT, version="1.0"))
        head = await ask(fleet.url, request("HEAD /v1/models", version="1.0"))
    assert "transfer-encoding" not in answer.headers
    *events, end, rest = answer.body.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    assert text == expected_text("hi", 3)
    assert json.loads(whole.body)["choices"][0]["text"] == expected_text("hi", 3)
    assert (head.status, head.body) == (200, b"")


async def test_a_413_arrives_while_the_client_still_sends():
    async with running_fleet(ScriptedWorker()) as fleet:
        sent = request(body=b"x" * 30_000_000)
        answer = await ask(fleet.url, sent)
        early = await ask(fleet.url, request("POST /nowhere", body=b"x" * 30_000_000))
        chunk = b"%x\r\n%s\r\n" % (2**20, b"x" * 2**20)
        chunked = await ask(
            fleet.url, request("POST /v1/completions", "transfer-encoding: chunked") + chunk * 30
        )
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert (early.status, early.error["code"]) == (404, "unknown_url")
    assert (chunked.status, chunked.error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", id="two Hosts"),
        pytest.param(b"GET /healthz HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", id="two for 1.0"),
        pytest.param(b"JUMP /healthz HTTP/1.1\r\nhost: a\r\n\r\n", id="an unheard method"),
        pytest.param(b"GET /healthz\r\n\r\n", id="no version"),
        pytest.param(b"GET /healthz HTTP/7.1\r\nhost: a\r\n\r\n", id="a version of the future"),
        pytest.param(b"CONNECT there:80 HTTP/1.1\r\nhost: a\r\n\r\n", id="a proxy's method"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n", id="a URL in another code"),
        pytest.param(HEADERS + b"content-length: x\r\n\r\n", id="no length"),
        pytest.param(
            HEADERS + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{", id="two lengths"
        ),
        pytest.param(
            HEADERS + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n{", id="two framings"
        ),
        pytest.param(HEADERS + b"transfer-encoding: chunked\r\n\r\nxyz\r\n", id="a wrong chunk"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"\x00" * 100, id="zeros"),
    ],
)
async def test_what_is_no_http_is_a_400_in_openais_shape(sent: bytes, capfd):
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await ask(fleet.url, sent)
        assert (await ask(fleet.url, request(body=TEXT))).status == 200
    assert (answer.status, answer.error["code"]) == (400, "malformed_http")
    assert "Traceback" not in capfd.readouterr().err


async def test_http_1_0_needs_no_host():
    async with running_fleet(ScriptedWorker()) as fleet:
        assert (await ask(fleet.url, b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200


async def test_garbage_behind_a_request_stays_out_of_its_answer():
    worker = ScriptedWorker(tokens=1000, pace=0.01)
    async with running_fleet(worker) as fleet, asyncio.timeout(TIMEOUT):
        reader, writer = await connect(fleet.url)
        writer.write(request(body=STREAM).replace(b"connection: close\r\n", b""))
        await eventually(lambda: worker.running == 1)
        writer.write(b"\x00garbage")
        answer = await reader.read()
        writer.close()
        await eventually(lambda: not worker.running)
    assert answer.count(b"HTTP/1.1 ") <= 1


async def test_requests_in_a_row_are_answered_in_order():
    async with running_fleet(ScriptedWorker(tokens=2)) as fleet:
        kept = request(body=TEXT).replace(b"connection: close\r\n", b"")
        raw = await until_closed(fleet.url, kept * 3 + request("GET /healthz"))
    assert raw.count(b"HTTP/1.1 200 ") == 4
    assert raw.endswith(b"ok\n")


@pytest.mark.parametrize(
    "upgrade", ["connection: Upgrade, HTTP2-Settings", "connection: close, upgrade"]
)
async def test_a_client_that_offers_another_protocol_is_answered_in_this_one(upgrade: str):
    """As Java's HttpClient does with each request."""
    async with running_fleet(ScriptedWorker(tokens=2), options=QUICK) as fleet:
        sent = request("POST /v1/completions", upgrade, "upgrade: h2c", body=TEXT)
        sent = sent.replace(b"connection: close\r\n", b"", 1)
        assert (await ask(fleet.url, sent)).status == 200
        sent = request("POST /v1/completions", "connection: upgrade", "upgrade: h2c", body=TEXT)
        raw = await until_closed(fleet.url, sent.replace(b"connection: close\r\n", b"") * 3)
        assert raw.count(b"HTTP/1.1 200 ") == 3
        sent = request("GET /healthz", upgrade, "upgrade: websocket")
        assert (await ask(fleet.url, sent.replace(b"connection: close\r\n", b"", 1))).status == 200

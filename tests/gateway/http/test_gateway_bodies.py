"""Bodies that are large, many, shaped to cost much, encoded or no JSON."""

import asyncio
import gzip
import json
import zlib

import pytest

from gateway_doubles import ScriptedWorker, eventually, expected_text, prompt_of, running_fleet
from modelfleet_gateway.options import Options
from raw_http import TIMEOUT, ask, connect, parse, request

KIBIBYTE = 1024
TEXT = {"model": "tiny", "prompt": "hi", "seed": 7}
EMPTY = {"role": "user", "content": ""}
PARTS = {"role": "user", "content": [{"type": "text", "text": ""}] * 100_000}

HOSTILE = {
    "empty messages": {"messages": [EMPTY] * 250_000},
    "messages of a letter": {"messages": [{"role": "user", "content": "a"}] * 200_000},
    "parts": {"messages": [PARTS]},
    "messages of parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}] * 100_000
    },
    "ids by the million": {"prompt": [1] * 3_000_000},
    "lists of ids": {"prompt": [[1]] * 500_000},
    "long lists of ids": {"prompt": [[1] * 30_000] * 100},
    "prompts": {"prompt": [""] * 500_000},
    "stops": {"prompt": "p", "stop": ["s"] * 500_000},
    "stop ids": {"prompt": "p", "stop_token_ids": [1] * 500_000},
    "a bias": {"prompt": "p", "logit_bias": {str(i): 1 for i in range(300_000)}},
    "numbers of an unknown field": {"prompt": "p", "unheard_of": [1.5] * 1_000_000},
    "objects of an unknown field": {"prompt": "p", "unheard_of": [{}] * 1_000_000},
}


@pytest.mark.parametrize("shape", HOSTILE)
async def test_more_values_than_a_context_could_hold_are_one_400(shape: str):
    body = json.dumps({"model": "tiny", **HOSTILE[shape]}, separators=(",", ":")).encode()
    assert len(body) < 8 * 2**20
    url = "/v1/chat/completions" if "messages" in HOSTILE[shape] else "/v1/completions"
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        answer = await fleet.http.post(url, content=body)
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"]) < 300
        assert not worker.requests
        assert (await fleet.http.post("/v1/completions", json=TEXT)).status_code == 200


async def test_a_large_request_reaches_the_worker_as_it_is():
    long = 'é "quoted" \\ and 🙂\n' * 20_000
    parts = [{"type": "text", "text": long}, {"type": "text", "text": "end"}]
    worker = ScriptedWorker(tokens=1, slots=2)
    ids = list(range(100_000))
    async with running_fleet(worker) as fleet:
        await fleet.client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": parts}, {"role": "assistant", "content": long}],
            stop="x" * 300,
            n=2,
        )
        await fleet.client.completions.create(model="tiny", prompt=[[1, 2], ids], seed=7)
        # Escaped otherwise than by our client.
        body = json.dumps({"model": "tiny", "prompt": long}, ensure_ascii=False)
        await fleet.http.post("/v1/completions", content=body.encode())
    chats, prompts = worker.requests[:2], worker.requests[2:]
    for chat in chats:
        assert [message.content for message in chat.chat.messages] == [f"{long}\nend", long]
        assert list(chat.stop.strings) == ["x" * 300]
    assert sorted(chat.choice for chat in chats) == [0, 1]
    assert sorted(list(request.prompt_token_ids.ids) for request in prompts[:2]) == [ids, [1, 2]]
    assert prompts[2].prompt == long


async def test_bodies_that_wait_or_are_half_sent_stay_within_one_budget():
    limits = Options(operator="", max_body_bytes=512 * KIBIBYTE, max_held_bytes=2048 * KIBIBYTE)
    large = json.dumps({"model": "tiny", "prompt": "x" * 400 * KIBIBYTE}).encode()
    worker = ScriptedWorker(slots=1, tokens=1)
    async with running_fleet(worker, options=limits) as fleet, asyncio.timeout(TIMEOUT):
        held = []
        for _ in range(3):  # half sent: chunked, so that nothing is announced
            reader, writer = await connect(fleet.url)
            head = request("POST /v1/completions", "transfer-encoding: chunked")
            writer.write(head + b"%x\r\n%s" % (len(large), large[:-1]))
            held.append((reader, writer))
        budget = fleet.gateway.app.bodies.budget
        await eventually(lambda: budget.used == 3 * (len(large) - 1))

        refused = await ask(fleet.url, request(body=large))
        unannounced = request("POST /v1/completions", "transfer-encoding: chunked")
        unannounced += b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
        for answer in (refused, await ask(fleet.url, unannounced)):
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
        good = await fleet.client.completions.create(model="tiny", prompt="hi", seed=7)
        assert good.choices[0].text == expected_text("hi", 1), "a small request has its place"

        for reader, writer in held[1:]:
            writer.write(large[-1:] + b"\r\n0\r\n\r\n")
            assert parse(await reader.read()).status == 200
            writer.close()
        held[0][1].close()
        await eventually(lambda: budget.used == 0)
        assert (await ask(fleet.url, request(body=large))).status == 200


async def test_a_waiting_request_holds_its_bytes_once_whatever_n_is():
    prompt = "x" * 400 * KIBIBYTE
    worker = ScriptedWorker(slots=1, tokens=3, pace=0.01)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(
            fleet.client.completions.create(model="tiny", prompt=prompt, n=16, seed=7)
        )
        await eventually(lambda: len(worker.requests) == 3)
        assert fleet.gateway.app.bodies.budget.used < len(prompt) + KIBIBYTE
        answer = await asked
    assert [choice.text for choice in answer.choices] == [
        expected_text(prompt, 3, choice=choice) for choice in range(16)
    ]
    assert [prompt_of(request) == prompt for request in worker.requests] == [True] * 16


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress)],
)
async def test_an_encoded_body_is_decoded_within_the_limit(encoding: str, encode):
    async with running_fleet(ScriptedWorker(tokens=2)) as fleet:

        async def post(content: bytes) -> tuple[int, str]:
            headers = {"content-encoding": encoding}
            answer = await fleet.http.post("/v1/completions", content=content, headers=headers)
            body = answer.json()
            return answer.status_code, body["error"]["code"] if "error" in body else ""

        plain = json.dumps(TEXT | {"prompt": "hi" * 300_000}).encode()
        assert await post(encode(plain)) == (200, "")
        assert await post(encode(b"x" * 100_000_000)) == (413, "body_too_large")
        assert await post(encode(plain)[:-9]) == (400, "invalid_value")
        assert await post(plain) == (400, "invalid_value")
        assert await post(encode(plain) + b"more") == (400, "invalid_value")
        assert await post(b"") == (400, "invalid_value")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "br"},
        {"content-encoding": "gzip, gzip"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/jsonish"},
        {"content-type": ""},
        {"content-type": "x" * 5000},
    ],
)
async def test_what_is_no_json_by_its_headers_is_a_415(headers: dict[str, str]):
    async with running_fleet(ScriptedWorker()) as fleet:
        content = json.dumps(TEXT)
        answer = await fleet.http.post("/v1/completions", content=content, headers=headers)
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"
    assert len(answer.text) < 400


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"],
)
async def test_json_is_taken_by_each_of_its_names(content_type: str | None):
    async with running_fleet(ScriptedWorker()) as fleet:
        headers = {} if content_type is None else {"content-type": content_type}
        content = json.dumps(TEXT)
        answer = await fleet.http.post("/v1/completions", content=content, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "url",
    ["/v1/chat/completions/", "/v1/completions/", "/healthz/", "/v1//models", "/metrics", "//"],
)
async def test_other_urls_are_a_404_and_nothing_redirects(url: str):
    async with running_fleet(ScriptedWorker()) as fleet:
        for method in ("GET", "POST"):
            sent = request(f"{method} {url}").replace(b"host: gateway", b"host: evil.example")
            answer = await ask(fleet.url, sent)
            assert (answer.status, answer.error["code"]) == (404, "unknown_url")
            assert "location" not in answer.headers
            assert b"evil.example" not in answer.body


async def test_no_error_repeats_more_than_200_characters_of_what_was_sent():
    long = "y" * 5000
    bodies = [
        TEXT | {"model": long},
        TEXT | {"logit_bias": {long: 1}},
        TEXT | {"logit_bias": {"1": long}},
        TEXT | {"temperature": long},
        TEXT | {"stream_options": {"include_usage": long}},
        TEXT | {"stop": [long]},
        TEXT | {"prompt": {long: 1}},
        TEXT | {"echo": long},
    ]
    large = [body | {"unheard_of": "z" * 70_000} for body in bodies]
    async with running_fleet(ScriptedWorker()) as fleet:
        answers = [await fleet.http.post("/v1/completions", json=body) for body in bodies + large]
        answers += [
            await fleet.http.get(f"/{long}"),
            await fleet.http.get(f"/v1/models/{long}"),
            await fleet.http.request("PATCH", f"/v1/models/{long}"),
            await fleet.http.post("/v1/completions", json=TEXT, headers={"x-request-id": long}),
        ]
    assert [answer.status_code for answer in answers[:-1]] == [404, *[400] * 7] * 2 + [
        404,
        404,
        405,
    ]
    for answer in answers:
        shown = answer.text + "".join(answer.headers.values())
        assert "y" * 150 not in shown, shown[:500]
        assert shown.count("y") < 250

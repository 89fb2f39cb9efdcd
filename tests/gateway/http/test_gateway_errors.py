"""Wrong requests get one clear answer in OpenAI's shape, and the gateway serves on."""

import asyncio
import json

import grpc
import openai
import pytest

from gateway_doubles import ScriptedWorker, expected_text, running_fleet

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "tiny", "prompt": "hi"}
IMAGE = [{"type": "image_url", "image_url": {"url": "data:"}}]


def chat(**fields):
    return ("/v1/chat/completions", CHAT | fields)


def text(**fields):
    return ("/v1/completions", TEXT | fields)


def message(**fields):
    return chat(messages=[{"role": "user", "content": "hi"} | fields])


TOOL = {"type": "function", "function": {"name": "f"}}
WRONG = {
    "a negative temperature": (chat(temperature=-0.1), 400, "temperature"),
    "a temperature that is not a number": (text(temperature=float("nan")), 400, "temperature"),
    "an infinite temperature": (text(temperature=float("inf")), 400, "temperature"),
    "a temperature in a string": (chat(temperature="0.5"), 400, "temperature"),
    "a top_p of zero": (chat(top_p=0), 400, "top_p"),
    "n of zero": (chat(n=0), 400, "n"),
    "n beyond the limit": (chat(n=17), 400, "n"),
    "max_tokens of zero": (text(max_tokens=0), 400, "max_tokens"),
    "max_tokens that is not whole": (text(max_tokens=1.5), 400, "max_tokens"),
    "stream that is no boolean": (chat(stream="yes"), 400, "stream"),
    "an empty stop string": (chat(stop=""), 400, "stop.0"),
    "too many stop strings": (chat(stop=["s"] * 17), 400, "stop"),
    "a stop that is a number": (chat(stop=3), 400, "stop"),
    "a seed that is too large": (chat(seed=2**63), 400, "seed"),
    "no messages": (("/v1/chat/completions", {"model": "tiny"}), 400, "messages"),
    "an empty conversation": (chat(messages=[]), 400, "messages"),
    "messages that are text": (chat(messages="hi"), 400, "messages"),
    "an unknown role": (message(role="king"), 400, "messages.0.role"),
    "a function's message": (message(role="function"), 400, "messages.0.role"),
    "a function's call": (
        message(role="assistant", function_call={"name": "f"}),
        400,
        "messages.0",
    ),
    "a call of nothing": (message(role="assistant", tool_calls=[{}]), 400, "messages.0.tool_calls"),
    "functions": (chat(functions=[{"name": "f"}]), 400, "functions"),
    "a call that is forced the old way": (chat(function_call="auto"), 400, "function_call"),
    "a search as a tool": (chat(tools=[{"type": "web_search"}]), 400, "tools"),
    "a tool whose name is a sentence": (
        chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
        400,
        "tools",
    ),
    "two tools of one name": (chat(tools=[TOOL, TOOL]), 400, "tools"),
    "parameters that are a list": (
        chat(tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]),
        400,
        "tools",
    ),
    "a required call without tools": (chat(tool_choice="required"), 400, "tool_choice"),
    "an unknown tool choice": (chat(tools=[TOOL], tool_choice="maybe"), 400, "tool_choice"),
    "a choice of a tool that is not there": (
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "g"}}),
        400,
        "tool_choice",
    ),
    "a template's arguments in a list": (
        chat(chat_template_kwargs=[1]),
        400,
        "chat_template_kwargs",
    ),
    "a message without content": (message(content=None), 400, "messages.0"),
    "an image": (message(content=IMAGE), 400, "messages.0.content"),
    "braces in a part's type": (message(content=[{"type": "{x}"}]), 400, "messages.0.content"),
    "tools": (chat(tools=[{"type": "function"}]), 400, "tools"),
    "a format of an unknown type": (
        chat(response_format={"type": "xml"}),
        400,
        "response_format.type",
    ),
    "a format that is text": (chat(response_format="json"), 400, "response_format"),
    "a format without its schema": (
        text(response_format={"type": "json_schema", "json_schema": {"name": "n"}}),
        400,
        "response_format.json_schema.schema",
    ),
    "two formats": (
        chat(response_format={"type": "json_object"}, guided_regex="a"),
        400,
        "guided_regex",
    ),
    "a choice of none": (chat(guided_choice=[]), 400, "guided_choice"),
    "tags": (
        chat(structured_outputs={"structural_tag": "{}"}),
        400,
        "structured_outputs.structural_tag",
    ),
    "a min_p above 1": (chat(min_p=1.1), 400, "min_p"),
    "a large presence penalty": (chat(presence_penalty=2.5), 400, "presence_penalty"),
    "a small frequency penalty": (text(frequency_penalty=-2.5), 400, "frequency_penalty"),
    "a repetition penalty of zero": (text(repetition_penalty=0), 400, "repetition_penalty"),
    "a penalty that is no number": (text(repetition_penalty="1"), 400, "repetition_penalty"),
    "a large bias": (chat(logit_bias={"1": 100.5}), 400, "logit_bias.1"),
    "a bias that is no number": (chat(logit_bias={"1": None}), 400, "logit_bias.1"),
    "a word for a biased token": (chat(logit_bias={"the": 1}), 400, "logit_bias"),
    "a negative biased token": (chat(logit_bias={"-1": 1}), 400, "logit_bias"),
    "a biased token that no uint32 holds": (text(logit_bias={str(2**32): 1}), 400, "logit_bias"),
    "a list of biases": (text(logit_bias=[1]), 400, "logit_bias"),
    "too many biases": (text(logit_bias={str(i): 1 for i in range(301)}), 400, "logit_bias"),
    "alternatives without logprobs": (chat(top_logprobs=2), 400, "top_logprobs"),
    "too many alternatives": (chat(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    "stream options without a stream": (
        chat(stream_options={"include_usage": True}),
        400,
        "stream_options",
    ),
    "no prompt": (("/v1/completions", {"model": "tiny"}), 400, "prompt"),
    "a prompt that is an object": (text(prompt={}), 400, "prompt"),
    "an empty list of prompts": (text(prompt=[]), 400, "prompt"),
    "prompts of both kinds": (text(prompt=["a", [1]]), 400, "prompt"),
    "a negative token id": (text(prompt=[-1]), 400, "prompt"),
    "booleans for token ids": (text(prompt=[True]), 400, "prompt"),
    "more choices than one request may have": (text(prompt=["p"] * 9, n=16), 400, "prompt"),
    "echo": (text(echo=True), 400, "echo"),
    "best_of": (text(best_of=3), 400, "best_of"),
    "a suffix": (text(suffix="end"), 400, "suffix"),
    "an unknown model": (chat(model="gpt-5"), 404, "model"),
    "a model that is a number": (chat(model=5), 400, "model"),
    "no model": (("/v1/completions", {"prompt": "hi"}), 400, "model"),
    "a list for a body": (("/v1/completions", [1]), 400, None),
    # Of several errors the first is told, in the order of the fields.
    "a temperature and no model": (("/v1/completions", {"temperature": 9}), 400, "temperature"),
    "a bias and n": (chat(n=0, logit_bias={"1": 200}), 400, "logit_bias.1"),
    "n and no messages": (("/v1/chat/completions", {"model": "tiny", "n": 0}), 400, "n"),
}


async def test_names_what_is_wrong_with_a_request():
    async with running_fleet(ScriptedWorker()) as fleet:
        for case, ((url, body), status, param) in WRONG.items():
            answer = await fleet.http.post(url, content=json.dumps(body))
            assert answer.status_code == status, f"{case}: {answer.text}"
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, case
            assert error["type"] == "invalid_request_error", case
            assert error["message"], case
            assert error["param"] == param, f"{case}: {error}"
        good = await fleet.client.completions.create(model="tiny", prompt="hi", seed=7)
        assert good.choices[0].text == expected_text("hi", 8)


@pytest.mark.parametrize(
    "neutral",
    [
        {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "n": 1},
        {"presence_penalty": None, "logit_bias": None, "min_p": 0, "repetition_penalty": 1},
        {"response_format": {"type": "text"}, "tools": [], "tool_choice": "auto"},
        {"response_format": None, "structured_outputs": None, "guided_json": None},
        {"temperature": None, "stop": None, "stream": None, "seed": None, "max_tokens": None},
        {"store": False, "metadata": {"a": "b"}, "service_tier": "auto", "user": "u"},
    ],
)
async def test_takes_fields_that_change_nothing(neutral):
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post("/v1/chat/completions", json=CHAT | neutral)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"\xff\xfe", b'{"model": "tiny", "prompt": "\\ud800"}', b"[" * 100_000, b"nul"],
)
async def test_malformed_json_is_a_bad_request(body):
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert "JSON" in answer.json()["error"]["message"]


async def test_openai_raises_its_own_exceptions():
    async def too_long(context, request, position):
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "9000 tokens, but the context has 8192")

    async def wrong(context, request, position):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "token id 7 is not in the vocabulary")

    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        create = fleet.client.completions.create
        with pytest.raises(openai.NotFoundError, match="does not exist here") as unknown:
            await create(model="gpt-5", prompt="p")
        assert unknown.value.code == "model_not_found"
        for stream in (False, True):
            worker.before_accept = too_long
            with pytest.raises(openai.BadRequestError, match="9000 tokens") as long:
                await create(model="tiny", prompt="p", stream=stream)
            assert long.value.code == "context_length_exceeded"
            worker.before_accept = wrong
            with pytest.raises(openai.BadRequestError, match="vocabulary"):
                await create(model="tiny", prompt="p", stream=stream)
        assert len(worker.requests) == 4, "what is wrong everywhere is tried once"


async def test_unknown_urls_and_methods_are_errors_in_openais_shape():
    async with running_fleet(ScriptedWorker()) as fleet:
        unknown = await fleet.http.post("/v1/audio/speech", json={})
        method = await fleet.http.get("/v1/completions")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "POST"


async def test_a_body_of_50_megabytes_is_refused_and_the_connection_goes_on():
    async with running_fleet(ScriptedWorker()) as fleet:
        huge = b'{"model": "tiny", "prompt": "' + b"x" * 50_000_000 + b'"}'
        declared = await fleet.http.post("/v1/completions", content=huge)

        async def pieces():
            for start in range(0, len(huge), 1_000_000):
                yield huge[start : start + 1_000_000]

        chunked = await fleet.http.post("/v1/completions", content=pieces())
        after = await fleet.http.post("/v1/completions", json=TEXT)
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert "8388608 bytes" in answer.json()["error"]["message"]
    assert after.status_code == 200


async def test_an_announced_giant_is_answered_before_it_is_sent():
    async with running_fleet(ScriptedWorker()) as fleet:
        host, port = fleet.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50000000\r\n\r\n"
        )
        status = await asyncio.wait_for(reader.readline(), 5)
        writer.close()
    assert b"413" in status


async def test_a_worker_with_a_bug_is_an_error_without_a_traceback():
    async def bug(context, request, position):
        raise KeyError("secret")

    worker = ScriptedWorker(before_accept=bug)
    async with running_fleet(worker) as fleet:
        answer = await fleet.http.post("/v1/completions", json=TEXT)
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_lost"
        assert "Traceback" not in answer.text
        assert len(worker.requests) == 5
        worker.before_accept = None
        assert (await fleet.http.post("/v1/completions", json=TEXT)).status_code == 200

"""The ollama client against a real gateway."""

import contextlib
import json
from collections.abc import AsyncIterator

import ollama
import pytest

from answer_parts import call, one_a_token, reasoning, text
from gateway_doubles import MODEL, Fleet, ScriptedWorker, expected_text, running_fleet

HELLO = [{"role": "user", "content": "hello"}]


@contextlib.asynccontextmanager
async def ollama_fleet(*workers: ScriptedWorker) -> AsyncIterator[tuple[Fleet, ollama.AsyncClient]]:
    async with running_fleet(*workers) as fleet:
        yield fleet, ollama.AsyncClient(host=fleet.url)


async def test_answers_a_chat():
    async with ollama_fleet(ScriptedWorker()) as (_, client):
        answer = await client.chat("tiny:latest", messages=HELLO, options={"seed": 7})
    assert answer.message.content == expected_text("hello", 8, chat=True)
    assert (answer.model, answer.done, answer.done_reason) == ("tiny", True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (5, 8)
    assert answer.total_duration > 0
    assert answer.created_at


async def test_streams_lines():
    async with ollama_fleet(ScriptedWorker(tokens=3)) as (fleet, client):
        lines = [
            line
            async for line in await client.chat(
                MODEL, messages=HELLO, options={"seed": 7}, stream=True
            )
        ]
        raw = await fleet.http.post("/api/chat", json={"model": "tiny", "messages": HELLO})
    assert raw.headers["content-type"] == "application/x-ndjson", "it streams unless told otherwise"
    assert len(raw.text.splitlines()) == len(lines) == 4
    assert "".join(line.message.content for line in lines) == expected_text("hello", 3, chat=True)
    assert [line.done for line in lines] == [False, False, False, True]
    assert lines[-1].done_reason == "stop"
    assert lines[-1].eval_count == 3


async def test_generates():
    worker = ScriptedWorker(tokens=2)
    async with ollama_fleet(worker) as (_, client):
        chat = await client.generate("tiny", "hello", system="be kind", options={"seed": 7})
        plain = await client.generate("tiny", "hello", raw=True, options={"seed": 7})
        lines = [line async for line in await client.generate("tiny", "hello", stream=True)]
    assert len(chat.response.split()) == 2
    assert plain.response == expected_text("hello", 2)
    assert lines[-1].done
    assert [(m.role, m.content) for m in worker.requests[0].chat.messages] == [
        ("system", "be kind"),
        ("user", "hello"),
    ]
    assert worker.requests[1].prompt == "hello"


async def test_options_reach_the_worker():
    worker = ScriptedWorker()
    options = {
        "num_predict": 3,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.25,
        "min_p": 0.125,
        "seed": 9,
        "stop": ["x"],
        "repeat_penalty": 1.25,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "num_ctx": 4096,
    }
    async with ollama_fleet(worker) as (_, client):
        answer = await client.chat("tiny", messages=HELLO, options=options)
        await client.chat("tiny", messages=HELLO, options={"num_predict": -1})
    assert answer.done_reason == "length"
    limited, unlimited = worker.requests
    assert (limited.stop.max_tokens, list(limited.stop.strings), limited.seed) == (3, ["x"], 9)
    sampling = limited.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 4, 0.25)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.125, 1.25)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (1, -1)
    assert unlimited.stop.max_tokens == 0


async def test_tools_and_their_history_reach_the_worker():
    worker = ScriptedWorker(tokens=1)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call_of_f = {"function": {"name": "f", "arguments": {"a": 1}}}
    async with running_fleet(worker) as fleet:
        answer = await fleet.http.post(
            "/api/chat",
            json={
                "model": "tiny",
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "content": "", "tool_calls": [call_of_f, call_of_f]},
                    {"role": "tool", "content": "y", "tool_name": "f"},
                    {"role": "tool", "content": "z", "tool_name": "f"},
                ],
                "tools": [tool],
                "think": False,
                "stream": False,
            },
        )
    assert answer.status_code == 200
    _, turn, first, second = worker.requests[0].chat.messages
    calls = json.loads(turn.tool_calls)
    assert [call["id"] for call in calls] == [first.tool_call_id, second.tool_call_id]
    assert json.loads(calls[0]["function"]["arguments"]) == {"a": 1}
    assert json.loads(worker.requests[0].chat.tools) == [tool]
    arguments = json.loads(worker.requests[0].chat.template_arguments)
    assert arguments == {"enable_thinking": False}


async def test_thinking_and_calls_are_told():
    parts = one_a_token(
        reasoning("hm"),
        text("so"),
        call(0, "f", '{"a"'),
        call(0, "", ": 1}"),
        call(1, "g", "{}"),
    )
    async with ollama_fleet(ScriptedWorker(parts=parts)) as (_, client):
        whole = await client.chat("tiny", messages=HELLO)
        lines = [line async for line in await client.chat("tiny", messages=HELLO, stream=True)]
    assert (whole.message.thinking, whole.message.content) == ("hm", "so")
    streamed = [one for line in lines for one in line.message.tool_calls or []]
    for calls in (whole.message.tool_calls, streamed):
        assert [(one.function.name, one.function.arguments) for one in calls] == [
            ("f", {"a": 1}),
            ("g", {}),
        ]


async def test_tells_of_its_models():
    async with ollama_fleet(ScriptedWorker()) as (fleet, client):
        names = [model.model for model in (await client.list()).models]
        running = await client.ps()
        shown = await client.show("tiny")
        version = (await fleet.http.get("/api/version")).json()
        with pytest.raises(ollama.ResponseError, match="does not exist here"):
            await client.show("none")
    assert names == ["tiny", MODEL]
    assert [model.digest for model in running.models] == ["digest-1"] * 2
    assert "completion" in shown.capabilities
    assert version["version"].count(".") == 2


WRONG = {
    "no messages": ("chat", {"messages": []}, "messages"),
    "no prompt": ("generate", {}, "prompt"),
    "an image": ("chat", {"messages": [{"role": "user", "images": ["x"]}]}, "messages.0.images"),
    "a suffix": ("generate", {"prompt": "x", "suffix": "y"}, "suffix"),
    "mirostat": ("chat", {"messages": HELLO, "options": {"mirostat": 1}}, "options.mirostat"),
    "hot": ("chat", {"messages": HELLO, "options": {"temperature": 3}}, "options.temperature"),
    "no number": ("chat", {"messages": HELLO, "options": {"num_predict": "x"}}, "num_predict"),
    "a format": ("chat", {"messages": HELLO, "format": "xml"}, "format"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_refuses_by_name(name: str):
    path, body, found = WRONG[name]
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post(f"/api/{path}", json={"model": "tiny"} | body)
    assert answer.status_code == 400
    assert found in answer.json()["error"]


async def test_what_is_not_served_is_refused_by_name():
    async with running_fleet(ScriptedWorker()) as fleet:
        for path in ("pull", "push", "create", "copy"):
            answer = await fleet.http.post(f"/api/{path}", json={"model": "tiny"})
            assert answer.status_code == 404
            assert f"/api/{path} is not served" in answer.json()["error"]
        answer = await fleet.http.request("DELETE", "/api/delete", json={"model": "tiny"})
        assert "/api/delete is not served" in answer.json()["error"]
        assert isinstance((await fleet.http.post("/api/none")).json()["error"], str)


async def test_takes_bodies_of_curl_but_not_of_other_pages():
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}'
    async with running_fleet(ScriptedWorker(tokens=1)) as fleet:
        answer = await fleet.http.post("/api/chat", content=body, headers=form)
        assert answer.status_code == 200
        form["origin"] = "https://elsewhere"
        answer = await fleet.http.post("/api/chat", content=body, headers=form)
        assert answer.status_code == 415


async def test_a_stream_that_fails_ends_with_an_error():
    async def fail(context, request, position):
        if position == 2:
            raise KeyError("a bug of the worker")

    async with ollama_fleet(ScriptedWorker(before_token=fail)) as (_, client):
        with pytest.raises(ollama.ResponseError, match="Workers failed"):
            async for _ in await client.chat("tiny", messages=HELLO, stream=True):
                pass

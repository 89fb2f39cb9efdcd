"""What public conformance suites for Responses ask: it is served, or refused by name.

The cases of openresponses/openresponses, and those of coding agents that vllm-project/vllm#56285
and sgl-project/sglang#38690 describe.
"""

import json

import pytest

from answer_parts import call, one_a_token, reasoning, text
from gateway_doubles import ScriptedWorker, running_fleet
from modelfleet_gateway.responses_api.answer import ResponsesAnswer
from modelfleet_proto import worker_pb2

NULLABLE = {
    "completed_at",
    "incomplete_details",
    "previous_response_id",
    "instructions",
    "error",
    "reasoning",
    "usage",
    "max_output_tokens",
    "max_tool_calls",
    "user",
    "safety_identifier",
    "prompt_cache_key",
}
# What each response has to have, and what each of them is if it may not be null.
REQUIRED = {
    "id": str,
    "object": str,
    "created_at": int,
    "status": str,
    "model": str,
    "output": list,
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "top_logprobs": int,
    "temperature": float,
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
}
USER = {"type": "message", "role": "user", "content": "What's the weather like?"}
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "sun"}
PARTS = one_a_token(reasoning("hm"), text("So. "), call(0, "get_weather", "{}"))


def content(kind: str, **more: str) -> list[dict]:
    parts = [{"type": "input_text", "text": "What is this?"}, {"type": kind, **more}]
    return [{"type": "message", "role": "user", "content": parts}]


SERVED = {
    "a basic response": {"input": [USER]},
    "a system prompt": {"input": [USER | {"role": "system"}, USER]},
    "a developer's": {"input": [USER | {"role": "developer"}, USER]},
    "several turns": {"input": [USER, USER | {"role": "assistant"}, USER]},
    "phases of an assistant": {
        "input": [
            USER | {"role": "assistant", "phase": "commentary"},
            USER | {"role": "assistant", "phase": "final_answer"},
            USER,
        ]
    },
    "a tool": {"input": [USER], "tools": [WEATHER]},
    "a tool by name": {
        "input": "x",
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "name": "get_weather"},
    },
    "required": {"input": "x", "tools": [WEATHER], "tool_choice": "required"},
    "what a call gave": {"input": [USER, CALL, RESULT], "tools": [WEATHER]},
    "what a call gave, as parts": {
        "input": [USER, CALL, RESULT | {"output": [{"type": "input_text", "text": "sun"}]}]
    },
    "a custom tool": {"input": "x", "tools": [{"type": "custom", "name": "apply_patch"}]},
    "a custom tool, required": {
        "input": "x",
        "tools": [{"type": "custom", "name": "apply_patch"}],
        "tool_choice": "required",
    },
    "what a custom tool gave": {
        "input": [
            USER,
            {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** x"},
            {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
        ]
    },
    "reasoning sent back": {
        "input": [
            USER,
            {"type": "reasoning", "summary": [], "encrypted_content": "x"},
            CALL,
            RESULT,
        ]
    },
    "what agents add": {
        "input": [USER],
        "include": ["reasoning.encrypted_content"],
        "store": False,
        "prompt_cache_key": "x",
        "client_metadata": {"a": "b"},
        "text": {"verbosity": "low"},
        "service_tier": "auto",
    },
}
REFUSED = {
    "an image": ({"input": content("input_image", image_url="data:x")}, 400, "input_image"),
    "a file": ({"input": content("input_file", file_data="data:x")}, 400, "input_file"),
    "a search of files": ({"input": "x", "tools": [{"type": "file_search"}]}, 400, "file_search"),
    "a search of the web": ({"input": "x", "tools": [{"type": "web_search"}]}, 400, "web_search"),
    "tools in a namespace": ({"input": "x", "tools": [{"type": "namespace"}]}, 400, "namespace"),
    "an earlier response": (
        {"input": "x", "previous_response_id": "resp_1"},
        400,
        "previous_response_id",
    ),
    "a model that is not there": ({"input": "x", "model": "none"}, 404, "does not exist"),
}


def check_shape(response: dict) -> None:
    for name in NULLABLE:
        assert name in response
    for name, kind in REQUIRED.items():
        assert isinstance(response[name], kind), name
    for item in response["output"]:
        assert item["id"]
        assert item["status"] in ("completed", "incomplete", "in_progress")
    assert response["object"] == "response"


@pytest.mark.parametrize("name", SERVED)
async def test_serves(name: str):
    body = {"model": "tiny"} | SERVED[name]
    async with running_fleet(ScriptedWorker(parts=PARTS)) as fleet:
        answer = await fleet.http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    response = answer.json()
    check_shape(response)
    assert response["status"] == "completed"
    thought, said, called = response["output"]
    assert (thought["type"], said["type"]) == ("reasoning", "message")
    assert called["type"] == "function_call"
    assert (thought["encrypted_content"] is None) == ("include" not in body)


@pytest.mark.parametrize("name", REFUSED)
async def test_refuses(name: str):
    body, status, found = REFUSED[name]
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post("/v1/responses", json={"model": "tiny"} | body)
    assert answer.status_code == status
    assert found in answer.json()["error"]["message"]


async def test_a_compaction_is_refused_by_name():
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post("/v1/responses/compact", json={"model": "tiny"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unsupported_endpoint")


@pytest.mark.parametrize("limit", [None, 2])
async def test_each_item_has_one_identity_in_a_stream(limit: int | None):
    body = {"model": "tiny", "input": "x", "include": ["message.output_text.logprobs"]}
    worker = ScriptedWorker(parts=PARTS)
    async with running_fleet(worker) as fleet:
        body |= {"stream": True, "max_output_tokens": limit}
        lines = (await fleet.http.post("/v1/responses", json=body)).text.splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    events = [json.loads(line) for line in data]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    final = events[-1]["response"]
    assert events[-1]["type"] == ("response.completed" if limit is None else "response.incomplete")
    assert done == final["output"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    shape = {event["type"]: event["response"] for event in events if "response" in event}
    for response in shape.values():
        check_shape(response)


async def test_logprobs_of_a_stream_are_in_the_response_too():
    async with running_fleet(ScriptedWorker(tokens=2)) as fleet:
        stream = await fleet.client.responses.create(
            model="tiny",
            input="x",
            include=["message.output_text.logprobs"],
            top_logprobs=1,
            stream=True,
        )
        events = [event async for event in stream]
    streamed = [
        one.token
        for event in events
        if event.type == "response.output_text.delta"
        for one in event.logprobs
    ]
    final = events[-1].response.output[0].content[0].logprobs
    assert streamed == [one.token for one in final]
    assert len(final) == 2
    assert final[0].top_logprobs[0].logprob == -0.5


def test_logprobs_of_a_batch_with_text_around_a_call_come_once():
    answer = ResponsesAnswer(model="tiny", created=0, said={})
    called = worker_pb2.ToolCallPart(name="f", arguments="{}")
    answer.collect(
        0,
        worker_pb2.Tokens(
            ids=[7, 8],
            logprobs=[
                worker_pb2.TokenLogprobs(chosen=worker_pb2.TokenLogprob(id=i, token=b"x"))
                for i in (7, 8)
            ],
            parts=[
                worker_pb2.OutputPart(text="a"),
                worker_pb2.OutputPart(tool_call=called),
                worker_pb2.OutputPart(text="b"),
            ],
        ),
    )
    first, _, last = answer.whole()["output"]
    assert [len(item["content"][0]["logprobs"]) for item in (first, last)] == [2, 0]


async def test_reasoning_comes_back_from_a_client_that_kept_no_text_of_it():
    worker = ScriptedWorker(parts=PARTS)
    body = {"model": "tiny", "input": "x", "include": ["reasoning.encrypted_content"]}
    async with running_fleet(worker) as fleet:
        first = (await fleet.http.post("/v1/responses", json=body)).json()
        thought, _, called = first["output"]
        back = {**thought, "content": None}
        body["input"] = [USER, back, called, RESULT | {"call_id": called["call_id"]}]
        assert (await fleet.http.post("/v1/responses", json=body)).status_code == 200
    turn = worker.requests[1].chat.messages[1]
    assert (turn.role, turn.reasoning_content) == ("assistant", "hm")

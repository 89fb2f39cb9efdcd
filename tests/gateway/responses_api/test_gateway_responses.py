"""The openai client's `responses` against a real gateway."""

import json

import openai
import pydantic
import pytest

from answer_parts import call, one_a_token, reasoning, text
from gateway_doubles import MODEL, ScriptedWorker, expected_text, running_fleet
from modelfleet_gateway.options import Options

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL_OF = {"type": "function_call", "name": "get_weather", "arguments": "{}"}
THOUGHT = {"type": "reasoning_text", "text": "hm"}
# What streams of one message look like, but for their deltas.
BEGIN = ["response.created", "response.in_progress"]


async def test_answers_a_string():
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.client.responses.create(
            model="tiny", input="hello", extra_body={"seed": 7}, metadata={"a": "b"}
        )
    assert answer.output_text == expected_text("hello", 8, chat=True)
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.status, answer.model) == ("response", "completed", "tiny")
    assert answer.incomplete_details is None
    assert answer.error is None
    assert answer.metadata == {"a": "b"}
    assert answer.store is False, "nothing is kept, and that is what it says"
    assert answer.output[0].id.startswith("msg_")
    assert answer.usage.model_dump() == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": None},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    } | {k: v for k, v in answer.usage.model_dump().items() if k == "input_tokens_details"}
    assert answer.usage.input_tokens_details.cached_tokens == 2


async def test_streams_events_in_their_order():
    async with running_fleet(ScriptedWorker(tokens=3)) as fleet:
        stream = await fleet.client.responses.create(
            model=MODEL, input="hello", stream=True, extra_body={"seed": 7}
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        *BEGIN,
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text_of = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text_of == expected_text("hello", 3, chat=True)
    assert events[7].text == events[-1].response.output_text == text_of
    assert events[-2].item == events[-1].response.output[0], "one identity an item"
    assert events[0].response.status == "in_progress"
    assert events[0].response.id == events[-1].response.id
    assert events[-1].response.usage.total_tokens == 8


async def test_the_clients_own_stream_and_parse_take_it():
    async with (
        running_fleet(ScriptedWorker(tokens=3)) as fleet,
        fleet.client.responses.stream(
            model="tiny", input="hello", extra_body={"seed": 7}
        ) as stream,
    ):
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.output_text == expected_text("hello", 3, chat=True)


class City(pydantic.BaseModel):
    name: str


async def test_the_clients_parse_gets_what_it_asked_for():
    worker = ScriptedWorker(parts=one_a_token(text('{"name"'), text(': "Rome"}')))
    async with running_fleet(worker) as fleet:
        answer = await fleet.client.responses.parse(model="tiny", input="x", text_format=City)
    assert answer.output_parsed == City(name="Rome")
    schema = json.loads(worker.requests[0].output_format.json_schema)
    assert schema["properties"]["name"]["type"] == "string"
    assert answer.text.format.name == "City"


async def test_says_that_it_was_cut():
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.client.responses.create(
            model="tiny", input="hello", max_output_tokens=2
        )
        stream = await fleet.client.responses.create(
            model="tiny", input="hello", max_output_tokens=2, stream=True
        )
        last = [event async for event in stream][-1]
    assert last.type == "response.incomplete"
    for response in (answer, last.response):
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.output[0].status == "incomplete"
        assert response.usage.output_tokens == 2


async def test_items_become_messages():
    worker = ScriptedWorker(tokens=1)
    async with running_fleet(worker) as fleet:
        await fleet.client.responses.create(
            model="tiny",
            instructions="be kind",
            input=[
                {"role": "developer", "content": "and short"},
                {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "ho", "annotations": []}],
                },
                {"role": "user", "content": "again"},
            ],
            temperature=0.5,
            top_p=0.25,
            max_output_tokens=3,
            extra_body={"stop": ["x"], "top_k": 4, "unheard_of": 1},
        )
    (request,) = worker.requests
    assert [(m.role, m.content) for m in request.chat.messages] == [
        ("system", "be kind\nand short"),
        ("user", "hi"),
        ("assistant", "ho"),
        ("user", "again"),
    ]
    assert (request.sampling.temperature, request.sampling.top_p) == (0.5, 0.25)
    assert request.sampling.top_k == 4
    assert (request.stop.max_tokens, list(request.stop.strings)) == (3, ["x"])


PARTS = one_a_token(
    reasoning("let me "),
    reasoning("think"),
    text("I look. "),
    call(0, "get_weather", '{"city"'),
    call(0, "", ': "Rome"}'),
    call(1, "get_weather", "{}"),
)


async def test_reasoning_text_and_calls_are_items_of_their_own():
    async with running_fleet(ScriptedWorker(parts=PARTS)) as fleet:
        whole = await fleet.client.responses.create(model="tiny", input="hello")
        stream = await fleet.client.responses.create(model="tiny", input="hello", stream=True)
        events = [event async for event in stream]
    for response in (whole, events[-1].response):
        assert [item.type for item in response.output] == [
            "reasoning",
            "message",
            "function_call",
            "function_call",
        ]
        thought, message, first, second = response.output
        assert thought.content[0].text == "let me think"
        assert message.content[0].text == "I look. "
        assert (first.name, json.loads(first.arguments)) == ("get_weather", {"city": "Rome"})
        assert second.arguments == "{}"
        assert first.call_id != second.call_id
        assert {item.status for item in response.output} == {"completed"}
        assert response.usage.output_tokens_details.reasoning_tokens == 2
    kinds = [event.type for event in events]
    assert kinds.count("response.reasoning_text.delta") == 2
    assert kinds.count("response.function_call_arguments.delta") == 3
    assert kinds.count("response.function_call_arguments.done") == 2
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output, "what was streamed is what it says at the end"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_tools_and_their_history_reach_the_worker():
    worker = ScriptedWorker(tokens=1)
    async with running_fleet(worker) as fleet:
        await fleet.client.responses.create(
            model="tiny",
            input=[
                {"role": "user", "content": "weather?"},
                {"type": "reasoning", "id": "rs_1", "summary": [], "content": [THOUGHT]},
                {
                    "type": "function_call",
                    "call_id": "c1",
                    "name": "get_weather",
                    "arguments": "{}",
                },
                {"role": "assistant", "content": "I look"},
                {
                    "type": "function_call",
                    "call_id": "c2",
                    "name": "get_weather",
                    "arguments": "{}",
                },
                {"type": "function_call_output", "call_id": "c1", "output": "sun"},
                {
                    "type": "function_call_output",
                    "call_id": "c2",
                    "output": [{"type": "input_text", "text": "rain"}],
                },
            ],
            tools=[WEATHER | {"strict": False}],
            tool_choice={"type": "function", "name": "get_weather"},
            parallel_tool_calls=False,
            reasoning={"effort": "low"},
        )
    (request,) = worker.requests
    user, turn, first, second = request.chat.messages
    assert (user.content, turn.content, turn.reasoning_content) == ("weather?", "I look", "hm")
    assert [call["id"] for call in json.loads(turn.tool_calls)] == ["c1", "c2"]
    assert [(m.role, m.tool_call_id, m.content) for m in (first, second)] == [
        ("tool", "c1", "sun"),
        ("tool", "c2", "rain"),
    ]
    (tool,) = json.loads(request.chat.tools)
    assert tool["function"]["name"] == "get_weather"
    assert tool["function"]["parameters"] == WEATHER["parameters"]
    assert request.chat.tool_choice.name == "get_weather"
    assert request.chat.tool_choice.single
    assert json.loads(request.chat.template_arguments) == {"reasoning_effort": "low"}


async def test_of_allowed_tools_only_these_are_the_models():
    worker = ScriptedWorker(tokens=1)
    tools = [WEATHER, WEATHER | {"name": "other"}]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"name": "other"}]}
    async with running_fleet(worker) as fleet:
        answer = await fleet.http.post(
            "/v1/responses",
            json={"model": "tiny", "input": "x", "tools": tools, "tool_choice": allowed},
        )
    assert answer.json()["tool_choice"] == allowed
    (tool,) = json.loads(worker.requests[0].chat.tools)
    assert tool["function"]["name"] == "other"


async def test_a_call_of_a_custom_tool_is_its_text():
    parts = one_a_token(call(0, "apply", '{"input": "a\\n'), call(0, "", 'b"}'))
    request = {"model": "tiny", "input": "hello", "tools": [{"type": "custom", "name": "apply"}]}
    async with running_fleet(ScriptedWorker(parts=parts)) as fleet:
        answer = await fleet.http.post("/v1/responses", json=request)
    (item,) = answer.json()["output"]
    assert (item["type"], item["input"], item["name"]) == ("custom_tool_call", "a\nb", "apply")


async def test_a_stream_that_fails_ends_with_an_error():
    async def fail(context, request, position):
        if position == 2:
            raise KeyError("a bug of the worker")

    async with running_fleet(ScriptedWorker(before_token=fail)) as fleet:
        stream = await fleet.client.responses.create(model="tiny", input="hello", stream=True)
        kinds: list[str] = []

        async def read() -> None:
            async for event in stream:
                kinds.append(event.type)  # noqa: PERF401 - those before the error count

        with pytest.raises(openai.APIError, match="Workers failed"):
            await read()
    assert kinds[-1] == "response.failed"


async def test_goes_on_from_an_answer_that_is_kept():
    worker = ScriptedWorker(tokens=2)
    async with running_fleet(worker, options=Options(operator="", keep_responses=2)) as fleet:
        create = fleet.client.responses.create
        first = await create(model="tiny", input="one", instructions="be kind")
        second = await create(model="tiny", input="two", previous_response_id=first.id)
        await create(model="tiny", input="three", previous_response_id=second.id)
        assert first.store is True
        with pytest.raises(openai.BadRequestError) as error:  # two later ones are kept
            await create(model="tiny", input="two", previous_response_id=first.id)
        assert error.value.code == "previous_response_not_found"
        unkept = await create(model="tiny", input="one", store=False)
        assert unkept.store is False
        with pytest.raises(openai.BadRequestError, match="not kept"):
            await create(model="tiny", input="two", previous_response_id=unkept.id)
    last = worker.requests[2].chat.messages
    assert [(m.role, m.content) for m in last] == [
        ("user", "one"),
        ("assistant", first.output_text),
        ("user", "two"),
        ("assistant", second.output_text),
        ("user", "three"),
    ], "instructions are of one request only"


async def test_says_so_where_nothing_is_kept():
    async with running_fleet(ScriptedWorker()) as fleet:
        with pytest.raises(openai.BadRequestError, match="keep-responses") as error:
            await fleet.client.responses.create(
                model="tiny", input="two", previous_response_id="resp_1"
            )
        assert error.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError, match="not served here"):
            await fleet.client.responses.retrieve("resp_1")


WRONG = {
    "no input": ({}, "input"),
    "an empty list": ({"input": []}, "input"),
    "a number": ({"input": 1}, "input"),
    "an image": (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input.0.content.0.type",
    ),
    "an unknown item": ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
    "a reference": ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
    "an unknown role": ({"input": [{"role": "king", "content": "x"}]}, "input.0.role"),
    "an output without a call": (
        {"input": [{"type": "function_call_output", "output": "x"}]},
        "input.0.call_id",
    ),
    "a built-in tool": ({"input": "x", "tools": [{"type": "web_search"}]}, "tools.0.type"),
    "a grammar": (
        {
            "input": "x",
            "tools": [{"type": "custom", "name": "p", "format": {"type": "grammar"}}],
        },
        "tools.0.format",
    ),
    "a choice of a built-in tool": (
        {"input": "x", "tool_choice": {"type": "web_search"}},
        "tool_choice.type",
    ),
    "background": ({"input": "x", "background": True}, "background"),
    "a conversation": ({"input": "x", "conversation": "conv_1"}, "conversation"),
    "truncation": ({"input": "x", "truncation": "auto"}, "truncation"),
    "a prompt": ({"input": "x", "prompt": {"id": "x"}}, "prompt"),
    "no tokens": ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
    "hot": ({"input": "x", "temperature": 3}, "temperature"),
    "a schema without a name": (
        {"input": "x", "text": {"format": {"type": "json_schema", "schema": {}}}},
        "text.format",
    ),
}


@pytest.mark.parametrize("name", WRONG)
async def test_refuses_by_name(name: str):
    body, param = WRONG[name]
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post("/v1/responses", json={"model": "tiny"} | body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["type"] == "invalid_request_error"

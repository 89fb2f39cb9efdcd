import json
from typing import Any

import anthropic
from paths import LIMIT, MODEL, PARAMETERS, QUESTION, URL, Forecast, check

client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0, timeout=120)
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]
TOOL: Any = {"name": "weather", "description": "The weather.", "input_schema": PARAMETERS}


def chat() -> None:
    answer = client.messages.create(model=MODEL, messages=ASKED, max_tokens=16)
    assert answer.content[0].text
    assert answer.stop_reason in ("end_turn", "max_tokens")
    assert client.messages.count_tokens(model=MODEL, messages=ASKED).input_tokens


def stream() -> None:
    with client.messages.stream(model=MODEL, messages=ASKED, max_tokens=16) as events:
        assert "".join(events.text_stream)
        assert events.get_final_message().usage.output_tokens


def tools() -> None:
    answer = client.messages.create(
        model=MODEL, messages=ASKED, tools=[TOOL], tool_choice={"type": "any"}, max_tokens=LIMIT
    )
    assert answer.stop_reason == "tool_use"
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert Forecast.model_validate(calls[0].input)
    results = [
        {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls
    ]
    last = client.messages.create(
        model=MODEL,
        messages=[
            *ASKED,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": results},
        ],
        tools=[TOOL],
        tool_choice={"type": "none"},
        max_tokens=16,
    )
    assert last.content


def json_() -> None:
    answer = client.messages.create(
        model=MODEL,
        messages=ASKED,
        max_tokens=LIMIT,
        output_config={"format": {"type": "json_schema", "schema": PARAMETERS}},
    )
    assert Forecast.model_validate(json.loads(answer.content[0].text))


check(chat=chat, stream=stream, tools=tools, json=json_)

import json
from typing import Any

import openai
from paths import ENCODER, LIMIT, MODEL, QUESTION, SIZE, TOOL, URL, Forecast, check

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)
ASKED: list[Any] = [{"role": "user", "content": QUESTION}]


def chat() -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASKED, max_tokens=16)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens


def stream() -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=ASKED,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] in ("stop", "length")
    assert chunks[-1].usage.completion_tokens


def tools() -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=ASKED, tools=[TOOL], tool_choice="required", max_tokens=LIMIT
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    (call, *_) = message.tool_calls
    assert Forecast.model_validate_json(call.function.arguments)
    replies = [
        {"role": "tool", "tool_call_id": made.id, "content": "sunny"} for made in message.tool_calls
    ]
    last = client.chat.completions.create(
        model=MODEL, messages=[*ASKED, message, *replies], tools=[TOOL], tool_choice="none",
        max_tokens=16,
    )  # fmt: skip
    assert last.choices[0].message.content
    with client.chat.completions.stream(
        model=MODEL, messages=ASKED, tools=[TOOL], max_tokens=LIMIT,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    ) as events:  # fmt: skip
        whole = events.get_final_completion().choices[0].message.tool_calls[0].function
    assert Forecast.model_validate_json(whole.arguments)


def json_() -> None:
    parsed = client.chat.completions.parse(
        model=MODEL, messages=ASKED, response_format=Forecast, max_tokens=LIMIT
    )
    assert isinstance(parsed.choices[0].message.parsed, Forecast)
    plain = client.chat.completions.create(
        model=MODEL, messages=ASKED, response_format={"type": "json_object"}, max_tokens=LIMIT
    ).choices[0]
    assert plain.finish_reason == "length" or isinstance(json.loads(plain.message.content), dict)


def embeddings() -> None:
    made = client.embeddings.create(model=ENCODER, input=["a", "b"])
    assert [len(one.embedding) for one in made.data] == [SIZE, SIZE]


def responses() -> None:
    answer = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=16)
    assert answer.output_text
    parsed = client.responses.parse(
        model=MODEL, input=QUESTION, text_format=Forecast, max_output_tokens=LIMIT
    )
    assert isinstance(parsed.output_parsed, Forecast)
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=16) as events:
        kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1] in ("response.completed", "response.incomplete")) == (
        "response.created", True,
    )  # fmt: skip
    assert client.responses.input_tokens.count(model=MODEL, input=QUESTION).input_tokens


check(chat=chat, stream=stream, tools=tools, json=json_, embeddings=embeddings, responses=responses)

import litellm
from paths import ENCODER, LIMIT, MODEL, PARAMETERS, QUESTION, SIZE, TOOL, URL, Forecast, check

ASKED = {
    "messages": [{"role": "user", "content": QUESTION}],
    "api_base": f"{URL}/v1",
    "api_key": "none",
    "num_retries": 0,
    "timeout": 120,
}
WAYS = (f"hosted_vllm/{MODEL}", f"openai/{MODEL}")


def chat() -> None:
    for way in WAYS:
        assert litellm.completion(model=way, max_tokens=16, **ASKED).choices[0].message.content


def stream() -> None:
    for way in WAYS:
        chunks = litellm.completion(model=way, max_tokens=16, stream=True, **ASKED)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def tools() -> None:
    for way in WAYS:
        answer = litellm.completion(
            model=way, tools=[TOOL], tool_choice="required", max_tokens=LIMIT, **ASKED
        )
        call = answer.choices[0].message.tool_calls[0]
        assert Forecast.model_validate_json(call.function.arguments)


def json() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": PARAMETERS}}
    for way in WAYS:
        answer = litellm.completion(model=way, response_format=form, max_tokens=LIMIT, **ASKED)
        assert Forecast.model_validate_json(answer.choices[0].message.content)


def embeddings() -> None:
    made = litellm.embedding(
        model=f"openai/{ENCODER}", input=["a", "b"], api_base=f"{URL}/v1", api_key="none"
    )
    assert [len(one["embedding"]) for one in made.data] == [SIZE, SIZE]


async def messages() -> None:
    """Anthropic's API in front, ours behind."""
    asked = {name: value for name, value in ASKED.items() if name != "num_retries"}
    for way in WAYS:
        answer = await litellm.anthropic.messages.acreate(model=way, max_tokens=16, **asked)
        assert answer["content"]


check(chat=chat, stream=stream, tools=tools, json=json, embeddings=embeddings, messages=messages)

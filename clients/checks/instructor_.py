import instructor
import openai
from paths import LIMIT, MODEL, QUESTION, URL, Forecast, check

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, timeout=120)
ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": QUESTION}],
    "response_model": Forecast,
    "max_retries": 0,
}


def tools() -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    assert isinstance(made.chat.completions.create(max_tokens=LIMIT, **ASKED), Forecast)


def json() -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    assert isinstance(made.chat.completions.create(max_tokens=LIMIT, **ASKED), Forecast)


def stream() -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    parts = list(made.chat.completions.create_partial(max_tokens=LIMIT, **ASKED))
    assert parts[-1].city


check(stream=stream, tools=tools, json=json)

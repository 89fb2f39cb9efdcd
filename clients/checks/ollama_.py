import ollama
from paths import ENCODER, LIMIT, MODEL, PARAMETERS, QUESTION, SIZE, TOOL, URL, Forecast, check

client = ollama.Client(host=URL, timeout=120)
ASKED = [{"role": "user", "content": QUESTION}]


def chat() -> None:
    assert client.chat(MODEL, ASKED, options={"num_predict": 16}).message.content
    assert client.generate(MODEL, QUESTION, options={"num_predict": 16}).response
    assert any(model.model for model in client.list().models)
    assert client.show(MODEL)


def stream() -> None:
    parts = list(client.chat(MODEL, ASKED, stream=True, options={"num_predict": 16}))
    assert "".join(part.message.content or "" for part in parts)
    assert parts[-1].done


def tools() -> None:
    """The model may call or not: this API has no way to say that it must."""
    answer = client.chat(MODEL, ASKED, tools=[TOOL], options={"num_predict": LIMIT})
    assert answer.message.content or answer.message.tool_calls


def json() -> None:
    answer = client.chat(MODEL, ASKED, format=PARAMETERS, options={"num_predict": LIMIT})
    assert Forecast.model_validate_json(answer.message.content)


def embeddings() -> None:
    vectors = client.embed(ENCODER, ["a", "b"]).embeddings
    assert [len(vector) for vector in vectors] == [SIZE, SIZE]


check(chat=chat, stream=stream, tools=tools, json=json, embeddings=embeddings)

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from paths import ENCODER, LIMIT, MODEL, QUESTION, SIZE, URL, Forecast, check, weather

settings = {"base_url": f"{URL}/v1", "api_key": "none", "max_retries": 0, "timeout": 120}
model = ChatOpenAI(model=MODEL, max_completion_tokens=LIMIT, **settings)


def chat() -> None:
    assert model.invoke(QUESTION).text


def stream() -> None:
    assert "".join(str(chunk.text) for chunk in model.stream(QUESTION))


def tools() -> None:
    made = tool(weather)
    calls = model.bind_tools([made], tool_choice="any").invoke(QUESTION).tool_calls
    assert made.invoke(calls[0]).content
    named = model.bind_tools([made], tool_choice="weather", parallel_tool_calls=False)
    assert len(named.invoke(QUESTION).tool_calls) == 1


def json() -> None:
    for method in ("json_schema", "function_calling"):
        found = model.with_structured_output(Forecast, method=method).invoke(QUESTION)
        assert isinstance(found, Forecast), method


def embeddings() -> None:
    # Without this it sends token ids of OpenAI's own tokenizer, as its manual says.
    encoder = OpenAIEmbeddings(model=ENCODER, check_embedding_ctx_length=False, **settings)
    assert [len(vector) for vector in encoder.embed_documents(["a", "b"])] == [SIZE, SIZE]


check(chat=chat, stream=stream, tools=tools, json=json, embeddings=embeddings)

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from paths import ENCODER, LIMIT, MODEL, QUESTION, SIZE, URL, Forecast, check, weather

settings = {"api_base": f"{URL}/v1", "api_key": "none", "max_retries": 0, "timeout": 120}
model = OpenAILike(
    model=MODEL, is_chat_model=True, is_function_calling_model=True, max_tokens=LIMIT,
    context_window=2048, should_use_structured_outputs=True, **settings,
)  # fmt: skip
ASKED = [ChatMessage(role="user", content=QUESTION)]


def chat() -> None:
    assert model.chat(ASKED).message.content
    plain = OpenAILike(model=MODEL, max_tokens=16, **settings)  # it goes to /v1/completions
    assert plain.complete("Rome, Paris and").text


def stream() -> None:
    assert "".join(part.delta or "" for part in model.stream_chat(ASKED))


def tools() -> None:
    made = FunctionTool.from_defaults(weather)
    answer = model.chat_with_tools([made], chat_history=ASKED, tool_required=True)
    calls = model.get_tool_calls_from_response(answer)
    assert made.call(**calls[0].tool_kwargs).content


def json() -> None:
    found = model.as_structured_llm(Forecast).chat(ASKED)
    assert isinstance(found.raw, Forecast)


def embeddings() -> None:
    encoder = OpenAILikeEmbedding(model_name=ENCODER, **settings)
    vectors = encoder.get_text_embedding_batch(["a", "b"])
    assert [len(vector) for vector in vectors] == [SIZE, SIZE]


check(chat=chat, stream=stream, tools=tools, json=json, embeddings=embeddings)

"""Chunks of a stream are, byte for byte, what encoding each of them as a whole gives."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_gateway.openai_api.chat_answer import ChatAnswer
from modelfleet_gateway.openai_api.completions import CompletionAnswer
from modelfleet_proto import worker_pb2


def compact(body) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("kind", [ChatAnswer, CompletionAnswer])
@pytest.mark.parametrize("include_usage", [False, True])
@given(
    texts=st.lists(st.text(min_size=1), min_size=1, max_size=4),
    index=st.integers(0, 3),
    model=st.text(min_size=1),
)
def test_a_chunk_with_text_is_what_json_says(kind, include_usage, texts, index, model):
    answer = kind(model=model, created=1_700_000_000.5, include_usage=include_usage)
    answer.fingerprint = "digest-1"
    for text in texts:
        (chunk,) = answer.chunks(index, worker_pb2.Tokens(ids=[1], text=text))
        body = json.loads(chunk)
        assert chunk == compact(body)
        assert list(body) == [
            *("id", "object", "created", "model", "system_fingerprint", "choices"),
            *(["usage"] if include_usage else []),
        ]
        assert body["model"] == model
        assert body["system_fingerprint"] == "digest-1"
        assert body["choices"] == [answer.part(index, text, None)]


@pytest.mark.parametrize("kind", [ChatAnswer, CompletionAnswer])
def test_each_choice_and_each_answer_has_surroundings_of_its_own(kind):
    first, second = (kind(model=name, created=1.0) for name in ("a", "b"))
    for answer in (first, second, first):
        for index in (0, 1, 0):
            (chunk,) = answer.chunks(index, worker_pb2.Tokens(text="t"))
            body = json.loads(chunk)
            assert (body["model"], body["choices"][0]["index"]) == (answer.model, index)


def test_text_that_was_held_back_comes_before_the_end():
    answer = ChatAnswer(model="m", created=1.0)
    end = worker_pb2.Finished(reason=worker_pb2.FINISH_REASON_STOP, text="\0rest")
    text, closing = (json.loads(chunk) for chunk in answer.chunks(0, end))
    assert text["choices"][0]["delta"] == {"content": "\0rest"}
    assert closing["choices"][0]["finish_reason"] == "stop"


def test_tokens_without_text_are_no_chunk():
    assert ChatAnswer(model="m", created=1.0).chunks(0, worker_pb2.Tokens(ids=[1])) == []

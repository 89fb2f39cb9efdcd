"""The official client against the real model: what a program that uses it relies on."""

from __future__ import annotations

import math

import openai
import pytest

from local_fleet import Fleet

pytestmark = pytest.mark.integration

COUNT = [{"role": "user", "content": "Count from one to ten in words."}]


@pytest.fixture
def client(served_smollm2: Fleet) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{served_smollm2.endpoint}/v1", api_key="none", max_retries=0, timeout=240
    )


def test_lists_the_model(client: openai.OpenAI):
    assert {"smollm2", "default/smollm2"} & {model.id for model in client.models.list()}
    assert client.models.retrieve("default/smollm2").owned_by


def test_a_stream_and_a_whole_answer_say_the_same(client: openai.OpenAI):
    asked = {"model": "default/smollm2", "messages": COUNT, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.system_fingerprint == chunks[0].system_fingerprint


def test_ends_before_a_stop_string(client: openai.OpenAI):
    asked = {"model": "smollm2", "messages": COUNT, "max_tokens": 40, "temperature": 0}
    full = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = full[len(full) // 2 :][:5]
    stopped = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert stopped.message.content == full[: full.index(stop)]
    assert stopped.finish_reason == "stop"


def test_a_seed_repeats_an_answer_and_choices_differ(client: openai.OpenAI):
    asked = {
        "model": "smollm2", "messages": COUNT, "max_tokens": 16, "temperature": 1.0, "n": 3,
    }  # fmt: skip
    first, again, other = (
        [c.message.content for c in client.chat.completions.create(**asked, seed=seed).choices]
        for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
    assert len(set(first)) > 1


def test_logprobs_are_a_distribution(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model="smollm2", messages=COUNT, max_tokens=5, temperature=0, logprobs=True, top_logprobs=5
    ).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.content is not None
    assert len(answer.logprobs.content) == 5
    for token in answer.logprobs.content:
        assert token.logprob == max(other.logprob for other in token.top_logprobs), "greedy"
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.001
    text = b"".join(bytes(token.bytes or []) for token in answer.logprobs.content).decode()
    assert text == answer.message.content


def test_plain_completions_take_text_and_batches(client: openai.OpenAI):
    asked = {"model": "smollm2", "max_tokens": 8, "temperature": 0}
    one = client.completions.create(prompt="The capital of France is", **asked)
    two = client.completions.create(prompt=["The capital of France is", "Water is"], **asked)
    assert "Paris" in one.choices[0].text
    assert two.choices[0].text == one.choices[0].text
    assert [choice.index for choice in two.choices] == [0, 1]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"max_tokens": 100_000}, openai.BadRequestError),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError),
    ],
)
def test_errors_are_the_clients_own_exceptions(client: openai.OpenAI, change, error):
    with pytest.raises(error):
        client.chat.completions.create(**({"model": "smollm2", "messages": COUNT} | change))

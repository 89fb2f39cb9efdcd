"""The openai client against a real gateway: what it sends arrives, what it reads is right."""

import asyncio

import openai
import pytest
from gateway_doubles import MODEL, ScriptedWorker, expected_text, running_fleet

HELLO = [{"role": "user", "content": "hello"}]


async def test_answers_a_chat():
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.client.chat.completions.create(model="tiny", messages=HELLO, seed=7)
        assert answer.object == "chat.completion"
        assert answer.id.startswith("chatcmpl-")
        assert answer.model == "tiny"
        assert answer.system_fingerprint == "digest-1"
        assert answer.choices[0].message.role == "assistant"
        assert answer.choices[0].message.content == expected_text("hello", 8, chat=True)
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.model_dump(exclude_none=True) == {
            "prompt_tokens": 5,
            "completion_tokens": 8,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 2},
        }


async def test_streams_a_chat_with_its_usage():
    async with running_fleet(ScriptedWorker()) as fleet:
        stream = await fleet.client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            seed=7,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == expected_text("hello", 8, chat=True)
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 13
    assert all(chunk.usage is None for chunk in chunks[:-1])

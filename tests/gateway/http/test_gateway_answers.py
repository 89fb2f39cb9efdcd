"""The openai client against a real gateway: what it sends arrives, what it reads is right."""

import asyncio
import json

import openai
import pytest

from gateway_doubles import (
    MODEL,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from modelfleet_gateway.openai_api.answer import FINISH_REASONS
from modelfleet_gateway.routing.stream import KNOWN_REASONS
from modelfleet_proto import worker_pb2

HELLO = [{"role": "user", "content": "hello"}]


async def text_of(stream) -> str:
    """What a person reads of a chat stream."""
    return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])


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


def test_the_synchronous_client_works_too():
    async def ask() -> str:
        async with running_fleet(ScriptedWorker()) as fleet:

            def blocking() -> str:
                with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key="none") as client:
                    answer = client.completions.create(model="tiny", prompt="hello", seed=7)
                    return answer.choices[0].text

            return await asyncio.to_thread(blocking)

    assert asyncio.run(ask()) == expected_text("hello", 8)


async def test_every_parameter_reaches_the_worker():
    worker = ScriptedWorker()
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    async with running_fleet(worker) as fleet:
        await fleet.client.chat.completions.create(
            model="tiny",
            messages=[
                {"role": "developer", "content": "be kind"},
                {"role": "user", "name": "ann", "content": parts},
                {"role": "assistant", "content": None},
            ],
            temperature=0.5,
            top_p=0.25,
            seed=-1,
            stop=["x", "y"],
            max_completion_tokens=3,
            max_tokens=99,
            logprobs=True,
            top_logprobs=2,
            presence_penalty=2,
            frequency_penalty=-2,
            logit_bias={"50256": -100, "7": 2.5},
            user="u",
            extra_body={
                "top_k": 4,
                "min_p": 0.125,
                "repetition_penalty": 1.25,
                "ignore_eos": True,
                "stop_token_ids": [9],
                "unheard_of": 1,
            },
            extra_headers={"x-request-id": "mine-1"},
        )
        await fleet.client.completions.create(model="tiny", prompt=[1, 2, 3])
        await fleet.client.completions.create(model="tiny", prompt="p")
    chat, ids, plain = worker.requests
    assert [(m.role, m.content, m.name) for m in chat.chat.messages] == [
        ("system", "be kind", ""),
        ("user", "a\nb", "ann"),
        ("assistant", "", ""),
    ]
    assert chat.chat.add_generation_prompt
    assert chat.model == MODEL
    assert chat.request_id.startswith("mine-1-")
    assert chat.sampling == worker_pb2.Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=4,
        min_p=0.125,
        logit_bias={50256: -100, 7: 2.5},
        repetition_penalty=1.25,
        presence_penalty=2,
        frequency_penalty=-2,
        unstated=worker_pb2.Unstated(),
    )
    assert chat.seed == 2**64 - 1
    assert chat.created > 1e9
    assert (chat.stop.max_tokens, list(chat.stop.strings)) == (3, ["x", "y"])
    assert (list(chat.stop.token_ids), chat.stop.ignore_eos) == ([9], True)
    assert (chat.logprobs.enabled, chat.logprobs.top) == (True, 2)
    assert list(ids.prompt_token_ids.ids) == [1, 2, 3]
    unstated = dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "repetition_penalty"), True)
    assert ids.sampling == worker_pb2.Sampling(
        temperature=1, top_p=1, repetition_penalty=1, unstated=worker_pb2.Unstated(**unstated)
    )
    assert ids.stop.max_tokens == 0, "as much as the context has room for"
    assert not ids.logprobs.enabled
    assert ids.seed != plain.seed, "a request without a seed gets one of its own"


async def test_numbers_choices_prompt_by_prompt():
    async with running_fleet(ScriptedWorker(slots=3)) as fleet:
        answer = await fleet.client.completions.create(
            model="tiny", prompt=["one", "two"], n=2, seed=7, max_tokens=4
        )
    expected = [
        expected_text(prompt, 4, choice=choice) for prompt in ("one", "two") for choice in (0, 1)
    ]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == 10, "each prompt counts once"
    assert answer.usage.completion_tokens == 16


async def test_streams_several_choices_side_by_side():
    async with running_fleet(ScriptedWorker()) as fleet:
        stream = await fleet.client.chat.completions.create(
            model="tiny", messages=HELLO, n=3, seed=7, stream=True
        )
        texts = ["", "", ""]
        reasons = []
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                reasons += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [expected_text("hello", 8, choice=i, chat=True) for i in range(3)]
    assert reasons == ["stop"] * 3


async def test_logprobs_have_openais_shapes():
    async with running_fleet(ScriptedWorker(tokens=2)) as fleet:
        chat = await fleet.client.chat.completions.create(
            model="tiny", messages=HELLO, seed=7, logprobs=True, top_logprobs=2
        )
        bare = await fleet.client.chat.completions.create(
            model="tiny", messages=HELLO, seed=7, logprobs=True
        )
        plain = await fleet.client.completions.create(
            model="tiny", prompt="hello", seed=7, logprobs=2
        )
        stream = await fleet.client.completions.create(
            model="tiny", prompt="hello", seed=7, logprobs=2, stream=True
        )
        chunks = [chunk.choices[0] async for chunk in stream]
    first = chat.choices[0].logprobs.content[0]
    assert bytes(first.bytes).decode() == first.token
    assert first.logprob == -0.5
    assert [alternative.token for alternative in first.top_logprobs] == [first.token, "\ufffd"]
    assert first.top_logprobs[1].bytes == [0xE2, 0x82]
    assert [e.top_logprobs for e in bare.choices[0].logprobs.content] == [[], []]

    words = expected_text("hello", 2).split()
    logprobs = plain.choices[0].logprobs
    assert logprobs.tokens == [f"{word} " for word in words]
    assert logprobs.token_logprobs == [-0.5, -0.5]
    assert logprobs.text_offset == [0, len(words[0]) + 1]
    assert logprobs.top_logprobs[0] == {f"{words[0]} ": -0.5, "\ufffd": -1.0}
    offsets = [offset for c in chunks if c.logprobs for offset in c.logprobs.text_offset]
    assert offsets == logprobs.text_offset


async def test_says_which_model_and_worker_answered():
    async with running_fleet(ScriptedWorker()) as fleet:
        body = {"model": "tiny", "prompt": "p", "stream": True}
        answer = await fleet.http.post(
            "/v1/completions", json=body, headers={"x-request-id": "mine"}
        )
        other = await fleet.http.post(
            "/v1/completions", json={**body, "stream": False}, headers={"x-request-id": "a b"}
        )
    assert answer.headers["x-modelfleet-model"] == MODEL
    assert answer.headers["x-modelfleet-worker"] == "w-0"
    assert answer.headers["x-request-id"] == "mine"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert other.headers["x-modelfleet-worker"] == "w-0"
    assert other.headers["x-request-id"].startswith("req-"), "an id that is no id is replaced"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_generated_answer_tells_the_client_to_leave_a_gateway_that_drains(stream):
    body = {"model": "tiny", "messages": HELLO, "stream": stream}
    async with running_fleet(ScriptedWorker()) as fleet:
        before = await fleet.http.post("/v1/chat/completions", json=body)
        fleet.gateway.app.draining.set()
        while_draining = await fleet.http.post("/v1/chat/completions", json=body)
    assert "connection" not in before.headers
    assert while_draining.headers["connection"] == "close"


async def test_lists_models_by_every_name():
    async with running_fleet(ScriptedWorker()) as fleet:
        models = (await fleet.client.models.list()).data
        card = await fleet.client.models.retrieve(MODEL)
        with pytest.raises(openai.NotFoundError, match=r"tiny, default/tiny"):
            await fleet.client.models.retrieve("gpt-5")
    assert [(m.id, m.owned_by, m.created) for m in models] == [
        ("tiny", "default", 1_700_000_000),
        (MODEL, "default", 1_700_000_000),
    ]
    assert card.id == MODEL


async def test_64_concurrent_streams_each_get_their_own_text():
    workers = [ScriptedWorker(f"w-{i}", slots=20, tokens=20, pace=0.002) for i in range(2)]
    async with running_fleet(*workers) as fleet:

        async def ask(number: int) -> str:
            stream = await fleet.client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": f"number {number}"}],
                seed=7,
                stream=True,
            )
            return await text_of(stream)

        texts = await asyncio.gather(*(ask(number) for number in range(64)))
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
    assert texts == [expected_text(f"number {n}", 20, chat=True) for n in range(64)]
    shares = [len(worker.requests) for worker in workers]
    assert min(shares) >= 24, f"both work: {shares}"


async def test_metrics_tell_what_happened():
    async with running_fleet(ScriptedWorker()) as fleet:
        await fleet.client.completions.create(model="tiny", prompt="p", n=2)
        with pytest.raises(openai.BadRequestError):
            await fleet.client.completions.create(model="tiny", prompt="p", temperature=-1)
        text = fleet.metrics()
    assert f'modelfleet_gateway_requests_total{{code="200",model="{MODEL}"}} 1.0' in text
    assert 'modelfleet_gateway_requests_total{code="400",model=""} 1.0' in text
    assert f'modelfleet_gateway_prompt_tokens_total{{model="{MODEL}"}} 5.0' in text
    assert f'modelfleet_gateway_completion_tokens_total{{model="{MODEL}"}} 16.0' in text
    assert f'modelfleet_gateway_time_to_first_token_seconds_count{{model="{MODEL}"}} 2.0' in text
    assert f'modelfleet_gateway_ready_workers{{model="{MODEL}"}} 1.0' in text
    assert f'modelfleet_gateway_in_flight{{model="{MODEL}"}} 0.0' in text


async def test_the_series_of_a_model_go_with_it_and_its_counts_come_back():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        await fleet.client.completions.create(model="tiny", prompt="p")
        fleet.push()
        await eventually(lambda: not fleet.gateway.dispatcher.queues)
        assert MODEL not in fleet.metrics()
        fleet.push(model_view(worker))
        await fleet.ready(1)
        await fleet.client.completions.create(model="tiny", prompt="p")
        text = fleet.metrics()
        assert f'modelfleet_gateway_requests_total{{code="200",model="{MODEL}"}} 1.0' in text
        assert f'modelfleet_gateway_ready_workers{{model="{MODEL}"}} 1.0' in text
        # To the operator it counts on from the gateway's start.
        signals = fleet.operator.signals
        await eventually(lambda: signals[-1].models and signals[-1].models[0].requests == 2)


async def test_every_line_of_a_stream_is_json_or_the_end_mark():
    async with running_fleet(ScriptedWorker(tokens=3)) as fleet:
        body = {"model": "tiny", "messages": HELLO, "stream": True}
        answer = await fleet.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events)


def test_every_finish_reason_that_a_stream_lets_pass_has_a_word_in_openais_api():
    assert FINISH_REASONS.keys() == KNOWN_REASONS

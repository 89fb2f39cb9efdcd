"""Tokenize and Detokenize over real gRPC: what they say is what Generate takes."""

import asyncio

import grpc
import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto.handshake import call_metadata

MODEL = "default/model"
GATEWAY = call_metadata("gateway")


async def tokenize(worker, *, no_special_tokens=False, with_texts=False, **prompt):
    request = pb.GenerateRequest(**({"model": MODEL} | prompt))
    return await worker.stub.Tokenize(
        pb.TokenizeRequest(
            request=request, no_special_tokens=no_special_tokens, with_texts=with_texts
        ),
        metadata=GATEWAY,
    )


async def detokenize(worker, ids, model=MODEL):
    request = pb.DetokenizeRequest(model=model, ids=ids)
    return (await worker.stub.Detokenize(request, metadata=GATEWAY)).text


async def test_counts_what_generate_takes(start_worker):
    worker = await (await start_worker()).ready()
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")], add_generation_prompt=True)
    for prompt in ({"prompt": "one two three"}, {"chat": chat}):
        counted = await tokenize(worker, **prompt)
        assert len(counted.ids) == (await worker.generate(**prompt)).accepted.prompt_tokens
        assert counted.context_length == (await worker.stats()).context_length
        assert not counted.texts


async def test_is_no_load_and_needs_no_slot(start_worker):
    worker = await (await start_worker()).ready(max_sequences=1)
    before = await worker.stats()
    texts = await asyncio.gather(*(tokenize(worker, prompt="word " * n) for n in range(1, 50)))
    assert [len(text.ids) for text in texts] == list(range(1, 50))
    after = await worker.stats()
    assert (after.running, after.waiting, after.steps) == (0, 0, before.steps)
    assert after.prompt_tokens == before.prompt_tokens


async def test_there_and_back(start_worker):
    worker = await (await start_worker()).ready()
    text = "the fleet wakes when asked"
    there = await tokenize(worker, prompt=text, with_texts=True)
    assert await detokenize(worker, there.ids) == text
    assert b"".join(there.texts).decode().strip() == text


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ({"prompt": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"prompt": "x", "model": "default/other"}, grpc.StatusCode.NOT_FOUND),
        ({"prompt": "x " * 200_000}, grpc.StatusCode.OUT_OF_RANGE),
    ],
    ids=["no text", "nothing", "another model", "longer than the context"],
)
async def test_refuses_as_generate_does(start_worker, prompt, code):
    worker = await (await start_worker()).ready()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await tokenize(worker, **prompt)
    assert error.value.code() is code


async def test_refuses_ids_that_there_are_not(start_worker):
    worker = await (await start_worker()).ready()
    limit = (await worker.stats()).context_length
    for ids, code in (
        ([2**31], grpc.StatusCode.INVALID_ARGUMENT),
        ([1] * (limit + 1), grpc.StatusCode.OUT_OF_RANGE),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await detokenize(worker, ids)
        assert error.value.code() is code
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await detokenize(worker, [1], model="default/other")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_worker_without_a_model_says_so(start_worker):
    worker = await start_worker()
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await tokenize(worker, prompt="x")
    assert error.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)

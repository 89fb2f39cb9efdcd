"""`/v1/embeddings` and Ollama's two, by the official client and by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest

from embedding_worker import EmbeddingWorker, vector_of
from gateway_doubles import (
    DEFAULTS,
    ScriptedWorker,
    eventually,
    model_view,
    replace,
    running_fleet,
)
from modelfleet_proto import worker_pb2


async def test_the_official_client_gets_its_vectors():
    worker = EmbeddingWorker()
    async with running_fleet(worker) as fleet:
        create = fleet.client.embeddings.create
        one = await create(model="tiny", input="hello")  # as base64, its default
        several = await create(model="tiny", input=["a", "bc"], encoding_format="float", user="me")
        ids = await create(model="tiny", input=[7, 8])
        lists = await create(model="tiny", input=[[7, 8], [9]], dimensions=2)
    assert one.data[0].embedding == vector_of("hello")
    assert [one.model_dump() for one in several.data] == [
        {"object": "embedding", "index": 0, "embedding": vector_of("a")},
        {"object": "embedding", "index": 1, "embedding": vector_of("bc")},
    ]
    assert (several.usage.prompt_tokens, several.usage.total_tokens) == (3, 3)
    assert several.model == "tiny"
    assert ids.data[0].embedding == vector_of("7,8")
    assert [d.embedding for d in lists.data] == [vector_of("7,8", 2), vector_of("9", 2)]
    assert {request.model for request in worker.embeds} == {"default/tiny"}
    assert not any(request.truncate for request in worker.embeds)


async def test_many_inputs_go_in_several_calls_and_come_back_in_order(tmp_path: Path):
    log = tmp_path / "access"
    worker = EmbeddingWorker()
    texts = [f"text {n}" for n in range(150)]
    async with running_fleet(worker, options=replace(DEFAULTS, access_log=log)) as fleet:
        answer = await fleet.client.embeddings.create(model="tiny", input=texts)
        signalled = await fleet.metric("modelfleet_gateway_prompt_tokens_total")
        # Each of them is cut out of such a body before it is parsed.
        large = ["x" * n for n in range(1000, 1300)]
        of_large = await fleet.client.embeddings.create(model="tiny", input=large)
        many_ids = await fleet.client.embeddings.create(
            model="tiny", input=[[7] * 9000, [8] * 9000]
        )
    assert [one.index for one in answer.data] == list(range(150))
    assert [one.embedding for one in answer.data] == [vector_of(text) for text in texts]
    assert sorted(len(request.inputs) for request in worker.embeds[:3]) == [22, 64, 64]
    # What a worker says of an input names it as the client counts.
    assert {request.first_input for request in worker.embeds[:3]} == {0, 64, 128}
    assert len({request.request_id for request in worker.embeds}) == len(worker.embeds)
    assert [one.embedding for one in of_large.data] == [vector_of(text) for text in large]
    assert many_ids.data[1].embedding == vector_of(",".join(["8"] * 9000))
    tokens = sum(map(len, texts))
    assert signalled == answer.usage.prompt_tokens == tokens
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert (lines[0]["model"], lines[0]["status"]) == ("default/tiny", 200)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", 3]}, "input.1"),
        ({"input": [[]]}, "input.0"),
        ({"input": [1, True]}, "input.0"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_is_wrong_is_a_400_that_names_the_field(fields: dict[str, Any], param: str):
    worker = EmbeddingWorker()
    async with running_fleet(worker) as fleet:
        response = await fleet.http.post("/v1/embeddings", json={"model": "tiny"} | fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not worker.embeds


async def test_models_and_endpoints_that_do_not_fit_say_so():
    chats, embeds = ScriptedWorker(), EmbeddingWorker(worker_id="w-1", model="default/vectors")
    await embeds.start()
    async with running_fleet(chats) as fleet:
        fleet.push(
            model_view(chats),
            model_view(embeds, model="default/vectors", served=("vectors",)),
            model_view(model="default/asleep", served=("asleep",), task="Embed"),
        )
        await fleet.ready(1, "default/vectors")
        with pytest.raises(openai.BadRequestError, match="makes no embeddings") as wrong:
            await fleet.client.embeddings.create(model="tiny", input="a")
        messages = [{"role": "user", "content": "a"}]
        for model in ("vectors", "asleep"):  # of the second one no worker is woken for that
            with pytest.raises(openai.BadRequestError, match="send it to /v1/embeddings"):
                await fleet.client.chat.completions.create(model=model, messages=messages)
        with pytest.raises(openai.NotFoundError):
            await fleet.client.embeddings.create(model="none", input="a")
        assert {"tiny", "vectors"} < {model.id for model in await _all(fleet.client.models.list())}
    await embeds.kill()  # pytest would never exit
    assert (wrong.value.code, wrong.value.param) == ("model_not_supported", "model")
    assert not embeds.requests


async def _all(models: Any) -> list[Any]:
    return [model async for model in models]


@pytest.mark.parametrize(
    ("status", "code"),
    [("INVALID_ARGUMENT", "invalid_value"), ("OUT_OF_RANGE", "context_length_exceeded")],
)
async def test_a_workers_refusal_is_the_clients(status: str, code: str):
    async def refuse(context, request):
        await context.abort(grpc.StatusCode[status], "input 0 is wrong")

    async with running_fleet(EmbeddingWorker(before_embed=refuse)) as fleet:
        with pytest.raises(openai.BadRequestError, match="input 0 is wrong") as caught:
            await fleet.client.embeddings.create(model="tiny", input="a")
    assert caught.value.code == code


async def test_a_worker_that_dies_is_followed_by_another():
    started = asyncio.Event()

    async def wait(context, request):
        started.set()
        await asyncio.sleep(60)

    first = EmbeddingWorker(before_embed=wait)
    second = EmbeddingWorker(worker_id="w-1", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, second) as fleet:
        asked = asyncio.create_task(
            fleet.client.embeddings.create(model="tiny", input=[f"t{n}" for n in range(100)])
        )
        await started.wait()
        second.become(worker_pb2.WORKER_STATE_READY)
        await first.kill()
        answer = await asked
    assert [one.embedding for one in answer.data] == [vector_of(f"t{n}") for n in range(100)]
    assert len(second.embeds) == 2


@pytest.mark.parametrize("missing", [1, 2])
async def test_an_answer_that_lacks_vectors_is_none(missing: int):
    first, second = EmbeddingWorker(missing=missing), EmbeddingWorker(worker_id="w-1")
    async with running_fleet(first, second) as fleet:
        answer = await fleet.client.embeddings.create(model="tiny", input=["a", "b"])
    assert [one.embedding for one in answer.data] == [vector_of("a"), vector_of("b")]


async def test_vectors_of_one_answer_are_of_one_model():
    first = EmbeddingWorker(slots=1)
    second = EmbeddingWorker(worker_id="w-1", weights="weights-2", slots=1)

    async def be_replaced(context, request):
        if len(second.embeds) > 1:
            second.weights = first.weights

    second.before_embed = be_replaced
    async with running_fleet(first, second) as fleet:
        answer = await fleet.client.embeddings.create(model="tiny", input=["a"] * 100)
    assert len(answer.data) == 100
    assert len(first.embeds) + len(second.embeds) == 4, "both calls again"


async def test_waits_for_a_worker_and_counts_as_one_that_waits():
    worker = EmbeddingWorker(state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(fleet.client.embeddings.create(model="tiny", input="a"))
        await eventually(lambda: len(fleet.queued) == 1)
        await eventually(lambda: any(m.waiting for s in fleet.operator.signals for m in s.models))
        worker.become(worker_pb2.WORKER_STATE_READY)
        answer = await asked
    assert answer.data[0].embedding == vector_of("a")


async def test_a_full_worker_is_tried_again_and_a_full_queue_is_a_429():
    gate = asyncio.Event()

    async def wait(context, request):
        await gate.wait()

    worker = EmbeddingWorker(slots=1, before_embed=wait)
    async with running_fleet(worker, max_queue=1) as fleet:
        create = fleet.client.embeddings.create
        running = [asyncio.create_task(create(model="tiny", input="a"))]
        await eventually(lambda: worker.running == 1)
        running.append(asyncio.create_task(create(model="tiny", input="b")))
        await eventually(lambda: len(fleet.queued) == 1)
        with pytest.raises(openai.RateLimitError):
            await create(model="tiny", input="c")
        gate.set()
        answers = await asyncio.gather(*running)
    assert [answer.data[0].embedding for answer in answers] == [vector_of("a"), vector_of("b")]


async def test_a_client_that_leaves_ends_its_call():
    ended = asyncio.Event()

    async def wait(context, request):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    worker = EmbeddingWorker(before_embed=wait)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(fleet.client.embeddings.create(model="tiny", input="a"))
        await eventually(lambda: worker.running == 1)
        asked.cancel()
        async with asyncio.timeout(10):
            await ended.wait()
        await eventually(lambda: not len(fleet.queued))


async def test_ollamas_clients_get_theirs():
    worker = EmbeddingWorker()
    async with running_fleet(worker) as fleet:
        one = await fleet.http.post("/api/embed", json={"model": "tiny:latest", "input": "a"})
        two = await fleet.http.post(
            "/api/embed",
            json={"model": "tiny", "input": ["a", "b"], "truncate": False, "keep_alive": "5m"},
        )
        old = await fleet.http.post("/api/embeddings", json={"model": "tiny", "prompt": "a"})
        wrong = await fleet.http.post("/api/embed", json={"model": "tiny"})
    assert one.json()["embeddings"] == [vector_of("a")]
    assert (one.json()["model"], one.json()["prompt_eval_count"]) == ("tiny", 1)
    assert two.json()["embeddings"] == [vector_of("a"), vector_of("b")]
    assert old.json() == {"embedding": vector_of("a")}
    assert (wrong.status_code, type(wrong.json()["error"])) == (400, str)
    assert [request.truncate for request in worker.embeds] == [True, False, True]

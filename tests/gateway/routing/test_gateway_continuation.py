"""Which worker continues a stream where fleets are mixed, and what the client is told about it."""

import asyncio
import json

import grpc
import pytest

from gateway_doubles import (
    MODEL,
    Fleet,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from modelfleet_gateway.routing.continuation import Exactness, exactness
from modelfleet_proto import worker_pb2

DRAINING = worker_pb2.WORKER_STATE_DRAINING
READY = worker_pb2.WORKER_STATE_READY


def stats(digest: str = "d", **how: str) -> worker_pb2.Stats:
    computation = worker_pb2.Computation(**how) if how else None
    return worker_pb2.Stats(model_digest=digest, computation=computation)


X86 = stats(arithmetic="fma", draws="x86_64", dtype="bfloat16")
ARM = stats(arithmetic="fma", draws="aarch64", dtype="bfloat16")
BF16 = stats("other", arithmetic="bf16-dot", draws="x86_64", dtype="bfloat16")
TORCH = stats(dtype="bfloat16")
TORCH_FLOAT32 = stats(dtype="float32")
OLD = stats()


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(X86, X86, Exactness.EXACT, id="one arithmetic"),
        pytest.param(X86, ARM, Exactness.GREEDY, id="another libm"),
        pytest.param(BF16, X86, Exactness.APPROXIMATE, id="another arithmetic"),
        pytest.param(TORCH, TORCH, Exactness.APPROXIMATE, id="torch promises nothing in 16 bits"),
        pytest.param(TORCH_FLOAT32, TORCH_FLOAT32, Exactness.GREEDY, id="torch in float32"),
        pytest.param(TORCH, X86, Exactness.APPROXIMATE, id="torch, then the step"),
        pytest.param(OLD, X86, Exactness.EXACT, id="the version before promised it by its digest"),
    ],
)
def test_how_exactly_a_stream_goes_on(before, now, expected):
    assert exactness(before, now) is expected


def mixed_worker(name: str, digest: str, **fields) -> ScriptedWorker:
    """All hold the same weights."""
    return ScriptedWorker(name, digest=digest, arithmetic=digest, weights="weights", **fields)


async def hand_over(context, request, position):
    if position == 3:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining: resume it elsewhere")


async def ask(fleet: Fleet) -> tuple[list[str], list[str | None]]:
    """The comments of a stream's answer, and the fingerprints in it; the text must be right."""
    body = {"model": "tiny", "prompt": "p", "seed": 7, "stream": True}
    comments, fingerprints, text = [], [], ""
    async with fleet.http.stream("POST", "/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith(": "):
                comments.append(line.removeprefix(": "))
            elif line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                fingerprints.append(chunk["system_fingerprint"])
                text += chunk["choices"][0]["text"]
    assert text == expected_text("p", 8)
    return comments, list(dict.fromkeys(fingerprints))


async def continued(fleet: Fleet, exactness: str) -> float:
    lines = [line for line in fleet.metrics().splitlines() if f'exactness="{exactness}"' in line]
    return sum(float(line.split()[-1]) for line in lines if "continued_total" in line)


async def test_a_like_worker_is_preferred_and_waited_for():
    busy = asyncio.Event()

    async def slow(context, request, position):
        if not request.HasField("resume"):
            await busy.wait()

    first = mixed_worker("w-0", "bf16", before_token=hand_over)
    like = mixed_worker("w-1", "bf16", slots=1, before_token=slow)
    other = mixed_worker("w-2", "fma", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(like) as fleet:
        filling = asyncio.create_task(ask(fleet))
        await eventually(lambda: like.running)
        await first.start()
        await other.start()
        fleet.push(model_view(like, first, other))
        await fleet.ready(2)
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        other.become(READY)
        await fleet.ready(2)
        await eventually(lambda: len(fleet.queued) == 1)
        busy.set()
        comments, fingerprints = await asked
        await filling
        assert comments == ["continued on w-1: exact"]
        assert fingerprints == ["bf16"]
        assert await continued(fleet, "exact") == 1
        assert not other.requests
    await asyncio.gather(first.kill(), other.kill())


@pytest.mark.parametrize("is_view_new", [False, True], ids=["killed", "gone from the view"])
async def test_without_a_like_worker_another_arithmetic_goes_on_and_says_so(is_view_new):
    first = mixed_worker("w-0", "bf16", pace=0.1)
    other = mixed_worker("w-1", "fma", state=worker_pb2.WORKER_STATE_LOADING)
    loading = mixed_worker("w-2", "bf16", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, other, loading) as fleet:
        asked = asyncio.create_task(ask(fleet))
        meter = fleet.gateway.dispatcher.queues[MODEL].meter
        await eventually(lambda: meter.completion_tokens)
        other.become(READY)
        await fleet.ready(2)
        if is_view_new:
            fleet.push(model_view(other, loading))
        await first.kill()
        comments, fingerprints = await asked
        assert comments == ["continued on w-1: approximate"]
        assert fingerprints == ["bf16", "fma"]
        assert await continued(fleet, "approximate") == 1
        assert await fleet.metric("modelfleet_gateway_lost_total") == 0
    assert other.requests[0].resume.weights_digest == "weights"


async def test_an_answer_that_is_not_streamed_says_how_exactly_it_was_continued():
    first = mixed_worker("w-0", "bf16", before_token=hand_over)
    second = mixed_worker("w-1", "fma", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, second) as fleet:
        body = {"model": "tiny", "prompt": "p", "seed": 7}
        asked = asyncio.create_task(fleet.http.post("/v1/completions", json=body))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        second.become(READY)
        answer = await asked
        assert answer.headers["x-modelfleet-continued"] == "approximate"
        assert answer.json()["system_fingerprint"] == "fma"
        assert answer.json()["choices"][0]["text"] == expected_text("p", 8)
        undisturbed = await fleet.http.post("/v1/completions", json=body)
        assert "x-modelfleet-continued" not in undisturbed.headers


async def test_a_worker_that_promises_equal_bits_leaves_its_streams_to_like_workers():
    first = mixed_worker("w-0", "bf16", before_token=hand_over)
    other = mixed_worker("w-1", "fma", state=worker_pb2.WORKER_STATE_LOADING)
    first.weights = ""  # spec.engine.deterministic
    async with running_fleet(first, other) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        other.become(READY)
        await fleet.ready(1)
        await eventually(lambda: len(fleet.queued) == 1)
        twin = mixed_worker("w-2", "bf16")
        await twin.start()
        fleet.push(model_view(other, twin))
        comments, fingerprints = await asked
        assert (comments, fingerprints) == (["continued on w-2: exact"], ["bf16"])
        await twin.kill()
    assert not other.requests


async def test_metrics_name_how_each_worker_computes():
    compiled, old = mixed_worker("w-0", "bf16-dot"), ScriptedWorker("w-1")
    async with running_fleet(compiled, old) as fleet:
        lines = [x for x in fleet.metrics().splitlines() if "gateway_worker_info{" in x]
        assert len(lines) == 2
        assert 'arithmetic="bf16-dot",digest="bf16-dot",dtype="bfloat16"' in lines[0]
        assert 'worker="w-0"} 1.0' in lines[0]
        await compiled.kill()
        await fleet.ready(1)
        assert fleet.metrics().count("gateway_worker_info{") == 1

"""Workers exit, drain, stop and break the protocol; the client sees one right stream."""

import asyncio

import grpc
import openai
import pytest
import structlog

from gateway_doubles import (
    MODEL,
    EndEarlyError,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    refuse_as_full,
    running_fleet,
)
from modelfleet_gateway.routing import workers as gateway_workers
from modelfleet_proto import worker_pb2

DRAINING = worker_pb2.WORKER_STATE_DRAINING
FAILED = worker_pb2.WORKER_STATE_FAILED
READY = worker_pb2.WORKER_STATE_READY


async def hand_over(context, request, position):
    """Once, in mid-stream, as a drain does."""
    if position == 3:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining: resume it elsewhere")


async def ask(fleet, prompt: str = "p", *, stream: bool = True) -> str:
    """The whole text of a plain completion."""
    if not stream:
        answer = await fleet.client.completions.create(
            model="tiny", prompt=prompt, seed=7, max_tokens=100
        )
        return answer.choices[0].text
    chunks = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, max_tokens=100, stream=True
    )
    return "".join([chunk.choices[0].text async for chunk in chunks])


async def undisturbed(fleet) -> None:
    """Nothing was refused and nothing lost."""
    assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
    assert await fleet.metric("modelfleet_gateway_lost_total") == 0


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_stream_that_is_handed_over_goes_on_elsewhere(stream):
    first = ScriptedWorker("w-0", before_token=hand_over)
    second = ScriptedWorker("w-1")
    async with running_fleet(first, second) as fleet:
        assert await ask(fleet, stream=stream) == expected_text("p", 8)
        await undisturbed(fleet)
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 1
    (resumed,) = second.requests
    assert len(resumed.resume.token_ids) == 3
    assert resumed.resume.model_digest == "digest-1"
    assert (resumed.seed, resumed.created) == (first.requests[0].seed, first.requests[0].created)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_killed_worker_costs_none_of_its_8_streams(stream):
    workers = [ScriptedWorker(f"w-{i}", tokens=30, pace=0.01, slots=8) for i in range(2)]
    async with running_fleet(*workers) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{i}", stream=stream)) for i in range(8)]
        await eventually(lambda: workers[0].running + workers[1].running == 8)
        meter = fleet.gateway.dispatcher.queues[MODEL].meter
        await eventually(lambda: meter.completion_tokens > 40)
        await workers[0].kill()
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 30) for i in range(8)]
        await undisturbed(fleet)
        assert await fleet.metric("modelfleet_gateway_resumed_total") == 4


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.FAILED_PRECONDITION,
    ],
)
async def test_a_worker_that_turns_a_request_away_is_not_the_end(code):
    async def turn_away(context, request, position):
        await context.abort(code, "not here")

    first = ScriptedWorker("w-0", before_accept=turn_away)
    second = ScriptedWorker("w-1")
    async with running_fleet(first, second) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)
    assert len(first.requests) == 1


async def test_a_stream_waits_for_a_worker_of_the_same_digest():
    first = ScriptedWorker("w-0", before_token=hand_over)
    other = ScriptedWorker("w-1", digest="digest-2", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, other) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        other.become(READY)
        await fleet.ready(1)
        await eventually(lambda: len(fleet.queued) == 1)
        assert await ask(fleet, "new") == expected_text("new", 8), "new requests pass it by"
        assert not asked.done()

        twin = ScriptedWorker("w-2")
        await twin.start()
        fleet.push(model_view(other, twin))
        assert await asked == expected_text("p", 8)
        await undisturbed(fleet)
        await twin.kill()
    assert len(twin.requests[0].resume.token_ids) == 3
    assert all(not request.HasField("resume") for request in other.requests)


async def test_a_stream_whose_revision_was_replaced_ends_with_an_error():
    first = ScriptedWorker("w-0", before_token=hand_over)
    other = ScriptedWorker("w-1", digest="digest-2", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, other) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(other))
        await eventually(lambda: len(fleet.queued) == 1)
        assert not asked.done(), "the loading worker may have its digest"
        other.become(READY)
        with pytest.raises(openai.APIError, match="replaced by another revision"):
            await asked


def awaited(fleet) -> list[str]:
    """What the gateway told the operator last."""
    models = fleet.operator.signals[-1].models
    return list(models[0].awaited_revisions) if models else []


async def test_a_stream_whose_revision_can_be_started_again_is_held_for_it():
    first = ScriptedWorker("w-0", before_token=hand_over)
    new = ScriptedWorker("w-1", digest="digest-2", revision="r2")
    again = ScriptedWorker("w-2", state=worker_pb2.WORKER_STATE_LOADING)
    await again.start()
    async with running_fleet(first) as fleet:
        await new.start()
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(new, revisions=("r1", "r2")))
        await fleet.ready(1)
        await eventually(lambda: awaited(fleet) == ["r1"])
        assert await ask(fleet, "new") == expected_text("new", 8), "others do not wait for it"
        assert not asked.done()
        fleet.push(model_view(new, again, revisions=("r1", "r2")))
        await eventually(lambda: awaited(fleet) == ["r1"], within=5)
        again.become(READY)
        assert await asked == expected_text("p", 8)
        await eventually(lambda: awaited(fleet) == [])
        await undisturbed(fleet)
    await asyncio.gather(new.kill(), again.kill())


async def test_a_draining_worker_of_its_revision_is_asked_back_for_a_stream():
    first = ScriptedWorker("w-0", before_token=hand_over)
    twin = ScriptedWorker("w-1", routable=False)
    async with running_fleet(first) as fleet:
        await twin.start()
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(twin))
        await eventually(lambda: awaited(fleet) == ["r1"])
        assert not asked.done()
        twin.routable = True
        fleet.push(model_view(twin))
        assert await asked == expected_text("p", 8)
    await twin.kill()


async def test_a_stream_whose_revision_became_another_model_ends_with_an_error():
    first = ScriptedWorker("w-0", before_token=hand_over)
    moved = ScriptedWorker("w-1", digest="digest-2")
    async with running_fleet(first) as fleet:
        await moved.start()
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: len(first.requests) == 1)
        first.become(DRAINING)
        fleet.push(model_view(moved, revisions=("r1",)))
        with pytest.raises(openai.APIError, match="replaced by another revision"):
            await asked
    await moved.kill()


async def test_a_stream_to_resume_is_held_beyond_the_hold_timeout():
    first = ScriptedWorker("w-0", before_token=hand_over)
    async with running_fleet(first, hold_timeout=0.2) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        await eventually(lambda: len(fleet.queued) == 1)
        with pytest.raises(openai.InternalServerError, match="w"):
            await ask(fleet, "too late")
        assert not asked.done()
        first.before_token = None
        first.become(READY)
        assert await asked == expected_text("p", 8)


async def test_a_stopped_worker_loses_its_streams_to_another(monkeypatch):
    monkeypatch.setattr(gateway_workers, "STATS_TIMEOUT", 0.5)
    first, second = (ScriptedWorker(f"w-{i}", tokens=20, pace=0.01) for i in range(2))
    async with running_fleet(first, second) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{i}")) for i in range(4)]
        await eventually(lambda: first.running == 2)
        first.stopped = True
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 20) for i in range(4)]
        await eventually(lambda: len(first.cancelled) == 2)
        await undisturbed(fleet)

        first.stopped = False
        await fleet.ready(2)


async def test_a_failed_engine_loses_its_streams_to_another():
    async def stall(context, request, position):
        if position == 2:
            await asyncio.sleep(60)

    first = ScriptedWorker("w-0", before_token=stall)
    second = ScriptedWorker("w-1", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(first, second) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: first.running)
        second.become(READY)
        first.become(FAILED)
        assert await asked == expected_text("p", 8)
        await undisturbed(fleet)


async def test_a_draining_worker_keeps_its_streams():
    worker = ScriptedWorker(tokens=20, pace=0.01)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: worker.running)
        worker.become(DRAINING)
        await fleet.ready(0)
        fleet.push(model_view())  # it leaves the view while it drains
        assert await asked == expected_text("p", 20)
    assert len(worker.requests) == 1


async def test_a_request_that_kills_every_worker_ends_with_the_last_error():
    async def break_down(context, request, position):
        if "poison" in request.prompt and position == 2:
            await context.abort(grpc.StatusCode.INTERNAL, "illegal memory access")

    workers = [ScriptedWorker(f"w-{i}", before_token=break_down) for i in range(2)]
    async with running_fleet(*workers) as fleet:
        with pytest.raises(openai.APIError, match="illegal memory access"):
            await ask(fleet, "poison")
        with pytest.raises(openai.InternalServerError) as whole:
            await ask(fleet, "poison", stream=False)
        assert whole.value.status_code == 502
        assert sum(len(worker.requests) for worker in workers) == 10
        assert await fleet.metric("modelfleet_gateway_lost_total") == 2
        assert await ask(fleet) == expected_text("p", 8)


async def test_a_worker_that_ends_without_saying_so_is_resumed():
    async def vanish(context, request, position):
        if position == 4:
            raise EndEarlyError

    first = ScriptedWorker("w-0", before_token=vanish)
    async with running_fleet(first, ScriptedWorker("w-1")) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)


async def test_a_full_worker_sends_the_request_back_to_the_head_of_the_queue():
    taken = 2

    async def others_were_faster(context, request, position):
        nonlocal taken
        if taken:
            taken -= 1
            await refuse_as_full(context)

    worker = ScriptedWorker(slots=1, before_accept=others_were_faster)
    async with running_fleet(worker) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{i}")) for i in range(3)]
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 8) for i in range(3)]
        await undisturbed(fleet)
    assert [request.prompt for request in worker.requests] == ["p0", "p0", "p0", "p1", "p2"]


async def test_a_worker_that_other_gateways_filled_is_left_alone():
    busy, free = ScriptedWorker("w-0", slots=2, running=2), ScriptedWorker("w-1", slots=2)
    async with running_fleet(busy, free) as fleet:
        for number in range(3):
            assert await ask(fleet, f"p{number}") == expected_text(f"p{number}", 8)
    assert busy.requests == []


async def test_a_deleted_model_ends_the_streams_that_wait_for_it():
    worker = ScriptedWorker(before_token=hand_over)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(ask(fleet))
        await eventually(lambda: worker.requests)
        worker.become(DRAINING)
        await eventually(lambda: len(fleet.queued) == 1)
        waiting = asyncio.create_task(ask(fleet, "new"))
        await eventually(lambda: len(fleet.queued) == 2)
        fleet.push(model_view(model="default/other", served=()))
        with pytest.raises(openai.APIError, match="was deleted"):
            await asked
        with pytest.raises(openai.NotFoundError, match="was deleted"):
            await waiting
        assert MODEL not in fleet.gateway.dispatcher.queues


async def test_a_worker_that_dies_between_the_last_token_and_the_end_loses_nothing():
    async def die_late(context, request, position):
        if position == 8:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    first = ScriptedWorker("w-0", before_token=die_late)
    second = ScriptedWorker("w-1")
    async with running_fleet(first, second) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)
    assert len(second.requests[0].resume.token_ids) == 8


async def test_a_worker_of_another_version_gets_nothing_and_the_log_says_why():
    old, good = (
        ScriptedWorker("w-0", refusal="worker/9.0.0 and gateway/0.1.0"),
        ScriptedWorker("w-1"),
    )
    old.state = worker_pb2.WORKER_STATE_LOADING  # it is not counted as ready
    with structlog.testing.capture_logs() as lines:
        async with running_fleet(old, good) as fleet:
            assert await ask(fleet) == expected_text("p", 8)
            await eventually(lambda: any("worker/9.0.0" in str(line) for line in lines))
    assert not old.requests


async def test_a_worker_that_breaks_the_protocol_is_not_used():
    liar = ScriptedWorker("w-0", digest="")  # its streams could not be resumed
    async with running_fleet(liar, ScriptedWorker("w-1")) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
        await undisturbed(fleet)


def going_silent(worker: ScriptedWorker, *, gate: asyncio.Event):
    """A fault: it says nothing more once it has read "poison", and is slow with "slow"."""

    async def read(context, request, position):
        if "poison" in request.prompt:
            worker.stopped = True
            await asyncio.sleep(60)
        if "slow" in request.prompt:
            await gate.wait()

    return read


@pytest.mark.parametrize(
    ("accepted", "choices"),
    [
        pytest.param(True, 1, id="in its prefill"),
        pytest.param(False, 1, id="before it is accepted"),
        pytest.param(False, 2, id="with two choices at once"),
    ],
)
async def test_a_request_that_silences_two_workers_goes_to_no_third_and_alone(
    monkeypatch, accepted, choices
):
    monkeypatch.setattr(gateway_workers, "STATS_TIMEOUT", 1.0)
    gate = asyncio.Event()
    workers = [ScriptedWorker(f"w-{i}", tokens=40, pace=0.05, heartbeat=0.1) for i in range(4)]
    for worker in workers:
        fault = going_silent(worker, gate=gate)
        worker.before_token, worker.before_accept = (fault, None) if accepted else (None, fault)
    async with running_fleet(*workers) as fleet, asyncio.TaskGroup() as tasks:
        prompts = [f"p{i}" for i in range(4)] + [f"slow {i}" for i in range(3)]
        asked = [tasks.create_task(ask(fleet, prompt)) for prompt in prompts]
        await eventually(lambda: sum(len(w.requests) for w in workers) == len(prompts))
        poison = asyncio.create_task(
            fleet.client.completions.create(model="tiny", prompt="poison", n=choices)
        )
        async with asyncio.timeout(20):
            with pytest.raises(openai.InternalServerError, match="2 workers were lost") as ended:
                await poison
        assert ended.value.status_code == 502
        assert ended.value.code == "upstream_lost"
        silenced = [w for w in workers if any(r.prompt == "poison" for r in w.requests)]
        assert len(silenced) == 2
        assert sum(w.stopped for w in workers) == 2
        gate.set()
        assert await asyncio.gather(*asked) == [expected_text(p, 40) for p in prompts]
        assert await fleet.metric("modelfleet_gateway_lost_total") == int(accepted)


async def test_workers_that_are_lost_at_once_are_not_charged_to_who_was_on_one(monkeypatch):
    """As on a node that fails: each is silent before the request comes to it."""
    monkeypatch.setattr(gateway_workers, "STATS_TIMEOUT", 1.0)
    workers = [ScriptedWorker(f"w-{i}", heartbeat=0.1) for i in range(4)]
    async with running_fleet(*workers[:3]) as fleet:
        for worker in workers[:3]:
            worker.stopped = True
            worker.before_token = going_silent(worker, gate=asyncio.Event())
        asked = asyncio.create_task(ask(fleet, "slow"))
        await fleet.ready(0)
        await workers[3].start()
        fleet.push(model_view(*workers))
        assert await asked == expected_text("slow", 8)
        await undisturbed(fleet)
    await workers[3].kill()


LONG = "The prompt is wrong: " + "x" * 20_000


@pytest.mark.parametrize("details", [LONG, "ä" * 4_000, "all 8 slots are taken" + LONG])
async def test_a_refusal_of_any_length_reaches_the_client_as_it_is_and_once(details):
    """Of a worker that does not mark its refusals, and does not cut them, either."""

    async def refuse(context, request, position):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, details)

    worker = ScriptedWorker(before_accept=refuse)
    async with running_fleet(worker) as fleet:
        async with asyncio.timeout(10):
            with pytest.raises(openai.BadRequestError) as refused:
                await ask(fleet)
        assert refused.value.body["message"].startswith(details[:500])
        assert len(refused.value.body["message"]) < 2_000
    assert len(worker.requests) == 1


async def test_a_refusal_that_grpc_cannot_carry_is_not_taken_for_a_full_worker():
    async def refuse(context, request, position):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x" * 5_000_000)

    worker = ScriptedWorker(before_accept=refuse, takes_many=False)
    async with running_fleet(worker) as fleet:
        async with asyncio.timeout(10):
            with pytest.raises(openai.BadRequestError, match="too large to pass on"):
                await ask(fleet)
    assert len(worker.requests) == 1


async def test_an_older_worker_that_is_full_says_so_without_a_mark():
    refused = 0

    async def refuse_once(context, request, position):
        nonlocal refused
        refused += 1
        if refused == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "all 8 slots are taken")

    async with running_fleet(ScriptedWorker(before_accept=refuse_once)) as fleet:
        assert await ask(fleet) == expected_text("p", 8)
    assert refused == 2


async def test_a_worker_whose_model_changes_behind_the_operators_back_gets_nothing():
    altered, good = ScriptedWorker("w-0"), ScriptedWorker("w-1")
    async with running_fleet(altered, good) as fleet:
        altered.digest = "digest-2"
        assert await ask(fleet) == expected_text("p", 8), "its Stats do not say so yet"
        altered.become(READY)
        await fleet.ready(1)
        for number in range(4):
            assert await ask(fleet, f"p{number}") == expected_text(f"p{number}", 8)
        await undisturbed(fleet)
    assert len(altered.requests) == 1
    assert len(good.requests) == 5


async def test_a_stream_that_waits_for_another_worker_keeps_its_connection_awake(monkeypatch):
    monkeypatch.setattr("modelfleet_gateway.http.generation.QUIET", 0.1)
    first = ScriptedWorker("w-0", before_token=hand_over, pace=0.001)
    twin = ScriptedWorker("w-1")
    lines: list[str] = []

    async def listen(fleet) -> None:
        body = {"model": "tiny", "prompt": "p", "seed": 7, "stream": True}
        async with fleet.http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                lines.append(line)  # noqa: PERF401 - the test reads it while it grows

    async with running_fleet(first) as fleet:
        await twin.start()
        heard = asyncio.create_task(listen(fleet))
        await eventually(lambda: first.requests)
        first.become(DRAINING)
        await eventually(lambda: lines.count(": keep-alive") >= 2)
        fleet.push(model_view(twin))
        await heard
        await twin.kill()
    tokens = [line for line in lines if line.startswith("data: {")]
    assert len(tokens) >= 8, "nothing is missing of the answer"
    assert lines[-2] == "data: [DONE]"
    assert lines.index(tokens[2]) < lines.index(": keep-alive") < lines.index(tokens[-1])

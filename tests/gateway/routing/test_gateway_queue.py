"""Requests that wait: bounded, in order, until a worker wakes, never longer than the client."""

import asyncio
import time

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
from modelfleet_proto import worker_pb2

LOADING = worker_pb2.WORKER_STATE_LOADING
READY = worker_pb2.WORKER_STATE_READY


async def ask(fleet, prompt: str = "p", **fields) -> str:
    answer = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, max_tokens=1000, **fields
    )
    return answer.choices[0].text


def blocked_by(gate: asyncio.Event):
    """A fault that holds tokens back until the gate opens."""

    async def wait(context, request, position):
        await gate.wait()

    return wait


async def test_20_requests_sent_at_zero_are_all_answered_when_a_worker_wakes():
    worker = ScriptedWorker(slots=4, state=LOADING)
    async with running_fleet() as fleet:
        asked = []
        for number in range(20):
            asked.append(asyncio.create_task(ask(fleet, f"p{number}")))
            await eventually(lambda: len(fleet.queued) == len(asked))
        await worker.start()
        fleet.push(model_view(worker))
        queue = fleet.gateway.dispatcher.queues[MODEL]
        await eventually(lambda: queue.workers and queue.workers["w-0"].stats)
        assert not worker.requests, "a loading worker gets nothing"
        worker.become(READY)
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 8) for i in range(20)]
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
    await worker.kill()
    served = [request.prompt for request in worker.requests]
    assert served[:4] == ["p0", "p1", "p2", "p3"], "first come, first served"


async def test_the_operator_hears_at_once_of_a_request_without_a_worker():
    async with running_fleet() as fleet:
        await eventually(lambda: fleet.operator.signals)
        began = time.monotonic()
        asked = asyncio.create_task(ask(fleet))

        def heard():
            models = fleet.operator.signals[-1].models
            return models and models[0].waiting == 1

        await eventually(heard)
        assert time.monotonic() - began < 0.4, "signals come every 0.5 s otherwise"
        signals = fleet.operator.signals[-1].models[0]
        assert signals.requests == 1
        assert signals.last_request == pytest.approx(time.time(), abs=5)
        asked.cancel()


async def test_newest_first_serves_the_newest_once_the_oldest_waits_too_long():
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=1)
    async with running_fleet(worker, overload_target=0.01) as fleet:
        await ask(fleet, "teaches what a request takes")
        worker.before_token = blocked_by(gate)
        asked = []
        for number in range(6):
            asked.append(asyncio.create_task(ask(fleet, f"p{number}")))
            await eventually(lambda: len(fleet.queued) + len(worker.requests) - 1 == len(asked))
        queue, loop = fleet.gateway.dispatcher.queues[MODEL], asyncio.get_running_loop()
        await eventually(lambda: queue.requests.oldest_wait(loop.time()) > 0.01)
        assert await fleet.metric("modelfleet_gateway_oldest_wait_seconds") > 0.01
        gate.set()
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 8) for i in range(6)]
        assert await fleet.metric("modelfleet_gateway_oldest_wait_seconds") == 0
        assert await fleet.metric("modelfleet_gateway_queue_wait_p99_seconds") > 0.01
    served = [request.prompt for request in worker.requests[1:]]
    assert served == ["p0", "p5", "p4", "p3", "p2", "p1"]


@pytest.mark.parametrize(("overload_target", "running"), [(1.2, 3), (0.0, 8)])
async def test_a_worker_gets_what_keeps_its_latency_only_newest_first(overload_target, running):
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=8, before_token=blocked_by(gate))
    async with running_fleet(worker, overload_target=overload_target, target_in_flight=3) as fleet:
        asked = [asyncio.create_task(ask(fleet, f"p{number}")) for number in range(8)]
        await eventually(lambda: len(fleet.queued) + len(worker.requests) == 8)
        assert worker.running == running
        gate.set()
        await asyncio.gather(*asked)


async def test_who_was_passed_over_is_not_refused_when_his_hold_timeout_ends():
    """First in, first out would have served it; the worker stalls after it took the newer one."""
    gate, stall = asyncio.Event(), asyncio.Event()
    worker = ScriptedWorker(slots=1)

    async def hold_back(context, request, position):
        await (gate if request.prompt == "runs" else stall).wait()

    async with running_fleet(worker, overload_target=0.01, hold_timeout=1.0) as fleet:
        await ask(fleet, "teaches what a request takes")
        worker.before_token = hold_back
        first = asyncio.create_task(ask(fleet, "runs"))
        await eventually(lambda: len(worker.requests) == 2)
        oldest = asyncio.create_task(ask(fleet, "oldest"))
        await eventually(lambda: len(fleet.queued) == 1)
        newest = asyncio.create_task(ask(fleet, "newest"))
        await eventually(lambda: len(fleet.queued) == 2)
        queue, loop = fleet.gateway.dispatcher.queues[MODEL], asyncio.get_running_loop()
        await eventually(lambda: queue.requests.oldest_wait(loop.time()) > 0.01)
        gate.set()
        await first
        await eventually(lambda: len(worker.requests) == 3)
        assert worker.requests[-1].prompt == "newest"
        await eventually(lambda: queue.requests.oldest_wait(loop.time()) > 1.2)
        assert not oldest.done()
        stall.set()
        assert await oldest == expected_text("oldest", 8)
        await newest
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 0


async def test_a_full_queue_refuses_before_anything_was_started():
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=1, before_token=blocked_by(gate))
    async with running_fleet(worker, max_queue=2) as fleet:
        asked = [asyncio.create_task(ask(fleet, "p0"))]
        await eventually(lambda: worker.requests)
        asked += [asyncio.create_task(ask(fleet, f"p{i}")) for i in (1, 2)]
        await eventually(lambda: len(fleet.queued) == 2)
        with pytest.raises(openai.RateLimitError, match="queue is full") as refused:
            await ask(fleet, "p3")
        assert int(refused.value.response.headers["retry-after"]) >= 1
        assert refused.value.code == "queue_full"
        gate.set()
        assert await asyncio.gather(*asked) == [expected_text(f"p{i}", 8) for i in range(3)]
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 1
        signals = fleet.operator.signals
        await eventually(lambda: signals and any(m.refusals == 1 for m in signals[-1].models))


async def test_a_full_queue_tells_when_a_worker_is_expected():
    async with running_fleet(max_queue=1, eta=time.time() + 600, phase="Download") as fleet:
        waits = asyncio.create_task(ask(fleet, "p0"))
        await eventually(lambda: len(fleet.queued) == 1)
        with pytest.raises(openai.RateLimitError, match=r"ready in about (600|59\d) s") as refused:
            await ask(fleet, "p1")
        assert 96 <= int(refused.value.response.headers["retry-after"]) <= 120
        waits.cancel()


async def test_a_request_with_many_choices_is_queued_as_a_whole_or_not_at_all():
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=1, before_token=blocked_by(gate))
    async with running_fleet(worker, max_queue=3) as fleet:
        whole = asyncio.create_task(ask(fleet, "more choices than the queue holds", n=8))
        await eventually(lambda: len(fleet.queued) == 7)
        with pytest.raises(openai.RateLimitError):
            await ask(fleet, "p", n=2)
        gate.set()
        await whole
        assert len(worker.requests) == 8


async def test_a_wake_that_takes_too_long_is_told_with_its_eta():
    eta = time.time() + 42
    async with running_fleet(hold_timeout=0.2, eta=eta, phase="Download") as fleet:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as refused:
                await ask(fleet, stream=stream)
            assert refused.value.status_code == 503
            assert "phase Download, ready in about 4" in refused.value.message
            assert 30 <= int(refused.value.response.headers["retry-after"]) <= 54
        assert await fleet.metric("modelfleet_gateway_refusals_total") == 2
        assert len(fleet.queued) == 0


CAUSE = "LoadFailed: workers failed 3 times in a row: no config.json"


async def test_a_model_of_which_no_worker_will_come_is_refused_at_once_with_the_cause():
    async with running_fleet(cause=CAUSE, phase="BackOff") as fleet:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as refused:
                await ask(fleet, stream=stream)
            assert refused.value.status_code == 503
            assert refused.value.code == "model_not_ready"
            assert CAUSE in refused.value.message
            assert "retry-after" not in refused.value.response.headers
        assert len(fleet.queued) == 0
        signals = fleet.operator.signals
        await eventually(lambda: signals and any(m.requests == 2 for m in signals[-1].models))


async def test_what_waits_is_refused_when_nothing_will_come_any_more_and_held_when_it_may():
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=1, before_token=blocked_by(gate))
    async with running_fleet(worker) as fleet:
        half = asyncio.create_task(ask(fleet, "half", n=2))
        await eventually(lambda: worker.requests)
        waiting = asyncio.create_task(ask(fleet, "waiting"))
        await eventually(lambda: len(fleet.queued) == 2)
        fleet.push(model_view(worker, cause=CAUSE))
        await eventually(lambda: fleet.gateway.dispatcher.queues[MODEL].view.cause)
        assert not waiting.done(), "a worker is ready, whatever happens to others"
        worker.become(worker_pb2.WORKER_STATE_DRAINING)
        with pytest.raises(openai.InternalServerError, match="cannot be served now: LoadFailed"):
            await waiting
        assert len(fleet.queued) == 1, "a request that was begun is finished"
        fleet.push(model_view(worker))
        await eventually(lambda: not fleet.gateway.dispatcher.queues[MODEL].view.cause)
        later = asyncio.create_task(ask(fleet, "later"))
        await eventually(lambda: len(fleet.queued) == 2)
        gate.set()
        worker.become(READY)
        assert await half == expected_text("half", 8)
        assert await later == expected_text("later", 8)


async def test_a_request_with_choices_under_way_is_not_refused():
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=1, before_token=blocked_by(gate))
    async with running_fleet(worker, hold_timeout=0.2) as fleet:
        asked = asyncio.create_task(ask(fleet, n=2))
        await eventually(lambda: worker.requests)
        with pytest.raises(openai.InternalServerError, match="1 ready workers are busy"):
            await ask(fleet)
        gate.set()
        assert await asked == expected_text("p", 8)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_goes_away_stops_its_generation(stream):
    worker = ScriptedWorker(tokens=10_000, pace=0.01)
    async with running_fleet(worker) as fleet:
        asked = asyncio.create_task(ask(fleet, n=2, stream=stream) if not stream else read(fleet))
        await eventually(lambda: worker.running)
        asked.cancel()
        began = time.monotonic()
        await eventually(lambda: worker.cancelled and not worker.running)
        assert time.monotonic() - began < 0.5
        assert fleet.gateway.dispatcher.queues[MODEL].running == 0
        assert await fleet.metric('modelfleet_gateway_requests_total{code="499"') == 1
        assert await fleet.metric("modelfleet_gateway_lost_total") == 0


async def read(fleet):
    stream = await fleet.client.completions.create(
        model="tiny", prompt="p", max_tokens=10_000, stream=True
    )
    async for _ in stream:
        pass


async def test_a_client_that_goes_away_leaves_the_queue():
    gate = asyncio.Event()
    worker = ScriptedWorker(slots=1, before_token=blocked_by(gate))
    async with running_fleet(worker) as fleet:
        first = asyncio.create_task(ask(fleet, "first"))
        await eventually(lambda: worker.requests)
        gone = [asyncio.create_task(ask(fleet, "gone", n=2)) for _ in range(3)]
        await eventually(lambda: len(fleet.queued) == 6)
        last = asyncio.create_task(ask(fleet, "last"))
        await eventually(lambda: len(fleet.queued) == 7)
        for task in gone:
            task.cancel()
        await eventually(lambda: len(fleet.queued) == 1)
        gate.set()
        assert [await first, await last] == [expected_text(p, 8) for p in ("first", "last")]
    assert [request.prompt for request in worker.requests] == ["first", "last"]


async def test_progress_comments_tell_a_patient_client_what_happens():
    worker = ScriptedWorker()
    async with running_fleet(phase="Weights", eta=time.time() + 30) as fleet:
        lines: list[str] = []

        async def listen():
            async with fleet.http.stream(
                "POST",
                "/v1/completions",
                json={"model": "tiny", "prompt": "p", "seed": 7, "stream": True},
                headers={"x-modelfleet-progress": "true"},
            ) as answer:
                assert answer.status_code == 200
                async for line in answer.aiter_lines():
                    lines.append(line)  # noqa: PERF401 - the test reads it while it grows

        heard = asyncio.create_task(listen())
        await eventually(lambda: lines)
        await worker.start()
        fleet.push(model_view(worker))
        await heard
        await worker.kill()
    assert lines[0].startswith(": waiting for a worker: phase Weights, ready in about ")
    assert lines[0].endswith("; 1 queued")
    assert lines[-2] == "data: [DONE]"


async def test_progress_streams_end_with_an_error_event():
    async with running_fleet(hold_timeout=0.2) as fleet:
        stream = await fleet.client.completions.create(
            model="tiny",
            prompt="p",
            stream=True,
            extra_headers={"x-modelfleet-progress": "true"},
        )
        with pytest.raises(openai.APIError, match="none of its 0 workers is ready"):
            [chunk async for chunk in stream]


async def test_a_client_that_reads_slowly_slows_the_worker_down():
    """The gateway reads ahead no more than the sockets' buffers hold."""
    sent = 0

    async def count(context, request, position):
        nonlocal sent
        sent = position

    worker = ScriptedWorker(tokens=10_000, before_token=count, filler="x" * 20_000)
    async with running_fleet(worker) as fleet:
        async with fleet.http.stream(
            "POST",
            "/v1/completions",
            json={"model": "tiny", "prompt": "p", "max_tokens": 10_000, "stream": True},
        ) as answer:
            assert answer.status_code == 200
            before = -1
            while sent != before:  # until nothing moves any more
                before = sent
                await asyncio.sleep(0.3)
            assert 0 < sent < 2_000, "200 MB were asked for"
        await eventually(lambda: not worker.running)

"""Requests that may be why a worker was lost."""

import asyncio

import grpc
import openai
import pytest

from gateway_doubles import ScriptedWorker, eventually, expected_text, model_view, running_fleet
from gateway_streams import ask, undisturbed
from modelfleet_gateway.routing import workers as gateway_workers


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

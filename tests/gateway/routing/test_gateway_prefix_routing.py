"""Conversations find the worker that has read them, through a whole gateway."""

import asyncio
from collections import Counter

import grpc
import pytest

from gateway_doubles import MODEL, ScriptedWorker, eventually, model_view, running_fleet
from modelfleet_gateway.routing.prefixes import PromptKeys
from modelfleet_gateway.routing.view import WorkerRoute
from modelfleet_gateway.routing.workers import Worker
from modelfleet_proto import worker_pb2

PREFIX_AWARE = {"routing_policy": "PrefixAware"}


def fleet_of(count: int, **fields) -> list[ScriptedWorker]:
    return [ScriptedWorker(f"w-{number}", **fields) for number in range(count)]


async def chat(fleet, *said: str, **fields):
    """The worker that answers a conversation whose messages were these, the user's first."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
    answer = await fleet.client.chat.completions.with_raw_response.create(
        model=MODEL, messages=messages, seed=1, **fields
    )
    return answer.headers["x-modelfleet-worker"]


def routed(fleet) -> Counter[str]:
    """Choices by what decided where they go."""
    found: Counter[str] = Counter()
    for line in fleet.metrics().splitlines():
        if line.startswith("modelfleet_gateway_routed_total{"):
            by = line.partition('by="')[2].partition('"')[0]
            found[by] += int(float(line.split()[-1]))
    return found


async def test_every_turn_of_a_conversation_goes_where_the_first_went():
    async with running_fleet(*fleet_of(4), **PREFIX_AWARE) as fleet:
        used = set()
        for number in range(12):
            said = [f"question {number} " * 50]
            first = await chat(fleet, *said)
            used.add(first)
            for turn in range(3):
                said += [f"answer {turn}", f"and {turn}?"]
                assert await chat(fleet, *said) == first
        assert len(used) > 1
    assert routed(fleet) == {"hash": 12, "prefix": 36}


async def test_a_gateway_without_memory_sends_them_to_the_same_workers():
    """As another gateway beside it does, or the next one."""
    workers = fleet_of(4)
    said = [f"question {number}" for number in range(12)]
    async with running_fleet(*workers, **PREFIX_AWARE) as fleet:
        before = [await chat(fleet, text) for text in said]
    for worker in workers:
        worker.address = ""
    async with running_fleet(*workers, **PREFIX_AWARE) as fleet:
        assert [await chat(fleet, text, "yes", "so?") for text in said] == before


@pytest.mark.parametrize(
    "session",
    [
        {"extra_headers": {"x-session-id": "s"}},
        {"user": "s"},
        {"prompt_cache_key": "s"},
        {"extra_body": {"safety_identifier": "s"}},
    ],
)
async def test_a_session_stays_where_it_is(session):
    async with running_fleet(*fleet_of(4), **PREFIX_AWARE) as fleet:
        where = {await chat(fleet, f"task {number}", **session) for number in range(10)}
    assert len(where) == 1
    assert routed(fleet) == {"session": 10}


async def test_one_hot_prompt_is_spread_when_its_worker_has_its_share():
    workers = fleet_of(3, tokens=400, pace=0.02)
    async with running_fleet(*workers, **PREFIX_AWARE) as fleet:
        asked = [asyncio.create_task(chat(fleet, "the same " * 100)) for _ in range(18)]
        await eventually(lambda: sum(worker.running for worker in workers) == 18)
        assert max(worker.running for worker in workers) <= 8  # 1.25 times the mean of 6
        assert min(worker.running for worker in workers) >= 2
        for task in asked:
            task.cancel()
    assert routed(fleet)["overflow"] > 0


async def test_at_low_load_the_first_workers_of_the_view_are_used():
    async with running_fleet(*fleet_of(4), pack_in_flight=4, **PREFIX_AWARE) as fleet:
        where = {await chat(fleet, f"question {number}") for number in range(12)}
    assert where == {"w-0"}


async def test_a_conversation_goes_on_elsewhere_when_its_worker_is_gone():
    workers = fleet_of(3)
    async with running_fleet(*workers, **PREFIX_AWARE) as fleet:
        said = ["question " * 100]
        first = await chat(fleet, *said)
        others = [worker for worker in workers if worker.worker_id != first]
        await next(worker for worker in workers if worker.worker_id == first).kill()
        said += ["answer", "and?"]
        second = await chat(fleet, *said)
        assert second in {worker.worker_id for worker in others}
        assert await chat(fleet, *said, "so", "why?") == second


async def test_without_a_policy_it_is_the_least_outstanding():
    """As operators of the version before meant it."""
    workers = fleet_of(2, tokens=400, pace=0.02)
    async with running_fleet(*workers) as fleet:
        asked = [asyncio.create_task(chat(fleet, "the same " * 100)) for _ in range(6)]
        await eventually(lambda: sum(worker.running for worker in workers) == 6)
        assert [worker.running for worker in workers] == [3, 3]
        for task in asked:
            task.cancel()
    assert routed(fleet) == {"load": 6}


async def test_a_worker_that_only_fails_gets_nothing_more_for_a_while():
    async def fails(context, request, position):
        await context.abort(grpc.StatusCode.INTERNAL, "broken")

    broken, well = ScriptedWorker("w-0", before_accept=fails), ScriptedWorker("w-1")
    async with running_fleet(broken, well) as fleet:
        for number in range(8):
            assert await chat(fleet, f"question {number}") == "w-1"
        assert len(broken.requests) == 3
        broken.before_accept = None
        broken.requests.clear()
        fleet.push(model_view(broken))
        await fleet.ready(1)
        assert await chat(fleet, "question") == "w-0", "the last one is always asked"


async def test_a_worker_that_restarts_has_read_nothing():
    keys = PromptKeys(4096, (b"a", b"b"), b"o")
    worker = Worker(WorkerRoute(worker_id="w-0", address="127.0.0.1:1"), MODEL, lambda: None)
    ready = worker_pb2.WORKER_STATE_READY
    worker.on_stats(worker_pb2.Stats(state=ready, instance_id="1", waiting=3, kv_blocks=4))
    slot = worker.take_slot(keys=keys)
    seen = worker.seen_for(keys, 0.0)
    assert (seen.cached, seen.unread, seen.load) == (512, 4096, 1 + 3)
    slot.mark_served()
    slot.release()
    worker.on_stats(
        worker_pb2.Stats(
            state=ready, instance_id="1", waiting=2, running=1, kv_blocks=4, kv_blocks_used=3
        )
    )
    seen = worker.seen_for(keys, 0.0)
    assert (seen.unread, seen.cache_use) == (0, 0.75)
    assert seen.load == 2 + 2, "2 of others run or wait there, and have waited before"
    worker.on_stats(worker_pb2.Stats(state=ready, instance_id="2"))
    assert worker.seen_for(keys, 0.0).cached == 0
    await worker.close()

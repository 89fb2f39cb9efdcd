"""A request is aborted in every state that it can be in; then nothing of it is left.

Whatever these tests forget to look at, the leak check after each test does (leak_check.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gated_engine import Gate, Running
from leak_check import check_names, check_scheduler
from modelfleet_worker.engine.block_manager import BlockManager
from modelfleet_worker.engine.messages import Abort, Add, EngineFailure
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import Scheduler

TOKEN = 7  # that every step draws


@dataclass(frozen=True, kw_only=True)
class Story:
    """How request "x" gets into a state, in so many steps, and what tells that it is there."""

    requests: tuple[Request, ...]
    steps: int
    there: Callable[[Scheduler, Sequence], bool]
    blocks: int = 32
    places: int = 4
    budget: int = 64
    lives: bool = True  # there is something to abort


def request(
    name: str, prompt: int, *, max_tokens: int = 8, first: int = 1, resumed: int = 0
) -> Request:
    """Requests of an equal `first` share their prefixes."""
    return Request(
        request_id=name,
        prompt_ids=(first,) * prompt,
        resumed_ids=(TOKEN,) * resumed,
        max_tokens=max_tokens,
    )


A, B = request("a", 4), request("b", 4)
# Three blocks: the second token makes both need a second one, and the younger gives way.
TIGHT = (request("a", 16, max_tokens=20), request("x", 16, first=2, max_tokens=20))

STORIES = {
    "waiting for a place": Story(
        requests=(A, B, request("x", 4)),
        places=2,
        steps=1,
        there=lambda s, x: x in s.waiting,
    ),
    "waiting for blocks": Story(
        requests=(request("a", 40, max_tokens=8), request("x", 40, first=2)),
        blocks=4,
        steps=1,
        there=lambda s, x: x in s.waiting and s.blocks.available == 1,
    ),
    "in the middle of its chunks": Story(
        requests=(A, request("x", 100), B),
        budget=32,
        steps=2,
        there=lambda s, x: 0 < x.num_computed < 100 and len(x.block_table) == 7,
    ),
    "in the middle of its chunks, on blocks of another": Story(
        requests=(request("a", 100, max_tokens=30), request("x", 200)),
        budget=100,
        steps=2,
        there=lambda s, x: x.num_cached_tokens == 96 and 96 < x.num_computed < 200,
    ),
    "decoding": Story(
        requests=(A, request("x", 4)),
        steps=3,
        there=lambda s, x: x.num_output_tokens == 3 and x.num_uncomputed == 1,
    ),
    "decoding, at the end of a block": Story(
        requests=(A, request("x", 15)),
        steps=2,
        there=lambda s, x: x.num_computed == 16 and len(x.block_table) == 1,
    ),
    "preempted": Story(
        requests=TIGHT,
        blocks=3,
        steps=2,
        there=lambda s, x: x in s.waiting and x.num_output_tokens == 1,
    ),
    "admitted again after a preemption": Story(
        requests=TIGHT,
        blocks=3,
        steps=22,
        there=lambda s, x: x in s.running and x.num_output_tokens > 1,
    ),
    "resumed, before its prefill": Story(
        requests=(A, request("x", 20, resumed=5)), steps=0, there=lambda s, x: x in s.waiting
    ),
    "resumed, in the middle of its chunks": Story(
        requests=(request("x", 60, resumed=5),),
        budget=62,
        steps=1,
        there=lambda s, x: x.num_computed == 62 and x.num_output_tokens == 5,
    ),
    "resumed, decoding": Story(
        requests=(A, request("x", 20, resumed=5, max_tokens=20)),
        steps=2,
        there=lambda s, x: x.num_output_tokens == 7,
    ),
    "just finished": Story(
        requests=(A, request("x", 20, max_tokens=2)),
        steps=2,
        there=lambda s, x: x not in set(s),
        lives=False,
    ),
    "unknown": Story(requests=(A, B), steps=1, there=lambda s, x: True, lives=False),
}
EACH = pytest.mark.parametrize("story", [pytest.param(s, id=name) for name, s in STORIES.items()])


def step(scheduler: Scheduler) -> None:
    plan = scheduler.schedule()
    scheduler.complete(plan, [TOKEN] * sum(chunk.samples for chunk in plan.chunks))
    check_scheduler(scheduler)


@EACH
@pytest.mark.parametrize("caching", [True, False], ids=["cache", "no cache"])
def test_the_scheduler_forgets_it_in_every_state(story: Story, caching: bool):
    scheduler = Scheduler(
        BlockManager(story.blocks, caching=caching),
        max_sequences=story.places,
        max_batch_tokens=story.budget,
    )
    sequences = [Sequence(request) for request in story.requests]
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(story.steps):
        step(scheduler)
    aborted = next((s for s in sequences if s.request.request_id == "x"), sequences[0])
    if caching:
        assert story.there(scheduler, aborted), "the story does not lead where it says"

    assert scheduler.abort("x") is story.lives
    check_scheduler(scheduler)
    assert not scheduler.abort("x")  # twice
    check_scheduler(scheduler)

    for _ in range(300):
        if not len(scheduler):
            break
        step(scheduler)
    others = [s for s in sequences if s.request.request_id != "x"]
    assert all(s.num_output_tokens == s.request.max_tokens for s in others), (
        "others are not concerned"
    )
    everything = scheduler.blocks.allocate(story.blocks)
    assert everything is not None
    scheduler.blocks.release(everything)


@EACH
def test_the_engine_forgets_it_in_every_state(story: Story):
    """Its abort comes while the step after the story's last one is computed."""
    gate = Gate(num_blocks=story.blocks)
    with Running(gate, max_sequences=story.places, max_batch_tokens=story.budget) as run:
        for one in story.requests:
            run.engine.submit(Add(one))
        outputs = [o for _ in range(story.steps) for o in run.let_through(gate).outputs]
        assert gate.entered.acquire(timeout=10)
        for _ in range(2):
            run.engine.submit(Abort("x"))
        gate.steps.release()
        step = run.step()
        outputs += step.outputs
        gate.steps.release(10**6)
        while step.stats.running or step.stats.waiting:
            step = run.step()
            outputs += step.outputs
            assert "x" not in {o.request_id for o in step.outputs}, "the step after still has it"
        assert step.stats.kv_blocks_used == 0
        finished = {o.request_id for o in outputs if o.finished}
        assert finished >= {r.request_id for r in story.requests} - {"x"}
        assert run.engine.stats.aborted == int(story.lives)
        check_names(run.engine)
        run.engine.submit(Add(request("x", 4, max_tokens=1)))  # the name is free
        assert [o.ids for o in run.until_finished("x")] == [(TOKEN,)]


def test_an_abort_that_meets_the_last_token_changes_nothing():
    gate = Gate()
    with Running(gate) as run:
        run.engine.submit(Add(request("x", 4, max_tokens=2)))
        run.let_through(gate)
        assert gate.entered.acquire(timeout=10)
        run.engine.submit(Abort("x"))  # while the step that finishes it is computed
        gate.steps.release()
        [last] = run.step().outputs
        assert last.finished is not None
        assert run.step().stats.aborted == 0


def test_an_abort_overtakes_no_request_but_its_own():
    gate = Gate()
    with Running(gate) as run:
        run.engine.submit(Add(request("a", 4)))
        assert gate.entered.acquire(timeout=10)
        run.engine.submit(Add(request("x", 4)))
        run.engine.submit(Abort("x"))  # before the engine has even seen it
        gate.steps.release(10**6)
        assert {o.request_id for o in run.until_finished("a")} == {"a"}
        assert run.engine.stats.aborted == 1
        assert run.engine.stats.prompt_tokens == 4


def test_a_failed_engine_leaves_no_block_in_two_states():
    gate = Gate()
    with Running(gate) as run:
        run.engine.submit(Add(request("a", 100, max_tokens=50)))
        run.let_through(gate)
        gate.error = RuntimeError("out of luck")
        gate.steps.release()
        assert isinstance(run.delivered.get(timeout=10), EngineFailure)
        run.engine.submit(Abort("a"))

"""When tokens are delivered, and what the inbox says about requests and progress."""

from __future__ import annotations

import pytest

from gated_engine import add
from modelfleet_worker.engine.messages import EngineFailure, EngineStats, RequestOutput, StepOutput
from modelfleet_worker.engine.queues import Inbox, Outbox, delivery_interval


@pytest.mark.parametrize(
    ("num_streams", "seconds"),
    [(0, 0.02), (1, 0.02), (6, 0.02), (10, 0.03), (16, 0.048), (64, 0.05)],
)
def test_many_streams_are_delivered_to_more_rarely(num_streams: int, seconds: float):
    assert delivery_interval(num_streams) == pytest.approx(seconds)


def test_a_delivery_is_due_when_the_interval_is_over():
    delivered: list[StepOutput | EngineFailure] = []
    outbox = Outbox(delivered.append, 0.02)
    assert outbox.is_due(100.0, 1)
    outbox.flush(100.0, STATS)
    assert not outbox.is_due(100.019, 1)
    assert outbox.is_due(100.021, 1)
    assert not outbox.is_due(100.021, 10)
    assert delivered == [StepOutput((), STATS)]


def test_an_inbox_knows_which_requests_live_and_when_the_last_step_ended():
    inbox = Inbox()
    assert inbox.put(add("a")) is None
    began = inbox.last_progress
    assert inbox.describe_stall(began + 9, 10, steps=3) is None
    assert inbox.describe_stall(began + 11, 10, steps=3) == (
        "engine stalled: 1 requests, but no step finished for 11 s (after step 3)"
    )
    inbox.end([], now=began + 5)
    assert inbox.describe_stall(began + 11, 10, steps=4) is None
    inbox.end(["a"], now=began + 6)
    assert inbox.describe_stall(began + 99, 10, steps=5) is None  # idle, not stalled


def test_a_failed_inbox_returns_the_failure():
    inbox, failure = Inbox(), EngineFailure("out of luck")
    inbox.fail(failure)
    assert inbox.put(add("a")) == failure


def test_what_was_read_of_an_aborted_request_is_not_delivered():
    delivered: list[StepOutput | EngineFailure] = []
    outbox = Outbox(delivered.append, 0.02)
    outbox._outputs = [RequestOutput(request_id=name, ids=(7,)) for name in "ab"]
    outbox.drop("a")
    outbox.flush(0.0, STATS)
    assert [o.request_id for o in delivered[0].outputs] == ["b"]


STATS = EngineStats(
    **dict.fromkeys(("running", "waiting", "kv_blocks", "kv_blocks_used", "kv_blocks_cached"), 0),
    **dict.fromkeys(("steps", "prompt_tokens", "completion_tokens", "cached_tokens"), 0),
    **dict.fromkeys(("preemptions", "finished", "aborted"), 0),
    step_seconds=0.0,
)

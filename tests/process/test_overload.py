"""Newest first, beside first in, first out with the same slots."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_process.overload import (
    MARGIN,
    FifoTurns,
    OverloadPolicy,
    most_admitted,
    newest_is_next,
)

FIFO = OverloadPolicy()
NEWEST = OverloadPolicy(order="NewestFirst", target=1.2, hold_timeout=60.0)


@pytest.mark.parametrize(
    ("policy", "seen", "newest"),
    [
        pytest.param(FIFO, {"oldest_wait": 30}, False, id="in order, if not told otherwise"),
        pytest.param(NEWEST, {"oldest_wait": 1.2}, False, id="in order until the target is missed"),
        pytest.param(NEWEST, {"oldest_wait": 5}, True, id="then the newest"),
        pytest.param(NEWEST, {"oldest_wait": 30}, True, id="as long as all can be served in time"),
        pytest.param(NEWEST, {"oldest_wait": 30.1}, False, id="and no longer"),
        pytest.param(
            NEWEST, {"waiting": 400}, False, id="not with more than can be served in time"
        ),
        pytest.param(NEWEST, {"slots": 0}, False, id="not without a worker"),
        pytest.param(NEWEST, {"service_seconds": 0}, False, id="not while nothing is known"),
    ],
)
def test_the_newest_is_next_only_while_nobody_loses_his_place_in_time(policy, seen, newest):
    usual = {"oldest_wait": 5.0, "waiting": 40, "slots": 8, "service_seconds": 3.0}
    assert newest_is_next(policy, **(usual | seen)) is newest


@pytest.mark.parametrize(
    ("policy", "target", "most"),
    [(NEWEST, 16, 16), (NEWEST, 1, 1), (NEWEST, 0, None), (FIFO, 16, None)],
)
def test_a_worker_gets_what_keeps_its_latency_only_newest_first(policy, target, most):
    assert most_admitted(policy, target) == most


@dataclass
class Line:
    """Requests that wait for slots; what became of them."""

    policy: OverloadPolicy
    arrivals: list[float]
    queue: deque[int] = field(default_factory=deque)
    served: dict[int, float] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    taken_early: int = 0
    turns: FifoTurns = field(default_factory=FifoTurns)

    def arrive(self, request: int) -> None:
        self.queue.append(request)
        self.turns.arrive(request, self.arrivals[request], self.policy.hold_timeout)

    def time_out(self, now: float) -> None:
        """Refuses whose hold timeout was over before now, unless they had their turn."""
        for request in list(self.queue):
            late = self.arrivals[request] + self.policy.hold_timeout < now
            if late and not self.turns.had_turn(request):
                self.queue.remove(request)
                self.turns.leave(request)
                self.refused.add(request)

    def serve(self, now: float, *, slots: int, service_seconds: float) -> bool:
        if not self.queue:
            return False
        is_newest = newest_is_next(
            self.policy,
            oldest_wait=now - self.arrivals[self.queue[0]],
            waiting=len(self.queue),
            slots=slots,
            service_seconds=service_seconds,
        )
        request = self.queue.pop() if is_newest else self.queue.popleft()
        self.taken_early += is_newest and bool(self.queue)
        self.turns.serve(request, now)
        self.served[request] = now
        if not self.queue:
            self.turns.clear()
        return True


def run(policy, arrivals, slots, services, believed) -> Line:
    """`slots` servers; each request takes the next of `services` seconds, whichever it is."""
    line = Line(policy, sorted(arrivals))
    coming, free = deque(range(len(arrivals))), slots
    ends: list[float] = []
    taken = 0
    while coming or line.queue:
        times = [line.arrivals[coming[0]]] if coming else []
        times += ends[:1]
        now = min(times)
        if ends and ends[0] == now:
            heapq.heappop(ends)
            free += 1
        else:
            line.time_out(now)
            line.arrive(coming.popleft())
        line.time_out(now)
        while free and line.serve(now, slots=slots, service_seconds=believed):
            heapq.heappush(ends, now + services[taken % len(services)])
            taken += 1
            free -= 1
    return line


ARRIVALS = st.lists(st.floats(0, 40, allow_subnormal=False), min_size=1, max_size=60)
SLOTS = st.integers(1, 5)
TARGETS = st.sampled_from([0.0, 1.2, 5.0])
TIMEOUTS = st.sampled_from([4.0, 10.0, 30.0, 100.0])


@settings(max_examples=400)
@given(ARRIVALS, SLOTS, st.lists(st.floats(0.1, 4.0), min_size=1, max_size=30), TARGETS, TIMEOUTS)
def test_nobody_is_kept_past_a_hold_timeout_that_first_in_first_out_would_have_kept(
    arrivals, slots, services, target, timeout
):
    """No request takes longer than twice what is believed, the pace that is counted on."""
    believed = max(services) / MARGIN
    policy = OverloadPolicy(order="NewestFirst", target=target, hold_timeout=timeout)
    reference = run(OverloadPolicy(hold_timeout=timeout), arrivals, slots, services, believed)
    line = run(policy, arrivals, slots, services, believed)
    assert line.refused == reference.refused
    waits = {r: at - line.arrivals[r] for r, at in line.served.items()}
    assert all(wait <= timeout + 1e-6 for wait in waits.values())


def test_serves_those_in_time_who_come_into_a_backlog():
    """Two servers of 1 s; 40 come at once, then one each second: in order all of them are late."""
    arrivals = [0.0] * 40 + [1.0 + n for n in range(30)]
    results = {
        policy.order: run(policy, arrivals, 2, [1.0], 1.0)
        for policy in (OverloadPolicy(), OverloadPolicy(order="NewestFirst"))
    }
    in_time = {
        order: sum(at - line.arrivals[r] <= 2 for r, at in line.served.items())
        for order, line in results.items()
    }
    assert in_time["Fifo"] < 20
    assert in_time["NewestFirst"] > 30
    assert results["NewestFirst"].taken_early
    assert max(results["NewestFirst"].served.values()) == max(results["Fifo"].served.values())


def test_turns_hold_no_more_than_those_who_wait():
    """Clients who leave, for as long as nobody is served, leave nothing behind."""
    turns = FifoTurns()
    for request in range(10_000):
        turns.arrive(request, float(request), 60.0)
        if request >= 5:
            turns.leave(request - 5)
    assert len(turns._line) + len(turns._left) + len(turns._served) < 200

"""Workers that are told to go: replaced first where others cannot serve, and never the last one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Create, Reroute, Unroute
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.notices import MOVES_FIRST
from modelfleet_operator.decisions.observed import Accelerator, Observed
from modelfleet_operator.decisions.plan import Plan
from modelfleet_operator.decisions.signs import NoticeKind
from simulated_fleet import SimulatedFleet, deployment, policy

RECLAIM = Notice(kind=NoticeKind.SPOT_RECLAIM, source="taint spot-itn", seconds=120.0)
SHORT = Notice(kind=NoticeKind.NODE_SHUTDOWN, source="condition Ready", seconds=15.0)
CORDON = Notice(kind=NoticeKind.CORDON, source="spec.unschedulable")


@dataclass
class NoticedFleet(SimulatedFleet):
    """Streams of a worker that is handed over run on another one, if one is ready."""

    moved: list[tuple[float, str]] = field(default_factory=list)

    def reconcile(self) -> Plan:
        plan = super().reconcile()
        for route in plan.view.workers:
            name = route.id.rpartition("/")[2]
            others = [other for other in self.routable() if other != name]
            if route.hand_over and self.streams.get(name) and others:
                count = self.streams.pop(name)
                self.streams[others[0]] = self.streams.get(others[0], 0) + count
                self.moved.append((self.now, name))
        return plan

    def notice(self, name: str, notice: Notice | None) -> None:
        self.workers[name] = replace(self.workers[name], notice=notice)


def fleet(replicas: int = 1, **changes) -> NoticedFleet:
    scaling = policy(min_replicas=replicas, max_replicas=max(replicas, 4))
    found = NoticedFleet(deployment(scaling=scaling, **changes))
    found.run(6)
    assert len(found.routable()) == replicas
    return found


def test_one_of_three_serves_no_more_at_once_and_its_replacement_starts_at_once():
    seen = fleet(3)
    seen.streams["tiny-aaaa-1"] = 16
    seen.notice("tiny-aaaa-1", RECLAIM)
    plan = seen.reconcile()
    unroute, create = [a for a in plan.actions if isinstance(a, Unroute | Create)]
    assert (unroute.worker.name, create.name) == ("tiny-aaaa-1", "tiny-aaaa-3")
    assert "SpotReclaim by 1970-01-01T00:18:46Z (taint spot-itn)" in unroute.reason
    assert "tiny-aaaa-1" not in seen.routable()


def test_a_short_notice_moves_streams_at_once_and_a_long_one_after_the_drain_timeout():
    short = fleet(2)
    short.streams["tiny-aaaa-0"] = 16
    short.notice("tiny-aaaa-0", SHORT)
    began = short.now
    short.run(5)
    assert [at - began <= 1 for at, _ in short.moved] == [True]
    assert short.cut == 0

    long = fleet(2, drain_timeout=20.0)
    long.streams["tiny-aaaa-0"] = 16
    long.notice("tiny-aaaa-0", RECLAIM)
    began = long.now
    long.run(40)
    assert [19 <= at - began <= 22 for at, _ in long.moved] == [True]
    assert long.cut == 0


def test_streams_that_move_at_once_do_so_before_a_replacement_starts():
    seen = fleet(2)
    seen.streams["tiny-aaaa-0"] = 16
    seen.notice("tiny-aaaa-0", SHORT)
    plan = seen.reconcile()
    assert [type(a) for a in plan.actions if isinstance(a, Unroute | Create)] == [Unroute]
    assert plan.wake_at == seen.now + MOVES_FIRST
    seen.now = plan.wake_at
    assert [a.name for a in seen.reconcile().actions if isinstance(a, Create)] == ["tiny-aaaa-2"]

    alone = fleet(1)
    alone.notice("tiny-aaaa-0", SHORT)
    assert [a for a in alone.reconcile().actions if isinstance(a, Create)], "none can take them"


def test_the_last_ready_one_serves_until_its_replacement_is_ready():
    seen = fleet(1)
    seen.streams["tiny-aaaa-0"] = 3
    seen.notice("tiny-aaaa-0", SHORT)
    for _ in range(20):
        assert seen.routable(), "somebody serves all the time"
        seen.run(0.5)
    assert seen.routable() == ["tiny-aaaa-1"]
    assert "tiny-aaaa-0" not in seen.workers
    assert [name for _, name in seen.moved] == ["tiny-aaaa-0"]
    assert seen.cut == 0


def test_without_an_end_a_worker_serves_until_as_many_others_do_as_are_wanted():
    seen = fleet(2)
    seen.notice("tiny-aaaa-0", CORDON)
    seen.reconcile()
    assert sorted(seen.routable()) == ["tiny-aaaa-0", "tiny-aaaa-1"]
    seen.run(6)
    assert sorted(seen.routable()) == ["tiny-aaaa-1", "tiny-aaaa-2"]


def test_a_notice_that_is_taken_back_changes_nothing_more():
    seen = fleet(1)
    seen.notice("tiny-aaaa-0", CORDON)
    seen.reconcile()
    assert len(seen.workers) == 2
    seen.notice("tiny-aaaa-0", None)
    seen.run(6)
    assert len(seen.wanted()) == 1, "one of the two is one too many"


def test_it_is_never_rerouted_though_it_is_ready():
    seen = fleet(2)
    seen.streams["tiny-aaaa-0"] = 1
    seen.notice("tiny-aaaa-0", RECLAIM)
    seen.run(2)
    seen.deployment = replace(seen.deployment, scaling=policy(min_replicas=4, max_replicas=4))
    seen.run(6)
    assert not [a for _, a in seen.actions if isinstance(a, Reroute)]


def test_it_did_not_fail_so_its_successor_waits_for_no_back_off():
    seen = fleet(1)
    for number in range(5):
        (name,) = seen.wanted()
        seen.notice(name, SHORT)
        seen.kill(name, "Terminated: the node was shut down")
        seen.run(6)
        assert seen.memory.failures.count == 0, number
    assert seen.condition("Stalled")[0] == "False"


def test_status_and_reason_name_it_while_it_lasts():
    seen = fleet(1)
    seen.notice("tiny-aaaa-0", SHORT)
    seen.reconcile()
    (told,) = seen.status.interruptions
    assert (told.worker, told.kind, told.deadline) == ("tiny-aaaa-0", "NodeShutdown", seen.now + 15)
    assert seen.condition("Reconciling") == ("True", "Interrupted")
    assert seen.condition("Ready") == ("True", "Serving")
    assert "NodeShutdown by" in {v.step: v.words for v in seen.plan.verdicts}["interruptions"]
    seen.run(8)
    assert seen.status.interruptions == ()
    assert seen.condition("Reconciling") == ("False", "AsDesired")


def test_an_operator_that_restarts_does_not_count_the_time_anew():
    seen = fleet(2)
    seen.streams["tiny-aaaa-0"] = 1
    seen.notice("tiny-aaaa-0", RECLAIM)
    seen.reconcile()
    told = seen.status.interruptions[0].deadline
    seen.now += 50
    seen.memory = Memory.load(seen.memory.dump())
    seen.reconcile()
    assert seen.status.interruptions[0].deadline == told
    assert len(seen.created()) == 3, "and none is started twice"


class PricedFleet(NoticedFleet):
    """All of its workers are of one class, at 2.50 an hour."""

    def observe(self) -> Observed:
        seen = super().observe()
        workers = tuple(replace(w, accelerator="a10") for w in seen.workers)
        prices = {"a10": Accelerator(price=Decimal("2.50"))}
        return replace(seen, workers=workers, accelerators=prices)


@pytest.mark.parametrize(
    ("minimum", "stays"),
    [
        pytest.param(2, False, id="the minimum comes before the budget"),
        pytest.param(0, True, id="beyond it nothing starts above the budget"),
    ],
)
def test_what_replaces_it_is_no_growth_but_the_budget_holds(minimum: int, stays: bool):
    scaling = policy(min_replicas=minimum, max_hourly_cost=Decimal(5))
    seen = PricedFleet(deployment(scaling=scaling, accelerators=("a10",)))
    seen.waiting = 16
    seen.run(6)
    assert len(seen.existing()) == 2
    seen.notice("tiny-aaaa-0", CORDON)
    seen.run(8)
    assert len(seen.existing()) == 2
    assert ("tiny-aaaa-0" in seen.wanted()) is stays


def test_pods_that_come_back_to_the_node_do_not_pile_up():
    """Their podTemplate tolerates what the node says."""
    seen = fleet(1)
    for _ in range(60):
        for name in list(seen.workers):
            seen.notice(name, CORDON)
        seen.run(0.5)
    assert len(seen.existing()) == 5
    assert seen.routable()


NOTICES = st.sampled_from([RECLAIM, SHORT, CORDON])


@settings(max_examples=40, deadline=None)
@given(
    replicas=st.integers(1, 4),
    told=st.lists(st.tuples(st.floats(0, 20), st.integers(0, 5), NOTICES), max_size=8),
    load=st.integers(0, 30),
)
def test_a_notice_never_takes_the_last_ready_worker(
    replicas: int, told: list[tuple[float, int, Notice]], load: int
):
    """Whatever is said of whom and when: once one was ready, one always is."""
    seen = fleet(replicas)
    seen.waiting = load
    began = seen.now
    upcoming = sorted(told, key=lambda one: one[0])
    while seen.now - began < 30:
        while upcoming and upcoming[0][0] <= seen.now - began:
            _, place, notice = upcoming.pop(0)
            there = [w.name for w in seen.workers.values() if w.failure is None and not w.stopping]
            if there:
                seen.notice(there[place % len(there)], notice)
        seen.run(0.5)
        assert seen.routable()
    assert seen.cut == 0
    calm = [w for w in seen.workers.values() if w.notice is None and w.is_serving]
    assert len(calm) >= replicas


@pytest.mark.parametrize("restart", [False, True])
def test_ten_notices_one_after_another(restart: bool):
    seen = fleet(2)
    for _ in range(10):
        name = seen.wanted()[0]
        seen.streams[name] = 4
        seen.notice(name, SHORT)
        if restart:
            seen.memory = Memory.load(seen.memory.dump())
        for _ in range(14):
            seen.run(0.5)
            assert seen.routable()
    assert seen.cut == 0
    assert len(seen.wanted()) == 2
    assert len(seen.created()) == 12

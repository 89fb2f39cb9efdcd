"""The learned policy's properties: bounds, monotone in demand, few reversals."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.autoscale import (
    NOTHING_WANTED,
    SHARE,
    Load,
    ScalingPolicy,
    caution,
    decide_replicas,
)
from modelfleet_operator.decisions.demand import Demand
from modelfleet_operator.decisions.latency import Fleet, Judged, Latency
from modelfleet_operator.decisions.scaling_memory import Counts, ScalingMemory
from modelfleet_operator.decisions.worker_speed import Targets, Work, WorkerLimits

POLICY = ScalingPolicy(min_replicas=0, max_replicas=50)


def load(now: float = 1000.0, *, replicas: int = 1, **changes) -> Load:
    defaults = {
        "complete": True,
        "waiting": 0,
        "running": 0,
        "last_active": now,
        "cold_start": 60.0,
    }
    return Load(now=now, replicas=replicas, **(defaults | changes))


def learned(in_flight: float = 20.0, rate: float = 2.0, **demand) -> ScalingMemory:
    """That a replica takes so many in flight, and so many a second."""
    return ScalingMemory(
        limits=WorkerLimits(in_flight=in_flight, rate=rate), demand=Demand(**demand)
    )


LOADS = st.builds(
    Load,
    now=st.floats(1e6, 2e6),
    complete=st.booleans(),
    waiting=st.integers(0, 3000),
    running=st.integers(0, 3000),
    replicas=st.integers(0, 60),
    last_active=st.floats(1e6 - 1000, 2e6),
    cold_start=st.floats(0, 600),
    affordable=st.none() | st.integers(-2, 60),
    claim=st.floats(0, 60),
    standbys=st.integers(0, 5),
)
LEARNED = st.builds(
    learned,
    st.floats(1, 64),
    st.floats(0.01, 50),
    base=st.floats(0, 100),
    short=st.floats(0, 100),
    noise=st.floats(0, 1000),
    load=st.just(0.0) | st.floats(0.01, 100),
    errors=st.lists(st.floats(0, 50), max_size=20).map(tuple),
    busy=st.lists(st.tuples(st.floats(1e6, 2e6), st.floats(0, 200)), max_size=3).map(tuple),
)
PEAKS = st.lists(st.tuples(st.floats(1e6, 2e6), st.integers(0, 60)), max_size=5).map(
    lambda peaks: tuple(sorted(peaks))
)


@given(LOADS, LEARNED, PEAKS, st.integers(0, 8), st.integers(0, 50))
def test_stays_within_the_bounds_and_says_the_same_twice(seen, known, peaks, low, more):
    policy = replace(POLICY, min_replicas=low, max_replicas=max(low + more, 1))
    decision = decide_replicas(policy, seen, peaks, known)
    assert policy.min_replicas <= decision.replicas <= policy.max_replicas or (
        seen.replicas == decision.replicas and not seen.complete
    )
    assert decision.reason
    assert decision == decide_replicas(policy, seen, peaks, known)
    if seen.affordable is not None:
        assert decision.replicas <= max(seen.affordable, seen.replicas, policy.min_replicas)


@given(LOADS, LEARNED, PEAKS, st.integers(0, 500), st.floats(0, 50))
def test_more_demand_never_makes_fewer_replicas(seen, known, peaks, more, faster):
    before = decide_replicas(POLICY, seen, peaks, known).replicas
    fuller = replace(seen, waiting=seen.waiting + more)
    assert decide_replicas(POLICY, fuller, peaks, known).replicas >= before
    quicker = replace(known, demand=replace(known.demand, base=known.demand.base + faster))
    assert decide_replicas(POLICY, seen, peaks, quicker).replicas >= before


@given(LOADS, LEARNED, PEAKS)
def test_has_what_the_requests_in_flight_need(seen, known, peaks):
    depth = seen.waiting + seen.running
    needed = depth / max(known.limits.in_flight * SHARE, 1.0) - 0.1
    got = decide_replicas(POLICY, replace(seen, affordable=None), peaks, known).replicas
    assert got >= min(needed, POLICY.max_replicas)


@given(st.integers(0, 40), st.integers(0, 100), st.floats(0, 300))
def test_an_empty_history_shrinks_nothing(replicas: int, running: int, cold: float):
    seen = load(replicas=replicas, running=running, cold_start=cold)
    assert decide_replicas(POLICY, seen).replicas >= replicas
    at_once = replace(seen, now=seen.now + 2.0, last_active=seen.now + 2.0)
    peaks = decide_replicas(POLICY, seen).peaks
    assert decide_replicas(POLICY, at_once, peaks).replicas >= replicas


@given(st.floats(0.5, 20.0), st.sampled_from([8.0, 60.0, 300.0]), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_constant_load_with_noise_makes_few_reversals(rate: float, cold: float, seed: int):
    chance = random.Random(seed)
    known = ScalingMemory(limits=WorkerLimits(in_flight=20.0, rate=2.0))
    came, now, peaks, replicas, directions = 0, 1e6, (), 0, []
    for _ in range(900):
        now += 2.0
        came += sum(chance.random() < rate / 20 for _ in range(40))
        counts = Counts(requests={"gw": came}, judged={}, works={})
        known = known.take(now, counts, Fleet(replicas, 0, True), cold, Targets())
        in_flight = round(rate * 8 * chance.uniform(0.8, 1.2))
        seen = load(now, replicas=replicas, running=in_flight, cold_start=cold)
        decision = decide_replicas(POLICY, seen, peaks, known)
        if decision.replicas != replicas:
            directions.append(decision.replicas > replicas)
        replicas, peaks = decision.replicas, decision.peaks
    reversals = sum(one != other for one, other in itertools.pairwise(directions))
    assert reversals <= 2 * 1800 / caution(cold).hold


def test_a_sleeping_fleet_is_woken_by_a_request_only():
    known = learned(base=5.0, errors=(9.0,) * 20, busy=((900.0, 9.0),))
    assert decide_replicas(POLICY, load(replicas=0), (), known).replicas == 0
    assert decide_replicas(POLICY, load(replicas=0, waiting=1), (), known).replicas >= 1


def test_sizes_by_requests_a_second_and_says_the_sums():
    decision = decide_replicas(POLICY, load(running=10), (), learned(base=9.0))
    assert decision.replicas == 5
    assert "9 requests/s" in decision.reason
    assert decision.decided_by == "requests a second"


def test_what_waits_starts_workers_at_once_however_long_a_start_takes():
    for cold in (8.0, 300.0):
        decision = decide_replicas(
            POLICY, load(waiting=300, cold_start=cold), (), learned(base=4.0)
        )
        assert decision.replicas == 22  # of 14 in flight each
        assert decision.decided_by == "requests in flight"


def test_no_more_is_kept_in_hand_than_the_busiest_seconds_of_the_last_hour_had():
    errors = (8.0,) * 120
    quiet = learned(base=1.0, errors=errors, busy=((900.0, 9.0),))
    assert decide_replicas(POLICY, load(running=2), (), quiet).replicas == 5
    busy = learned(base=9.0, errors=errors, busy=((900.0, 9.0),))
    assert decide_replicas(POLICY, load(running=2), (), busy).replicas == 5


def test_an_explicit_queue_depth_decides_alone_and_holds_five_minutes():
    policy = replace(POLICY, target_queue_depth=8)
    decision = decide_replicas(policy, load(running=10), (), learned(base=900.0))
    assert decision.replicas == 2
    later = load(1299.0, replicas=2, running=1)
    assert decide_replicas(policy, later, decision.peaks).replicas == 2
    assert decide_replicas(policy, replace(later, now=1301.0), decision.peaks).replicas == 1


def test_an_explicit_delay_is_a_floor_of_the_hold():
    policy = replace(POLICY, scale_down_delay=600.0)
    peaks = decide_replicas(policy, load(running=100, cold_start=8.0)).peaks
    later = load(1500.0, replicas=7, running=1, cold_start=8.0)
    assert decide_replicas(policy, later, peaks).replicas == 7
    assert decide_replicas(POLICY, later, peaks).replicas == 1


def test_missed_latency_adds_replicas_though_the_queue_is_short():
    late = Judged(first_tokens=100, late=20)
    state, now, total = Latency(), 1000.0, Judged()
    for _ in range(60):
        now += 2.0
        total = total.plus(late)
        state = state.take(now, late, Fleet(4, 0, True), 8.0)
        if state.needed:
            break
    known = replace(learned(), latency=state)
    decision = decide_replicas(POLICY, load(now, replicas=4, running=10), ((now, 4),), known)
    assert decision.replicas == 5
    assert decision.decided_by == "missed latency"
    assert "20%" in decision.reason
    assert state.strain > 1


def test_latency_is_not_judged_while_new_workers_start():
    state = Latency()
    for now in range(1000, 1020, 2):
        late = Judged(first_tokens=100, late=90)
        state = state.take(float(now), late, Fleet(4, 0, True), 300.0)
    assert state.needed == 0


def test_what_was_learned_survives_a_restart_and_stays_small():
    known, now = ScalingMemory(), 1e6
    chance = random.Random(0)
    came, work = 0, Work()
    for _ in range(3000):
        now += 2.0
        came += chance.randrange(9)
        steps = chance.randrange(20, 50)
        work = Work(
            work.busy_seconds + 1.7, work.steps + steps, work.prompt_tokens + 3000,
            work.completion_tokens + steps * chance.randrange(1, 30), work.finished + 4,
        )  # fmt: skip
        counts = Counts(requests={"gw": came}, judged={}, works={"w": work})
        known = known.take(now, counts, Fleet(1, 0, True), 60.0, Targets(ttft=1.0))
    dumped = known.dump()
    assert len(str(dumped)) < 3000
    read = ScalingMemory.load(dumped)
    assert read.limits.rate > 0
    assert read.demand.errors
    assert read.dump() == dumped
    assert ScalingMemory.load({}) == ScalingMemory()
    assert ScalingMemory.load({"fit": "broken"}) == ScalingMemory()


def test_an_idle_model_changes_nothing_that_is_kept():
    counts = Counts(requests={"gw": 7}, judged={}, works={"w": Work(5.0, 9, 9, 9, 9)})
    known = ScalingMemory().take(1000.0, counts, Fleet(1, 0, True), 8.0, Targets())
    dumped = known.dump()
    for now in range(1002, 3000, 2):
        known = known.take(float(now), counts, Fleet(1, 0, True), 8.0, Targets())
        assert known.dump() == dumped


def test_standbys_take_the_place_of_what_is_kept_in_hand():
    """12 requests a second and 9 in hand, 2 each: 11 workers, or 8 and 6 that stand by."""
    known = learned(base=12.0, errors=(9.0,) * 20, busy=((1e6 - 100.0, 21.0),))

    def wanted(**changes) -> tuple[int, str]:
        decision = decide_replicas(POLICY, load(1e6, running=10, **changes), (), known)
        return decision.replicas, decision.decided_by

    assert wanted() == (11, "error of the forecast")
    assert wanted(standbys=6, claim=5.0) == (8, "standbys")
    assert wanted(standbys=3, claim=5.0) == (10, "standbys")
    assert wanted(standbys=60, claim=5.0)[0] == 6  # what comes now is served by workers
    assert wanted(standbys=6)[0] == 11  # no claim was measured yet
    assert wanted(standbys=6, claim=40.0)[0] == 11  # hardly shorter than a start


@given(LOADS, LEARNED)
def test_standbys_spare_no_more_workers_than_they_are(seen: Load, known: ScalingMemory):
    without = decide_replicas(POLICY, replace(seen, standbys=0), NOTHING_WANTED, known)
    decision = decide_replicas(POLICY, seen, NOTHING_WANTED, known)
    assert without.replicas - seen.standbys // 2 <= decision.replicas <= without.replicas

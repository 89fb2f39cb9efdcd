from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.autoscale import Load, decide_replicas
from simulated_fleet import policy

POLICY = policy()


def load(now: float = 1000, *, replicas: int = 1, **changes) -> Load:
    defaults = {"complete": True, "waiting": 0, "running": 0, "last_active": now}
    return Load(now=now, replicas=replicas, **(defaults | changes))


@pytest.mark.parametrize(
    ("seen", "replicas"),
    [
        pytest.param(load(replicas=0), 0, id="without requests it stays asleep"),
        pytest.param(load(replicas=0, waiting=1), 1, id="the first request wakes a sleeping fleet"),
        pytest.param(load(replicas=2, waiting=1, running=16), 3, id="a backlog grows it at once"),
        pytest.param(load(replicas=1, running=9), 2, id="running requests count as the waiting do"),
        pytest.param(load(replicas=1, waiting=99), 4, id="never beyond maxReplicas"),
        pytest.param(load(replicas=1), 1, id="the last one stays until the idle timeout"),
        pytest.param(load(replicas=3, last_active=939), 0, id="idle for long enough, it sleeps"),
        pytest.param(
            load(replicas=3, complete=False, last_active=0), 3, id="silence is not zero load"
        ),
        pytest.param(
            load(replicas=0, complete=False, waiting=1),
            1,
            id="one gateway is enough to wake it",
        ),
        pytest.param(load(replicas=9, running=50), 4, id="a lower maxReplicas is obeyed"),
    ],
)
def test_sizes_the_fleet_for_its_load(seen: Load, replicas: int):
    assert decide_replicas(POLICY, seen).replicas == replicas


def test_shrinks_after_the_delay_and_sleeps_after_the_idle_timeout():
    replicas, peaks, active, history = 3, (), 0.0, []
    for now, running in [(0, 24), (29, 0), (31, 0), (59, 0), (60, 0)]:
        active = now if running else active
        seen = load(now, replicas=replicas, running=running, last_active=active)
        decision = decide_replicas(POLICY, seen, peaks)
        replicas, peaks = decision.replicas, decision.peaks
        history.append(replicas)
    assert history == [3, 3, 1, 1, 0]


def test_a_short_dip_in_the_load_does_not_shrink_it():
    replicas, peaks = 1, ()
    for now in range(0, 120, 5):
        running = 30 if now % 20 == 0 else 0
        seen = load(now, replicas=replicas, running=running)
        decision = decide_replicas(POLICY, seen, peaks)
        replicas, peaks = decision.replicas, decision.peaks
        assert replicas == 4


def test_without_memory_the_count_in_force_is_kept_for_the_delay():
    decision = decide_replicas(POLICY, load(1000, replicas=3, running=1))
    assert decision.replicas == 3
    later = load(1031, replicas=3, running=1)
    assert decide_replicas(POLICY, later, decision.peaks).replicas == 1


def test_minimum_is_kept_without_load_and_above_it_the_minimum_is_reached():
    keep = policy(min_replicas=2)
    assert decide_replicas(keep, load(replicas=0)).replicas == 2
    assert decide_replicas(keep, load(replicas=2, last_active=0)).replicas == 2
    assert "minReplicas" in decide_replicas(keep, load(replicas=0)).reason


@pytest.mark.parametrize(("replicas", "expected"), [(0, 0), (7, 7), (None, 2)])
def test_external_mode_obeys_replicas_whatever_the_load(replicas: int | None, expected: int):
    external = policy(mode="External", min_replicas=2, max_replicas=3, replicas=replicas)
    assert decide_replicas(external, load(replicas=5, waiting=500)).replicas == expected


def test_says_when_time_alone_changes_the_answer():
    seen = load(1000, replicas=1, last_active=990)
    assert decide_replicas(POLICY, seen).wake_at == 990 + POLICY.idle_timeout
    at_work = load(1000, replicas=1, running=1)
    assert decide_replicas(POLICY, at_work).wake_at is None


def test_a_clock_that_steps_back_neither_sleeps_nor_grows():
    decision = decide_replicas(POLICY, load(1000, replicas=2, running=16))
    earlier = load(400, replicas=2, running=9, last_active=1000)
    assert decide_replicas(POLICY, earlier, decision.peaks).replicas == 2


@given(
    seen=st.builds(
        Load,
        now=st.floats(0, 1e9),
        complete=st.booleans(),
        waiting=st.integers(0, 10_000),
        running=st.integers(0, 10_000),
        replicas=st.integers(0, 20),
        last_active=st.floats(0, 1e9),
    ),
    peaks=st.lists(st.tuples(st.floats(0, 1e9), st.integers(0, 50))).map(tuple),
    low=st.integers(0, 5),
    more=st.integers(0, 5),
)
def test_never_leaves_the_bounds_and_always_serves_what_waits(seen, peaks, low, more):
    chosen = policy(min_replicas=low, max_replicas=max(low + more, 1))
    decision = decide_replicas(chosen, seen, peaks)
    assert chosen.min_replicas <= decision.replicas <= chosen.max_replicas
    if seen.waiting + seen.running:
        assert decision.replicas >= 1
    assert decision.reason
    assert decision.wake_at is None or decision.wake_at >= seen.now
    assert len(decision.peaks) <= max(len(peaks), 1) + 1

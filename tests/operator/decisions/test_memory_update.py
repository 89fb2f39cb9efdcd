"""What a plan remembers of its workers: readiness, failures, activity."""

from __future__ import annotations

import pytest

from modelfleet_operator.decisions.memory import Failures, Memory, back_off
from modelfleet_operator.decisions.memory_update import update_memory
from modelfleet_operator.decisions.observed import Observed, Signals, Worker, WorkerState
from modelfleet_operator.decisions.worker_groups import group_workers
from simulated_fleet import deployment, report, stats, worker


def seen_with(memory: Memory, loading: Worker, signals: Signals, now: float) -> Memory:
    seen = Observed(deployment=deployment(revision="bbbb"), workers=(loading,))
    return update_memory(memory, seen, signals, now, group_workers(seen, signals, now, memory, ()))


def updated(memory: Memory, *workers: Worker, ready: bool = False, now: float = 1000, **load):
    ids = [w.id for w in workers] if ready else []
    signals = Signals(
        gateways=(report(reachable=ids, **load),), stats={worker_id: stats() for worker_id in ids}
    )
    seen = Observed(deployment=deployment(revision="bbbb"), workers=workers)
    groups = group_workers(seen, signals, now, memory, ())
    return update_memory(memory, seen, signals, now, groups)


def test_the_first_ready_worker_makes_its_revision_the_last_ready_one():
    new = worker(0, revision="bbbb", created=970)
    memory = updated(Memory(revision="bbbb", last_ready_revision="aaaa"), new, ready=True)
    assert memory.last_ready_revision == "bbbb"
    assert memory.cold_start_seconds == 30
    assert memory.last_active == 1000, "idle time counts from now"
    assert memory.was_ready == {new.uid}


def test_another_revision_begins_to_count_failures_at_none():
    before = Memory(
        revision="aaaa", failures=Failures(count=4, last_at=999), given_up="aaaa", last_active=990
    )
    memory = updated(before)
    assert (memory.revision, memory.failures, memory.given_up) == ("bbbb", Failures(), "")
    assert memory.last_active == 990


def test_a_failure_is_counted_once_and_forgotten_when_all_is_well_for_a_minute():
    exited = worker(0, revision="bbbb", failure="exit code 1")
    memory = updated(Memory(revision="bbbb", failures=Failures(count=2, last_at=990)), exited)
    assert (memory.failures.count, memory.failures.last_at) == (3, 1000)
    assert updated(memory, exited, now=1001).failures.count == 3
    new = worker(1, revision="bbbb")
    assert updated(memory, new, ready=True, now=1061).failures.count == 3
    assert updated(memory, new, ready=True, now=1062).failures.count == 0


def test_failures_of_old_revisions_are_counted_apart():
    memory = updated(Memory(revision="bbbb"), worker(0, failure="exit code 1"))
    assert (memory.failures.count, memory.old_failures.count) == (0, 1)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 4), (9, 60), (10_000, 60)]
)
def test_the_pause_doubles_up_to_a_minute(failures: int, seconds: float):
    assert back_off(failures) == seconds


def test_what_older_versions_stored_is_read():
    stored = {"proven": "aaaa", "unwell": {"uid": 3.0}, "target": 2}
    memory = Memory.load(stored)
    assert (memory.last_ready_revision, memory.unhealthy, memory.target) == (
        "aaaa", {"uid": 3.0}, 2,
    )  # fmt: skip
    assert {"proven", "unwell"} <= memory.dump().keys()


def test_a_load_teaches_what_each_of_its_phases_takes():
    new = worker(0, revision="bbbb", created=970)
    memory = Memory(revision="bbbb")
    for now, phase in [(970, ""), (974, "Imports"), (977, "Imports"), (979, "Weights")]:
        stats_now = {new.id: stats(WorkerState.LOADING, phase=phase)} if phase else {}
        memory = seen_with(memory, new, Signals(gateways=(report(),), stats=stats_now), now)
    assert memory.loading[new.uid] == (("Starting", 970), ("Imports", 974), ("Weights", 979))
    memory = updated(memory, new, ready=True)
    assert memory.phase_seconds == {"Starting": 4, "Imports": 5, "Weights": 21}
    assert memory.loading == {}
    again = updated(memory, new, ready=True, now=2000)
    assert again.phase_seconds == memory.phase_seconds, "it is learned once"
    assert Memory.load(memory.dump()) == memory


def test_what_a_worker_does_now_is_not_written_to_the_cluster():
    new = worker(0, revision="bbbb", created=970)
    signals = Signals(stats={new.id: stats(WorkerState.LOADING, phase="Weights")})
    memory = Memory(revision="bbbb")
    after = seen_with(memory, new, signals, 975)
    assert after.loading
    assert after.dump() == memory.dump()


def test_the_memory_of_an_older_version_is_readable():
    old = Memory(target=2, cold_start_seconds=9.0).dump()
    del old["phase_seconds"]
    assert Memory.load(old) == Memory(target=2, cold_start_seconds=9.0)

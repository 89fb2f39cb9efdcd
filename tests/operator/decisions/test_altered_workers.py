"""Workers that others drain, unload or reload: they get nothing more and are replaced soon."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelfleet_operator.decisions.actions import Stop, Unroute
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import WorkerState, WorkerStats
from simulated_fleet import SimulatedFleet, deployment, policy, stats

SOON = 60  # seconds within which such a worker is replaced
DRAINING, STANDBY, LOADING = WorkerState.DRAINING, WorkerState.STANDBY, WorkerState.LOADING


def a_fleet(workers: int = 1) -> tuple[SimulatedFleet, str]:
    """A fleet with so many ready workers, and the first one's name."""
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=workers)))
    fleet.run(1)
    for name in fleet.alive():
        fleet.says[name] = stats(LOADING, model="default/tiny")
    fleet.run(2)
    for name in fleet.alive():
        fleet.says[name] = stats(model="default/tiny", digest="one" * 20)
    fleet.run(10)
    assert fleet.condition("Ready") == ("True", "Serving")
    return fleet, fleet.alive()[0]


def routes(fleet: SimulatedFleet) -> dict[str, bool]:
    """What gateways are told: worker -> whether new requests may go there."""
    return {w.id.partition("/")[2]: w.routable for w in fleet.plan.view.workers}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        pytest.param(stats(DRAINING), "did not ask", id="drained"),
        pytest.param(stats(STANDBY), "unloaded", id="unloaded"),
        pytest.param(stats(LOADING, model="default/tiny"), "unloaded", id="loaded again"),
        pytest.param(stats(digest="two" * 20), "its model changed", id="another digest"),
        pytest.param(stats(model="default/x"), "holds another model, default/x", id="another"),
        pytest.param(stats(LOADING, model="default/x"), "another model", id="loads another"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_others_alter_is_replaced(said: WorkerStats, why: str, workers: int):
    fleet, altered = a_fleet(workers)
    uid = fleet.workers[altered].uid
    fleet.says[altered] = said
    changed = fleet.now
    while altered in fleet.workers and fleet.workers[altered].uid == uid:
        fleet.run(0.5)
        assert fleet.now < changed + SOON
        if fleet.now >= changed + 4 and altered in routes(fleet):
            assert not routes(fleet)[altered]
        if not fleet.workers.get(altered) or fleet.workers[altered].stopping:
            fleet.says.pop(altered, None)
    done = [a for at, a in fleet.actions if at > changed and isinstance(a, Stop | Unroute)]
    assert why in done[0].reason
    fleet.run(10)
    assert fleet.now < changed + SOON
    assert len(fleet.routable()) == workers
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.memory.failures.count == 1, "with back-off, if it goes on like that"


def test_a_worker_whose_load_is_cancelled_is_replaced():
    fleet = SimulatedFleet(deployment(scaling=policy(min_replicas=1)))
    fleet.run(1)
    [name] = fleet.alive()
    fleet.says[name] = stats(STANDBY)
    fleet.run(20)
    assert fleet.alive() == [name], "it may have just started"
    fleet.run(15)
    assert [w for w in fleet.alive() if w != name], "another one is there"
    assert "held no model" in fleet.memory.failures.error


def test_what_runs_on_a_worker_that_others_drain_is_finished():
    fleet, drained = a_fleet()
    fleet.streams[drained] = 3
    fleet.says[drained] = stats(DRAINING, running=3)
    fleet.run(30)
    assert drained in fleet.alive()
    assert len(fleet.alive()) == 2, "the other one serves"
    assert fleet.cut == 0


def test_a_worker_that_others_end_is_not_taken_for_one_that_failed():
    """Its Stats may come before the watch says that its pod is deleted."""
    fleet, ended = a_fleet()
    fleet.says[ended] = stats(DRAINING)
    fleet.run(2)
    assert [a for _, a in fleet.actions if isinstance(a, Stop | Unroute)] == []
    fleet.workers[ended] = replace(fleet.workers[ended], stopping=True)
    fleet.run(10)
    assert fleet.memory.failures.count == 0
    assert len(fleet.routable()) == 1


def test_a_successor_knows_the_digest_that_a_worker_began_with():
    fleet, altered = a_fleet()
    fleet.memory = Memory.load(fleet.memory.dump())
    fleet.says[altered] = stats(digest="two" * 20)
    fleet.run(1)
    assert fleet.workers[altered].stopping


def test_the_memory_of_an_older_version_has_no_digests():
    fleet, name = a_fleet()
    older = fleet.memory.dump()
    for key in ("digests", "claimed", "yielded"):
        del older[key]
    fleet.memory = Memory.load(older)
    fleet.run(5)
    assert fleet.alive() == [name]
    assert set(fleet.memory.digests.values()) == {"oneoneoneone"}

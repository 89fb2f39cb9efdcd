"""What node controllers are told of workers: rarely, and only what keeps requests whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modelfleet_operator.decisions.actions import Action, AllowDisruptions, Create, Protect
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.observed import Observed
from modelfleet_operator.decisions.signs import NoticeKind
from simulated_fleet import SimulatedFleet, deployment, policy


@dataclass
class GuardedFleet(SimulatedFleet):
    """A body that has node controllers: new workers are protected."""

    min_available: int | None = None

    def observe(self) -> Observed:
        return replace(super().observe(), keeps_budget=True, min_available=self.min_available)

    def told(self) -> list[tuple[str, bool]]:
        return [(a.worker.name, a.is_protected) for _, a in self.actions if isinstance(a, Protect)]

    def _carry_out(self, action: Action) -> None:
        super()._carry_out(action)
        match action:
            case Create(name=name):
                self.workers[name] = replace(self.workers[name], protected=True)
            case Protect(worker=w):
                self.workers[w.name] = replace(self.workers[w.name], protected=action.is_protected)
            case AllowDisruptions():
                self.min_available = action.min_available
            case _:
                pass


def fleet(replicas: int) -> GuardedFleet:
    return GuardedFleet(deployment(scaling=policy(min_replicas=replicas, max_replicas=4)))


def test_a_worker_is_protected_while_it_loads_and_not_beside_a_ready_peer():
    seen = fleet(2)
    seen.run(2)
    assert all(w.protected for w in seen.workers.values())
    seen.running = 4
    seen.run(30)
    assert not any(w.protected for w in seen.workers.values())
    assert len(seen.told()) == 2, "once for each"


def test_the_only_one_is_protected_while_requests_come():
    seen = fleet(1)
    seen.run(80)
    (worker,) = seen.workers.values()
    assert not worker.protected
    seen.running = 1
    seen.run(120)
    (worker,) = seen.workers.values()
    assert worker.protected
    seen.running = 0
    seen.run(80)
    (worker,) = seen.workers.values()
    assert not worker.protected
    assert len(seen.told()) == 3, "not with each request"


def test_a_worker_that_never_gets_ready_keeps_no_node_for_ever():
    seen = fleet(1)
    seen.deployment = replace(seen.deployment, cold_start_deadline=20.0)
    seen.frozen = {"default/tiny-aaaa-0"}
    seen.run(10)
    assert seen.workers["tiny-aaaa-0"].protected
    seen.run(20)
    assert not seen.workers["tiny-aaaa-0"].protected


def test_one_that_is_told_to_go_is_let_go_once_another_serves():
    seen = fleet(1)
    seen.running = 1
    seen.run(10)
    cordon = Notice(kind=NoticeKind.CORDON, source="spec.unschedulable")
    seen.workers["tiny-aaaa-0"] = replace(seen.workers["tiny-aaaa-0"], notice=cordon)
    seen.run(1)
    assert seen.workers["tiny-aaaa-0"].protected
    seen.run(6)
    assert "tiny-aaaa-0" not in seen.wanted()


def test_evictions_leave_the_last_one_and_all_but_one_of_more():
    least = []
    for replicas in (0, 1, 2, 3, 4):
        seen = fleet(replicas)
        seen.run(70)
        least.append(seen.min_available or 0)
    assert least == [0, 1, 1, 2, 3]


def test_a_body_without_node_controllers_is_told_nothing():
    seen = SimulatedFleet(deployment(scaling=policy(min_replicas=2)))
    seen.run(10)
    assert not [a for _, a in seen.actions if isinstance(a, Protect | AllowDisruptions)]

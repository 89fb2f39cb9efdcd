"""Accelerator classes as the plan uses them: a fleet on paper whose nodes have so much room."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Action, Create, Stop
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Accelerator, Observed
from modelfleet_operator.decisions.plan import Plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.startup_problem import StartupProblem
from simulated_fleet import SimulatedFleet, deployment, policy

FALLBACK_AFTER = 60.0


@dataclass
class Cluster(SimulatedFleet):
    """Nodes of each class have room for so many workers; the scheduler acts before the plan."""

    room: dict[str, int] = field(default_factory=dict)
    classes: dict[str, Accelerator] = field(default_factory=dict)

    def reconcile(self) -> Plan:
        self.schedule()
        return super().reconcile()

    def schedule(self) -> None:
        for name, worker in list(self.workers.items()):
            if worker.placed_at is not None or worker.stopping:
                continue
            if self.placed(worker.accelerator) < self.room.get(worker.accelerator, 0):
                at = self.now
                self.workers[name] = replace(worker, problem=None, placed_at=at, created=at)
            elif worker.problem is None:
                problem = StartupProblem(
                    reason=Reason.UNSCHEDULABLE,
                    message=f"no room for {worker.accelerator}",
                    since=self.now,
                )
                self.workers[name] = replace(worker, problem=problem)

    def placed(self, accelerator: str) -> int:
        there = self.workers.values()
        return sum(w.accelerator == accelerator and w.placed_at is not None for w in there)

    def on(self, accelerator: str) -> int:
        """Workers of this class that do not stop, waiting ones too."""
        return sum(self.workers[name].accelerator == accelerator for name in self.alive())

    def observe(self) -> Observed:
        return replace(super().observe(), accelerators=self.classes)

    def is_up(self, worker) -> bool:
        return worker.placed_at is not None and super().is_up(worker)

    def _carry_out(self, action: Action) -> None:
        super()._carry_out(action)
        match action:
            case Create(name=name, accelerator=accelerator):
                found = self.classes.get(accelerator)
                self.workers[name] = replace(
                    self.workers[name],
                    accelerator=accelerator,
                    accelerator_generation=found.generation if found else 0,
                )
            case Stop(worker=w) if w.placed_at is None:
                del self.workers[w.name]  # no kubelet has it: the API server drops it at once
                del self._ends[w.name]


def cluster(*asked: str, replicas: int = 1, fallback_after: float = 60, **room: int) -> Cluster:
    return Cluster(
        deployment(
            scaling=policy(min_replicas=replicas, max_replicas=max(replicas, 4)),
            accelerators=asked or ("h100", "a10"),
            fallback_after=fallback_after,
        ),
        room=room,
        classes={name: Accelerator(generation=1) for name in room},
    )


def test_the_best_class_comes_first():
    fleet = cluster(h100=4, a10=4)
    fleet.run(10)
    assert fleet.on("h100") == 1
    assert fleet.condition("PlacementLimited") == ("False", "AsAsked")
    assert "h100" in fleet.status.condition("PlacementLimited").message


def test_without_accelerators_no_class_is_named():
    fleet = Cluster(deployment(), room={"": 4}, classes={"h100": Accelerator()})
    fleet.run(10)
    assert fleet.on("") == 1


def test_after_a_bounded_wait_the_next_class_takes_its_place():
    fleet = cluster(h100=0, a10=1)
    fleet.reconcile()
    fleet.run(FALLBACK_AFTER - 5)
    assert (fleet.on("h100"), fleet.on("a10")) == (1, 0)
    assert fleet.condition("Ready") == ("False", "Unschedulable")
    message = fleet.status.condition("Ready").message
    assert "accelerator class h100" in message
    assert "no room for h100" in message

    fleet.run(10)
    assert (fleet.on("h100"), fleet.on("a10")) == (0, 1), "and not both: nothing is paid twice"
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("PlacementLimited") == ("True", "AcceleratorShort")
    assert "new workers go to a10" in fleet.status.condition("PlacementLimited").message


def test_the_waiting_worker_goes_before_its_successor_comes():
    fleet = cluster(h100=0, a10=1)
    fleet.run(80)
    last = [action for _, action in fleet.actions if isinstance(action, Create | Stop)][-2:]
    assert [type(action) for action in last] == [Stop, Create]
    assert "no room on accelerator class h100" in last[0].reason
    assert last[1].accelerator == "a10"


def test_a_class_that_was_short_is_tried_again_for_new_workers():
    fleet = cluster(h100=0, a10=1)
    fleet.run(80)
    fleet.room |= {"h100": 9, "a10": 9}
    fleet.change(scaling=policy(min_replicas=2))
    fleet.run(10)
    assert fleet.on("a10") == 2, "it was short a moment ago"
    fleet.run(300, step=2)
    assert fleet.condition("PlacementLimited") == ("False", "AsAsked")
    fleet.change(scaling=policy(min_replicas=3))
    fleet.run(10)
    assert (fleet.on("h100"), fleet.on("a10")) == (1, 2), "and what runs stays where it is"


def test_room_that_came_for_a_waiting_worker_ends_the_shortage():
    fleet = cluster("h100", h100=0, replicas=2)
    fleet.run(100)
    assert fleet.condition("PlacementLimited") == ("True", "AcceleratorShort")
    fleet.room["h100"] = 1
    fleet.run(2)
    assert fleet.condition("PlacementLimited") == ("True", "AcceleratorShort"), "one still waits"
    fleet.room["h100"] = 2
    fleet.run(2)
    assert fleet.condition("PlacementLimited") == ("False", "AsAsked")


def test_while_all_are_short_it_waits_names_each_and_gives_nothing_up():
    fleet = cluster(h100=0, a10=0)
    fleet.run(130)
    created = len(fleet.created())
    assert created == 2
    message = fleet.status.condition("Ready").message
    assert "no room for h100" in message
    assert "no room for a10" in message
    fleet.run(200)
    assert len(fleet.created()) == created
    assert fleet.condition("Stalled") == ("True", "Unschedulable"), "a person should act"
    assert fleet.condition("Reconciling")[0] == "False"
    fleet.run(3600, step=5)
    assert len(fleet.created()) <= 2 + 3600 / 300 * 2, "it goes round slowly"
    assert fleet.condition("Stalled") == ("True", "Unschedulable"), "without a moment's doubt"

    fleet.room["h100"] = 1
    fleet.run(320, step=2)
    assert fleet.condition("Ready") == ("True", "Serving"), "wherever room comes first"
    assert fleet.condition("Stalled")[0] == "False"


@pytest.mark.parametrize("recovers", ["h100", "a10"])
def test_while_all_are_short_room_of_any_class_is_found(recovers: str):
    fleet = cluster(h100=0, a10=0)
    fleet.run(400, step=2)
    fleet.room[recovers] = 1
    fleet.run(365, step=2)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.on(recovers) == 1


def test_a_longer_wait_is_for_those_whose_nodes_come_slowly():
    fleet = cluster(h100=0, a10=1, fallback_after=600)
    fleet.run(550, step=2)
    assert fleet.on("h100") == 1
    fleet.run(100)
    assert fleet.on("a10") == 1


def test_only_those_that_find_no_room_move():
    fleet = cluster(h100=2, a10=2, replicas=4)
    fleet.run(100)
    assert (fleet.on("h100"), fleet.on("a10")) == (2, 2)
    assert len(fleet.created()) == 6
    assert fleet.status.ready_replicas == 4


def test_a_class_that_does_not_exist_is_said_and_heals():
    fleet = cluster("b200", h100=1)
    fleet.run(5)
    assert not fleet.workers
    for kind in ("Stalled", "PlacementLimited"):
        assert fleet.condition(kind) == ("True", "AcceleratorClassMissing")
        assert "b200" in fleet.status.condition(kind).message
    fleet.classes["b200"] = Accelerator(generation=1)
    fleet.room["b200"] = 1
    fleet.run(5)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Stalled")[0] == "False"


def test_while_the_best_class_is_missing_the_next_one_serves():
    fleet = cluster("b200", "h100", h100=1)
    fleet.run(5)
    assert fleet.condition("Ready") == ("True", "Serving")
    assert fleet.condition("Stalled")[0] == "False"
    assert fleet.condition("PlacementLimited") == ("True", "AcceleratorClassMissing")
    assert "new workers go to h100" in fleet.status.condition("PlacementLimited").message


def test_a_class_that_is_corrected_gets_its_waiting_worker_anew():
    fleet = cluster("h100", h100=0)
    fleet.run(30)
    (first,) = fleet.alive()
    fleet.classes["h100"] = Accelerator(generation=2)
    fleet.run(1)
    (second,) = fleet.alive()
    assert fleet.workers[second].uid != first
    assert fleet.workers[second].accelerator_generation == 2
    assert len(fleet.created()) == 2


def test_a_change_of_a_class_leaves_running_workers_alone():
    fleet = cluster("h100", h100=1)
    fleet.run(10)
    fleet.classes["h100"] = Accelerator(generation=2)
    fleet.run(10)
    assert len(fleet.created()) == 1


@pytest.mark.parametrize("asked", [("a10",), ()])
def test_a_waiting_worker_follows_an_edit_of_the_placement(asked: tuple[str, ...]):
    fleet = cluster("h100", h100=0, a10=1)
    fleet.room[""] = 1
    fleet.run(10)
    fleet.change(accelerators=asked)
    fleet.run(10)
    assert fleet.on("h100") == 0
    assert fleet.condition("Ready") == ("True", "Serving")


def test_a_successor_remembers_what_is_short():
    fleet = cluster(h100=0, a10=1)
    fleet.run(80)
    fleet.memory = Memory.load(fleet.memory.dump())
    fleet.room |= {"a10": 2}
    fleet.change(scaling=policy(min_replicas=2))
    fleet.run(10)
    assert fleet.on("a10") == 2


def test_memory_is_bounded_and_ends_with_the_shortage():
    fleet = cluster(h100=0, a10=1)
    fleet.run(80)
    assert list(fleet.memory.shortages) == ["h100"]
    fleet.run(310, step=2)
    assert not fleet.memory.shortages


def test_costs_what_its_workers_hold():
    fleet = cluster("h100", h100=2, replicas=3)
    fleet.classes["h100"] = Accelerator(generation=1, price=Decimal("2.50"))
    fleet.run(10)
    assert fleet.status.cost_per_hour == Decimal("5.00"), "the third has no node yet"
    fleet.change(scaling=policy(min_replicas=0, idle_timeout=5, scale_down_delay=5))
    fleet.run(30)
    assert fleet.status.cost_per_hour == 0


def test_what_has_no_price_is_not_added_up():
    fleet = cluster(h100=0, a10=1)
    fleet.classes["h100"] = Accelerator(generation=1, price=Decimal("2.50"))
    fleet.run(10)
    assert fleet.status.cost_per_hour == 0, "it waits for a node"
    fleet.run(60)
    assert fleet.on("a10") == 1
    assert fleet.status.cost_per_hour is None


def test_without_classes_nothing_is_known_of_the_cost():
    fleet = Cluster(deployment(), room={"": 4})
    fleet.reconcile()
    assert fleet.status.cost_per_hour is None
    fleet.run(100)
    assert fleet.status.cost_per_hour is None


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("room"), st.sampled_from(["h100", "a10"]), st.integers(0, 4)),
        st.tuples(st.just("replicas"), st.just(""), st.integers(0, 4)),
        st.tuples(st.just("run"), st.just(""), st.integers(1, 400)),
        st.tuples(st.just("class"), st.sampled_from(["h100", "a10"]), st.integers(0, 2)),
    ),
    max_size=10,
)


@settings(max_examples=20, deadline=None)
@given(events=EVENTS)
@example(
    events=[
        ("room", "h100", 2),
        ("replicas", "", 3),
        ("run", "", 75),
        ("replicas", "", 0),
        ("run", "", 5),
    ]
)
def test_whatever_happens_nothing_waits_twice_and_it_settles_where_room_is(events):
    fleet = cluster(h100=1, a10=1)
    fleet.run(5, step=1)
    for kind, name, count in events:
        match kind:
            case "room":
                fleet.room[name] = count
            case "replicas":
                low = count
                fleet.change(scaling=policy(min_replicas=low, max_replicas=max(low, 1)))
            case "class" if count:
                fleet.classes[name] = Accelerator(generation=count)
            case "class":
                fleet.classes.pop(name, None)
            case "run":
                for _ in range(count // 5):
                    before = len(fleet.alive())
                    fleet.run(5, step=5)
                    check(fleet, before)
    fleet.classes = {name: Accelerator(generation=1) for name in ("h100", "a10")}
    fleet.room = {"h100": 9, "a10": 9}
    fleet.run(700, step=5)
    wanted = max(fleet.deployment.scaling.min_replicas, fleet.memory.target or 0)
    assert fleet.status.ready_replicas == wanted


def check(fleet: Cluster, before: int) -> None:
    # Workers beyond a maximum that has just been lowered take a moment to drain.
    assert len(fleet.alive()) <= max(before, fleet.deployment.scaling.max_replicas + 1)
    assert set(fleet.memory.shortages) <= set(fleet.deployment.accelerators)
    for _, action in fleet.actions:
        if isinstance(action, Create):
            assert action.accelerator in fleet.deployment.accelerators

"""With strategy Cheapest, in time: measured, chosen calmly, followed by running workers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Action, Create
from modelfleet_operator.decisions.announcements import announce
from modelfleet_operator.decisions.capacity import SpotPolicy
from modelfleet_operator.decisions.choice import STANDS, PlacementMemory
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.model_memory import MemoryUse, ModelNeeds
from modelfleet_operator.decisions.observed import (
    Accelerator,
    Observed,
    PriceChange,
    Signals,
    Worker,
    WorkerState,
    WorkerStats,
)
from modelfleet_operator.decisions.plan import Plan, make_plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.relocation import SETTLED, SHORT_PAUSE
from modelfleet_operator.decisions.rendering import parse, render
from modelfleet_operator.decisions.startup_problem import StartupProblem
from modelfleet_operator.decisions.throughput import Basis
from modelfleet_operator.decisions.worker_speed import Targets, Work
from modelfleet_operator.explain.report import report
from modelfleet_operator.explain.snapshot import Snapshot, dump_snapshot, load_snapshot
from simulated_fleet import SimulatedFleet, deployment, policy, stats

GIB = 1 << 30
H100 = Accelerator(
    price=Decimal(4), currency="USD", memory=80 * GIB, bandwidth=3350_000_000_000, generation=1
)
L4 = Accelerator(
    price=Decimal("0.7"), currency="USD", memory=24 * GIB, bandwidth=300_000_000_000, generation=1
)
NEEDS = ModelNeeds(total=18 * GIB, weights=16_000_000_000)
DECODES = 16  # requests that each worker always has
FAST = {"h100": 0.003, "l4": 0.04}  # what the bandwidths promise


@dataclass
class Fleet(SimulatedFleet):
    """Each class has its price, its room and the seconds that a step really takes there."""

    classes: dict[str, Accelerator] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    room: dict[str, int] = field(default_factory=dict)
    chosen: list[str] = field(default_factory=list)
    fewest: int = 99  # ready workers, since it was reset

    def observe(self) -> Observed:
        return replace(super().observe(), accelerators=self.classes)

    def is_up(self, worker: Worker) -> bool:
        return worker.placed_at is not None and super().is_up(worker)

    def reconcile(self) -> Plan:
        for name, worker in list(self.workers.items()):
            if worker.placed_at is None and not worker.stopping:
                self.workers[name] = self._schedule(worker)
        self.fewest = min(self.fewest, len(self.routable()))
        plan = super().reconcile()
        if plan.status.placement is not None:
            now = plan.status.placement.chosen.accelerator
            if self.chosen[-1:] != [now]:
                self.chosen.append(now)
        return plan

    def signals(self) -> Signals:
        seen = super().signals()
        works = {w.id: self._work(w) for w in self.workers.values() if self.is_up(w)}
        said = {
            id_: replace(s, work=works[id_]) if id_ in works else s for id_, s in seen.stats.items()
        }
        return replace(seen, stats=said)

    def on(self, accelerator: str) -> int:
        return sum(self.workers[name].accelerator == accelerator for name in self.wanted())

    def _work(self, worker: Worker) -> Work:
        busy = max(self.now - worker.created, 0.0)
        step = self.steps.get(worker.accelerator, 0.02)
        tokens = int(busy / step) * DECODES
        done = tokens // 200
        return Work(busy, int(busy / step), done, tokens, done, float(done))

    def _schedule(self, worker: Worker) -> Worker:
        there = [w for w in self.workers.values() if w.placed_at is not None]
        if sum(w.accelerator == worker.accelerator for w in there) < self.room.get(
            worker.accelerator, 100
        ):
            return replace(worker, problem=None, placed_at=self.now, created=self.now)
        if worker.problem is not None:
            return worker
        problem = StartupProblem(reason=Reason.UNSCHEDULABLE, message="no room", since=self.now)
        return replace(worker, problem=problem)

    def _carry_out(self, action: Action) -> None:
        super()._carry_out(action)
        if isinstance(action, Create):
            self.workers[action.name] = replace(
                self.workers[action.name],
                accelerator=action.accelerator,
                accelerator_generation=1,
                capacity=action.capacity if self.deployment.spot else "",
            )


def fleet(replicas: int = 2, *, classes: dict[str, Accelerator] | None = None, **changes) -> Fleet:
    classes = classes or {"h100": H100, "l4": L4}
    steps = changes.pop("steps", {"h100": 0.02, "l4": 0.04})
    room = changes.pop("room", {})
    asked = {"cheapest": True, "needs": NEEDS, "speed_key": "k", "accelerators": tuple(classes)}
    scaling = policy(
        min_replicas=replicas,
        max_replicas=8,
        targets=Targets(most=DECODES, tpot=changes.pop("tpot", 0.0)),
    )
    return Fleet(
        deployment(scaling=scaling, **(asked | changes)), classes=classes, steps=steps, room=room
    )


def test_the_estimate_chooses_first_and_the_status_says_that_it_is_one():
    here = fleet()
    here.run(10)
    assert here.on("h100") == 2
    told = here.status.placement
    assert told is not None
    assert (told.chosen.accelerator, told.chosen.basis) == ("h100", Basis.ESTIMATED)
    assert told.runner_up is not None
    assert told.runner_up.accelerator == "l4"
    assert told.runner_up.why == "a token costs 95% more"


def test_the_event_has_both_figures_and_comes_once():
    here = fleet()
    plan = here.reconcile()
    notes = [a for a in announce(None, plan.status) if a.reason == "PlacementChosen"]
    assert [n.kind for n in notes] == ["Normal"]
    assert notes[0].note == (
        "new workers go to h100: 0.332 USD per million tokens (estimated from its memory "
        "bandwidth, 3,350 tokens/s); next l4: 0.648 USD per million tokens (estimated from its "
        "memory bandwidth, 300 tokens/s): a token costs 95% more"
    )
    again = parse(render(plan.status))
    assert not [a for a in announce(again, plan.status) if a.reason == "PlacementChosen"], (
        "an operator that restarts tells nothing twice"
    )


def test_explain_has_every_class_with_its_figures():
    here = fleet(classes={"h100": H100, "l4": L4, "old": replace(L4, memory=8 * GIB)})
    plan = here.reconcile()
    words = next(v.words for v in plan.verdicts if v.step == "placement")
    assert "a worker needs 18 GiB (by its name)" in words
    assert "h100: 0.332 USD per million tokens (estimated from its memory bandwidth" in words
    assert "l4: 0.648 USD" in words
    assert "old is out: a worker of this model needs 18 GiB" in words


def test_a_snapshot_of_it_can_be_kept_shown_and_replayed():
    here = fleet()
    here.run(30, step=2)
    taken = Snapshot(
        modelfleet="0",
        now=here.now,
        observed=here.observe(),
        signals=here.signals(),
        memory=here.memory.without_ranking(),
        status=here.status,
    )
    again = load_snapshot(dump_snapshot(taken))
    assert again.replay().status.placement == taken.replay().status.placement
    assert "new workers go to h100" in report(again)


def test_a_measurement_replaces_the_estimate():
    here = fleet()
    here.run(90, step=1)
    told = here.status.placement
    assert told is not None
    assert told.chosen.basis is Basis.MEASURED
    assert told.chosen.tokens == pytest.approx(DECODES / 0.02, rel=0.1)


def test_a_lower_price_moves_new_workers_first_and_running_ones_one_by_one():
    now_cheap = replace(L4, price_changes=(PriceChange(at=1700.0, price=Decimal("0.05")),))
    here = fleet(classes={"h100": H100, "l4": now_cheap})
    here.run(690, step=1)
    assert (here.on("h100"), here.chosen) == (2, ["h100"])
    here.run(20, step=1)
    assert here.chosen == ["h100", "l4"]
    here.change(scaling=replace(here.deployment.scaling, min_replicas=3))
    here.run(10, step=1)
    assert (here.on("h100"), here.on("l4")) == (2, 1), "what runs stays for a while"
    here.fewest = 99
    here.run(SETTLED + 60, step=1)
    assert (here.on("h100"), here.on("l4")) == (0, 3)
    assert here.fewest == 3, "each serves until the one in its place is ready"
    assert here.cut == 0
    why = [a.reason for _, a in here.actions if "a token costs" in a.reason]
    assert why


def test_running_workers_stay_where_the_saving_is_below_the_margin():
    classes = {"a": replace(L4, price=Decimal("1.0")), "b": L4}
    classes["b"] = replace(
        L4, price=Decimal("1.1"), price_changes=(PriceChange(at=1700.0, price=Decimal("0.9")),)
    )
    here = fleet(classes=classes, steps={"a": 0.04, "b": 0.04})
    here.run(1500, step=2)
    assert here.chosen == ["a", "b"]
    assert here.on("a") == 2, "10 % is not 20 %"
    here.change(min_saving=0.05)
    here.run(120, step=2)
    assert here.on("b") == 2


def test_measurements_that_differ_a_little_do_not_move_the_choice():
    classes = {"a": L4, "b": L4}
    here = fleet(classes=classes, steps={"a": 0.04, "b": 0.04})
    for turn in range(40):
        here.steps = {"a": 0.04 + 0.001 * (turn % 2), "b": 0.04 - 0.0005 * (turn % 3)}
        here.run(60, step=5)
    assert len(here.chosen) == 1
    assert here.on("a") == 2


def test_a_class_that_is_short_is_left_and_tried_again_after_a_long_pause():
    here = fleet(room={"h100": 0}, fallback_after=60.0, steps=FAST)
    here.run(120, step=1)
    assert here.on("l4") == 2
    assert here.condition("PlacementLimited") == ("True", "AcceleratorShort")
    here.room = {}
    started = here.started
    here.run(SHORT_PAUSE - 300, step=5)
    assert here.started == started, "running workers do not go there and back"
    here.run(900, step=5)
    assert here.on("h100") == 2


def test_a_replacement_that_finds_no_room_costs_nothing_that_runs():
    here = fleet(room={"h100": 0}, fallback_after=60.0, steps=FAST)
    here.run(120, step=1)
    here.fewest = 99
    here.run(3 * SHORT_PAUSE, step=5)
    assert here.on("l4") == 2
    assert here.fewest == 2


def test_a_class_where_a_worker_runs_out_of_memory_is_not_chosen_again():
    here = fleet(replicas=1)
    here.run(2)
    (name,) = here.alive()
    here.workers[name] = replace(
        here.workers[name], failure="OOMKilled", failure_reason=Reason.OUT_OF_MEMORY
    )
    here.run(30, step=1)
    assert here.on("l4") == 1
    assert here.condition("PlacementLimited") == ("True", "ModelDoesNotFit")
    message = here.status.condition("PlacementLimited").message
    assert f"h100: {name} ran out of memory there" in message
    events = announce(None, here.status)
    assert any(e.reason == "ModelDoesNotFit" and e.kind == "Warning" for e in events)
    here.memory = Memory.load(json.loads(json.dumps(here.memory.dump())))
    here.run(SHORT_PAUSE * 2, step=10)
    assert here.on("l4") == 1, "nor after a restart of the operator"
    here.change(revision="bbbb")
    here.run(30, step=1)
    assert here.on("h100") == 1, "another revision may fit"


def test_a_worker_that_says_that_it_does_not_fit_is_believed():
    here = fleet(replicas=1)
    here.run(1)
    (name,) = here.alive()
    use = MemoryUse(weights=90 * GIB, cache=0, working=0, available=79 * GIB)
    here.says[name] = stats(WorkerState.FAILED, message="the weights need 90 GiB", memory=use)
    plan = here.reconcile()
    excluded = dict(plan.memory.placement.ranked[1].excluded)  # type: ignore[index]
    assert excluded["h100"] == f"{name} needs 90 GiB and found 79 GiB there"
    assert "as a worker reports" in excluded["l4"], "and so does the smaller class"
    assert plan.status.condition("Stalled").reason == "ModelDoesNotFit"


def test_a_class_that_has_less_room_for_the_cache_is_not_out_for_that():
    here = fleet(replicas=2, classes={"h100": H100, "l4": replace(L4, memory=20 * GIB)})
    here.run(5)
    first, second = here.alive()
    for name, cache in ((first, 1), (second, 8)):
        use = MemoryUse(weights=16 * GIB, cache=cache * GIB, working=GIB, available=0)
        here.says[name] = stats(memory=use)
    here.run(5)
    assert here.memory.placement.use is not None
    assert here.memory.placement.use.total == 18 * GIB
    told = here.status.placement
    assert told is not None
    assert told.excluded == ()


def test_where_no_class_can_hold_the_model_one_sentence_says_so():
    here = fleet(needs=ModelNeeds(total=200 * GIB, weights=180 * GIB))
    here.run(5)
    assert not here.alive()
    assert here.condition("Stalled") == ("True", "ModelDoesNotFit")
    assert here.status.condition("Stalled").message == (
        "no accelerator class of spec.placement.accelerators can hold the model: h100: a worker of "
        "this model needs 200 GiB (by its name), and its memory is 80 GiB; l4: a worker of this "
        "model needs 200 GiB (by its name), and its memory is 24 GiB"
    )


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        pytest.param(
            {"h100": replace(H100, memory=0), "l4": L4},
            "h100 is not compared: it says no spec.memory",
            id="no memory",
        ),
        pytest.param(
            {"h100": replace(H100, price=None), "l4": L4},
            "h100 is not compared: it says no spec.price",
            id="no price",
        ),
        pytest.param(
            {"h100": H100, "l4": replace(L4, currency="EUR")},
            "prices in two currencies cannot be added",
            id="two currencies",
        ),
    ],
)
def test_what_cannot_be_compared_is_a_condition(classes: dict[str, Accelerator], sentence: str):
    here = fleet(classes=classes)
    here.run(5)
    assert here.condition("PlacementLimited") == ("True", "ClassNotCompared")
    assert sentence in here.status.condition("PlacementLimited").message
    assert len(here.alive()) == 2, "it serves all the same"


def test_the_cheapest_that_keeps_the_targets():
    here = fleet(tpot=0.03, classes={"h100": H100, "l4": replace(L4, price=Decimal("0.01"))})
    here.run(5)
    assert here.on("h100") == 2
    told = here.status.placement
    assert told is not None
    assert told.runner_up is not None
    assert "does not keep spec.scaling.slo" in told.runner_up.why


def test_on_spot_the_price_of_spot_counts():
    classes = {"h100": replace(H100, spot_price=Decimal(3)), "l4": L4}
    classes["l4"] = replace(L4, spot_price=Decimal("0.1"))
    here = fleet(classes=classes, spot=SpotPolicy(policy="Prefer", on_demand_base=1))
    here.run(10)
    placed = sorted((w.accelerator, w.capacity) for w in here.workers.values())
    assert placed == [("h100", "OnDemand"), ("l4", "Spot")]
    told = here.status.placement
    assert told is not None
    assert (told.chosen.accelerator, told.chosen.capacity) == ("l4", "Spot")


def test_classes_in_order_are_as_they_were():
    here = fleet(cheapest=False)
    here.run(60, step=1)
    assert here.on("h100") == 2
    assert here.status.placement is None
    assert here.memory.placement == PlacementMemory()
    assert here.memory.dump()["placement"] == {}


def test_nothing_is_ranked_again_while_nothing_changes():
    here = fleet()
    first = here.reconcile().memory.placement.ranked
    here.now += 1
    assert here.reconcile().memory.placement.ranked is first
    here.classes = {**here.classes, "l4": replace(L4, price=Decimal(9))}
    assert here.reconcile().memory.placement.ranked is not first


def test_memory_of_older_versions_and_of_other_hands_is_readable():
    assert Memory.load({"target": 1}).placement == PlacementMemory()
    for broken in ({}, {"speeds": 3}, [], "x", {"revision": "a", "speed_key": "k", "speeds": {}}):
        assert Memory.load({"placement": broken}).placement.speeds.shown == {}


def test_the_memory_is_bounded():
    names = [f"class{n}" for n in range(8)]
    here = fleet(classes=dict.fromkeys(names, L4), replicas=8)
    here.run(5)
    for place, name in enumerate(list(here.workers)):
        here.workers[name] = replace(here.workers[name], accelerator=names[place])
    here.run(300, step=2)
    dumped = json.dumps(here.memory.dump()["placement"])
    assert len(here.memory.placement.speeds.shown) == 8
    assert len(dumped) < 8000


@settings(max_examples=8, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.tuples(
            st.sampled_from([0.01, 0.02, 0.04, 0.08]),  # seconds of a step, really
            st.sampled_from([300, 900, 3350]),  # GB a second, as the class says
            st.sampled_from(["0.5", "0.7", "2", "4"]),
        ),
        min_size=1,
    ),
    st.integers(1, 2),
)
def test_it_settles_and_never_serves_with_fewer(
    drawn: dict[str, tuple[float, int, str]], replicas: int
):
    """Whatever the estimates promise: each class is tried once at most, and then it is calm."""
    classes = {
        name: replace(L4, price=Decimal(price), bandwidth=bandwidth * 10**9)
        for name, (_, bandwidth, price) in drawn.items()
    }
    here = fleet(
        replicas, classes=classes, steps={name: step for name, (step, _, _) in drawn.items()}
    )
    here.run(60, step=2)
    here.fewest = 99
    here.run(8 * STANDS, step=30)
    assert here.fewest == replicas
    assert len(here.chosen) <= len(classes) + 1
    before, started = list(here.chosen), here.started
    here.run(4 * STANDS, step=30)
    assert (here.chosen, here.started) == (before, started)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2000))
def test_the_same_arguments_give_the_same_plan(later: int):
    here = fleet()
    here.run(2)
    seen, signals, now = here.observe(), here.signals(), here.now + later
    once, again = (make_plan(seen, signals, now, here.memory, here.status) for _ in range(2))
    assert once == again


def test_stats_of_an_older_worker_say_nothing_of_memory():
    assert WorkerStats(state=WorkerState.READY).memory is None

"""Spot and on demand: which capacity each worker gets, on nodes that have room or have not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_operator.decisions.actions import Action, Create
from modelfleet_operator.decisions.capacity import ON_DEMAND, SPOT, Mix, SpotPolicy, capacity_of
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.notices import MOVES_FIRST
from modelfleet_operator.decisions.observed import Accelerator, Observed, Worker
from modelfleet_operator.decisions.plan import Plan
from modelfleet_operator.decisions.reasons import Reason
from modelfleet_operator.decisions.signs import NoticeKind
from modelfleet_operator.decisions.startup_problem import StartupProblem
from simulated_fleet import SimulatedFleet, deployment, policy

RECLAIM = Notice(kind=NoticeKind.SPOT_RECLAIM, source="taint spot-itn", seconds=30.0)
CLASSES = {
    "a10": Accelerator(price=Decimal(4), spot_price=Decimal(1), currency="USD"),
    "l4": Accelerator(price=Decimal(2), spot_price=Decimal("0.5"), currency="USD"),
}


@dataclass
class Market(SimulatedFleet):
    """Nodes of each place have room for so many workers; none said: for all."""

    room: dict[str, int] = field(default_factory=dict)
    zone: str = ""

    def observe(self) -> Observed:
        return replace(super().observe(), accelerators=CLASSES)

    def reconcile(self) -> Plan:
        for name, worker in list(self.workers.items()):
            if worker.placed_at is None and not worker.stopping:
                self.workers[name] = self._schedule(worker)
        return super().reconcile()

    def is_up(self, worker: Worker) -> bool:
        return worker.placed_at is not None and super().is_up(worker)

    def on(self, capacity: str) -> int:
        return sum(self.workers[name].capacity == capacity for name in self.wanted())

    def _schedule(self, worker: Worker) -> Worker:
        there = [w for w in self.workers.values() if w.placed_at is not None]
        taken = sum(_place(w) == _place(worker) for w in there)
        if taken < self.room.get(_place(worker), 100):
            at = self.now
            return replace(worker, problem=None, placed_at=at, created=at, zone=self.zone)
        if worker.problem is not None:
            return worker
        problem = StartupProblem(
            reason=Reason.UNSCHEDULABLE, message="no node has room", since=self.now
        )
        return replace(worker, problem=problem)

    def _carry_out(self, action: Action) -> None:
        super()._carry_out(action)
        if isinstance(action, Create):
            made = self.workers[action.name]
            self.workers[action.name] = replace(
                made, accelerator=action.accelerator, capacity=action.capacity
            )


def _place(worker: Worker) -> str:
    return f"{worker.accelerator} {worker.capacity}".strip()


def market(
    spot: SpotPolicy | None, replicas: int = 2, *, classes: tuple[str, ...] = ("a10",), **scaling
) -> Market:
    chosen = policy(min_replicas=replicas, max_replicas=max(replicas, 8), **scaling)
    return Market(deployment(scaling=chosen, spot=spot, accelerators=classes))


PREFER = SpotPolicy(policy="Prefer")


@pytest.mark.parametrize(
    ("mix", "chosen", "wanted", "short", "then"),
    [
        pytest.param(Mix(), PREFER, 3, False, "SSS", id="as many as there are"),
        pytest.param(Mix(), PREFER, 3, True, "DDD", id="spot is short"),
        pytest.param(
            Mix(), replace(PREFER, on_demand_base=1), 3, False, "DSS", id="the base comes first"
        ),
        pytest.param(
            Mix(), replace(PREFER, max_share=50), 4, False, "SSDD", id="no more than the share"
        ),
        pytest.param(
            Mix(spot=2), replace(PREFER, max_share=50, on_demand_base=1), 4, False, "DD", id="both"
        ),
        pytest.param(Mix(), SpotPolicy(policy="Only"), 2, True, "SS", id="Only waits for it"),
        pytest.param(
            Mix(), SpotPolicy(policy="Only", on_demand_base=1), 2, False, "DS", id="Only has a base"
        ),
        pytest.param(Mix(), SpotPolicy(policy="Never"), 2, False, "DD", id="Never"),
    ],
)
def test_the_capacity_of_the_next_workers(
    mix: Mix, chosen: SpotPolicy, wanted: int, short: bool, then: str
):
    names = {"S": SPOT, "D": ON_DEMAND}
    upcoming = mix.next_ones(chosen, wanted, is_short=short)
    assert list(islice(upcoming, len(then))) == [names[letter] for letter in then]


def test_without_a_policy_no_capacity_is_asked_for():
    assert list(islice(Mix().next_ones(None, 2, is_short=True), 2)) == ["", ""]


@pytest.mark.parametrize(
    ("labels", "capacity"),
    [
        ({"karpenter.sh/capacity-type": "spot"}, SPOT),
        ({"karpenter.sh/capacity-type": "on-demand"}, ON_DEMAND),
        ({"cloud.google.com/gke-spot": "true"}, SPOT),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, SPOT),
        ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, ON_DEMAND),
        ({"kubernetes.azure.com/scalesetpriority": "spot"}, SPOT),
        ({"kubernetes.io/os": "linux"}, ""),
    ],
)
def test_what_a_node_says_it_is(labels: dict[str, str], capacity: str):
    assert capacity_of(labels) == capacity


def test_spot_is_preferred_and_costs_what_spot_costs():
    seen = market(replace(PREFER, on_demand_base=1), 3)
    seen.run(6)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (1, 2)
    assert seen.status.cost_per_hour == Decimal(6)
    assert seen.status.currency == "USD"
    assert seen.status.spot_replicas == 2


def test_it_falls_back_while_spot_is_short_and_returns_when_it_is_not():
    seen = market(PREFER, 2)
    seen.room["a10 Spot"] = 0
    seen.run(70)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (2, 0)
    assert seen.condition("PlacementLimited") == ("True", "SpotShort")
    message = seen.status.condition("PlacementLimited").message
    assert message == "a10 spot is short: no node has room; new workers go to a10"
    seen.room["a10 Spot"] = 100
    least = 2
    for _ in range(340):
        seen.run(1)
        least = min(least, len(seen.routable()))
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (0, 2)
    assert least == 2, "the one on spot serves before the other one goes"


def test_while_spot_stays_short_nothing_that_serves_flaps():
    seen = market(PREFER, 2)
    seen.room["a10 Spot"] = 0
    seen.run(70)
    before = set(seen.routable())
    for _ in range(60):
        seen.run(30, step=5)
        assert set(seen.routable()) == before
    tried = [at for at, name in seen.created() if at > 1070]
    assert len(tried) <= 6, "one waiting pod in six minutes"


def test_only_waits_for_spot():
    seen = market(SpotPolicy(policy="Only"), 1)
    seen.room["a10 Spot"] = 0
    seen.run(120)
    (waiting,) = seen.workers.values()
    assert waiting.capacity == SPOT
    assert seen.condition("Ready")[1] == "Unschedulable"


def test_the_next_class_is_tried_where_neither_has_room():
    seen = market(PREFER, 1, classes=("a10", "l4"))
    seen.room |= {"a10 Spot": 0, "a10 OnDemand": 0}
    seen.run(140)
    (there,) = [seen.workers[name] for name in seen.wanted()]
    assert (there.accelerator, there.capacity) == ("l4", SPOT)


def test_a_base_that_is_raised_moves_one_after_the_other():
    seen = market(PREFER, 2)
    seen.run(6)
    assert seen.on(SPOT) == 2
    seen.change(spot=replace(PREFER, on_demand_base=1))
    for _ in range(30):
        seen.run(0.5)
        assert len(seen.routable()) >= 2
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (1, 1)


def test_shrinking_keeps_the_base():
    seen = market(replace(PREFER, on_demand_base=1), 1, scale_down_delay=5.0)
    seen.waiting = 24
    seen.run(8)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (1, 2)
    seen.waiting = 0
    seen.run(60)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (1, 0)


def test_a_zone_that_was_reclaimed_is_avoided_for_a_while():
    seen = market(PREFER, 2)
    seen.zone = "eu-1a"
    seen.run(6)
    name = seen.wanted()[0]
    seen.workers[name] = replace(seen.workers[name], notice=RECLAIM)
    plan = seen.reconcile()
    assert not [a for a in plan.actions if isinstance(a, Create)], "streams move first"
    assert plan.wake_at == seen.now + MOVES_FIRST
    seen.now = plan.wake_at
    (create,) = [a for a in seen.reconcile().actions if isinstance(a, Create)]
    assert (create.capacity, create.avoid_zones) == (SPOT, ("eu-1a",))
    seen.memory = Memory.load(seen.memory.dump())
    seen.run(620, step=5)
    seen.change(scaling=policy(min_replicas=3, max_replicas=3))
    (create,) = [a for a in seen.reconcile().actions if isinstance(a, Create)]
    assert create.avoid_zones == ()


def test_a_market_that_is_taken_back_in_two_zones_is_left_for_a_while():
    seen = market(PREFER, 3)
    for zone in ("eu-1a", "eu-1b"):
        seen.zone = zone
        seen.run(6)
        name = next(n for n in seen.wanted() if seen.workers[n].capacity == SPOT)
        seen.workers[name] = replace(seen.workers[name], zone=zone, notice=RECLAIM)
        seen.run(6)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (1, 2)
    assert "a10 spot was taken back lately" in seen.status.condition("PlacementLimited").message
    seen.run(640)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (0, 3)


def test_the_budget_counts_each_worker_at_its_own_price():
    seen = market(
        replace(PREFER, on_demand_base=1), 0, max_hourly_cost=Decimal(7), target_queue_depth=1
    )
    seen.waiting = 8
    seen.run(20)
    assert (seen.on(ON_DEMAND), seen.on(SPOT)) == (1, 3)  # 4 + 3 * 1
    assert seen.condition("BudgetLimited") == ("True", "BudgetReached")


@pytest.mark.parametrize("limit", [None, Decimal(9)])
def test_prices_in_two_currencies_are_one_sentence(limit: Decimal | None):
    seen = market(PREFER, 1, classes=("a10", "l4"), max_hourly_cost=limit)
    dear = {**CLASSES, "l4": replace(CLASSES["l4"], currency="EUR")}
    observed = seen.observe

    def in_two() -> Observed:
        return replace(observed(), accelerators=dear)

    seen.observe = in_two  # type: ignore[method-assign]
    seen.run(6)
    limited = seen.status.condition("BudgetLimited")
    assert (limited.status, limited.reason) == ("Unknown", "PriceUnknown")
    assert "two currencies cannot be added: l4 in EUR and a10 in USD" in limited.message
    assert seen.status.cost_per_hour is None


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.builds(
        SpotPolicy,
        policy=st.sampled_from(["Never", "Prefer", "Only"]),
        on_demand_base=st.integers(0, 3),
        max_share=st.sampled_from([0, 30, 50, 100]),
    ),
    loads=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    short=st.lists(st.booleans(), min_size=1, max_size=5),
    reclaimed=st.lists(st.integers(0, 40), max_size=6),
)
def test_share_and_base_are_never_violated(
    chosen: SpotPolicy, loads: list[int], short: list[bool], reclaimed: list[int]
):
    """Whatever comes, whatever is taken back, and whether spot has room or not."""
    seen = market(chosen, 1, target_queue_depth=8, scale_down_delay=10.0)
    steps = 40
    for step in range(steps):
        seen.waiting = loads[step * len(loads) // steps]
        seen.room["a10 Spot"] = 0 if short[step * len(short) // steps] else 100
        on_spot = [n for n in seen.wanted() if seen.workers[n].capacity == SPOT]
        if step in reclaimed and on_spot:
            name = on_spot[0]
            seen.workers[name] = replace(seen.workers[name], notice=RECLAIM)
        before = len(seen.actions)
        calm = [seen.workers[n] for n in seen.wanted() if seen.workers[n].notice is None]
        seen.now += 5
        seen._age()
        plan = seen.reconcile()
        created = [a for _, a in seen.actions[before:] if isinstance(a, Create)]
        _check(chosen, plan, calm, created)


@settings(max_examples=30, deadline=None)
@given(
    chosen=st.builds(
        SpotPolicy,
        policy=st.sampled_from(["Never", "Prefer", "Only"]),
        on_demand_base=st.integers(0, 2),
        max_share=st.sampled_from([0, 50, 100]),
    ),
    limit=st.integers(1, 15),
    loads=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    short=st.lists(st.booleans(), min_size=1, max_size=4),
    reclaimed=st.lists(st.integers(0, 29), max_size=4),
)
def test_the_budget_is_never_exceeded(
    chosen: SpotPolicy, limit: int, loads: list[int], short: list[bool], reclaimed: list[int]
):
    """Replacements are paid for, too; nothing is the minimum here, so it excuses nothing."""
    seen = market(chosen, 0, target_queue_depth=8, max_hourly_cost=Decimal(limit))
    steps = 30
    for step in range(steps):
        seen.waiting = loads[step * len(loads) // steps]
        seen.room["a10 Spot"] = 0 if short[step * len(short) // steps] else 100
        if step in reclaimed and seen.wanted():
            name = seen.wanted()[0]
            seen.workers[name] = replace(seen.workers[name], notice=RECLAIM)
        before = len(seen.actions)
        seen.now += 5
        seen._age()
        seen.reconcile()
        if any(isinstance(a, Create) for _, a in seen.actions[before:]):
            held = [seen.workers[name] for name in seen.existing()]
            cost = sum(Decimal(1) if worker.capacity == SPOT else Decimal(4) for worker in held)
            assert cost <= max(limit, 4), "one worker proves its revision, whatever it costs"


def _check(chosen: SpotPolicy, plan: Plan, calm: list[Worker], created: list[Create]) -> None:
    """Each worker that is started, beside those that stay."""
    drained = {a.worker.uid for a in plan.actions if hasattr(a, "worker")}
    stay = [w for w in calm if w.uid not in drained]
    spot = sum(w.capacity == SPOT for w in stay)
    on_demand = len(stay) - spot
    wanted = plan.status.desired_replicas
    for create in created:
        total = max(wanted, spot + on_demand + 1)
        if create.capacity == SPOT:
            spot += 1
            assert spot <= chosen.most_spot(total)
            assert on_demand >= min(chosen.on_demand_base, total)
        else:
            on_demand += 1

"""A whole simulation: nothing is lost, everything is paid for, and the plans are make_plan's."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_gateway.operator_link import link
from modelfleet_operator.decisions.autoscale import ScalingPolicy
from modelfleet_operator.decisions.capacity import SpotPolicy
from modelfleet_operator.decisions.cold_start import expected_cold_start
from modelfleet_operator.decisions.observed import Accelerator, Deployment
from modelfleet_operator.decisions.placement import count_mix
from modelfleet_operator.decisions.plan import make_plan
from modelfleet_operator.decisions.pool import REFILL_PAUSE
from modelfleet_operator.decisions.pool_observed import Pool
from modelfleet_operator.decisions.worker_speed import Targets
from modelfleet_operator.simulate import planner
from modelfleet_operator.simulate.baselines import BASELINES, Bounds
from modelfleet_operator.simulate.market import SpotMarket
from modelfleet_operator.simulate.options import FleetOptions
from modelfleet_operator.simulate.outcome import DONE, NO_WORKER, OUTCOMES, PENDING, TIMED_OUT
from modelfleet_operator.simulate.planner import Planner
from modelfleet_operator.simulate.pool import PoolOptions
from modelfleet_operator.simulate.scenario import (
    Burst,
    ColdStart,
    Scenario,
    Shortage,
    Spot,
    Spread,
)
from modelfleet_operator.simulate.scenario import (
    Pool as PoolScenario,
)
from modelfleet_operator.simulate.signals import signals
from modelfleet_operator.simulate.simulation import Simulation
from modelfleet_operator.simulate.summary import Slo, area_bound, summarize
from modelfleet_operator.simulate.trace import Trace
from modelfleet_operator.simulate.worker import START
from modelfleet_process.calibration import Calibration

CALIBRATION = Calibration(
    step_seconds=0.02,
    decode_sequence_seconds=0.002,
    prefill_token_seconds=0.001,
    kv_tokens=4000,
    context_length=2000,
)


def requests(*each: tuple[float, int, int]) -> Trace:
    """Arrival, prompt and answer tokens."""
    ordered = sorted(each)
    return Trace(
        array("d", (at for at, _, _ in ordered)),
        array("q", (prompt for _, prompt, _ in ordered)),
        array("q", (answer for _, _, answer in ordered)),
        (),
        "test",
    )


def fleet(**changes) -> FleetOptions:
    scaling = {
        "min_replicas": 0, "max_replicas": 5, "target_queue_depth": 4, "idle_timeout": 20.0,
        "scale_down_delay": 10.0,
    } | changes.pop("scaling", {})  # fmt: skip
    deployment = Deployment(
        namespace="default",
        name="tiny",
        created=1.0,
        revision="aaaa",
        served_names=("tiny",),
        scaling=ScalingPolicy(**scaling),
        max_queue=changes.pop("max_queue", 1000),
        hold_timeout=changes.pop("hold_timeout", 600.0),
        overload_target=changes.pop("overload_target", 0.0),
        spot=changes.pop("spot_policy", None),
        warm_pool=changes.pop("warm_pool", ""),
    )
    start = changes.pop("start", 5.0)
    defaults = {
        "calibration": CALIBRATION,
        "scenario": Scenario(cold_start=ColdStart(load=Spread(median=start))),
        "max_sequences": 8,
        "max_batch_tokens": 256,
    }
    return FleetOptions(deployment=deployment, **(defaults | changes))


def pool(size: int = 2, start: float = 4.0, budget: Decimal | None = None) -> PoolOptions:
    return PoolOptions(
        pool=Pool(
            namespace="default",
            name="pool",
            template="t",
            size=size,
            max_hourly_cost=budget,
        ),
        start=ColdStart(image=Spread(median=start)),
        price=1.0,
        accelerators={"": Accelerator(price=Decimal(1))},
    )


REQUESTS = st.lists(
    st.tuples(st.floats(0, 120), st.integers(1, 900), st.integers(1, 80)), min_size=1, max_size=60
)
FLEETS = st.builds(
    fleet,
    scaling=st.fixed_dictionaries(
        {
            "min_replicas": st.integers(0, 2),
            "target_queue_depth": st.sampled_from([None, 1, 4, 16]),
            "idle_timeout": st.sampled_from([0.0, 5.0, 30.0]),
            "scale_down_delay": st.sampled_from([None, 0.0, 3.0, 60.0]),
            "targets": st.sampled_from([Targets(), Targets(ttft=1.0, tpot=0.05, most=8)]),
        }
    ),
    start=st.sampled_from([0.0, 2.0, 30.0]),
    hold_timeout=st.sampled_from([1.0, 20.0, 600.0]),
    max_queue=st.sampled_from([0, 3, 1000]),
    overload_target=st.sampled_from([0.0, 0.0, 1.2]),
    scenario=st.builds(
        Scenario,
        cold_start=st.builds(
            ColdStart,
            node=st.sampled_from([Spread(median=0), Spread(median=8, p95=20)]),
            weights=st.sampled_from([Spread(median=0), Spread(median=2, p95=6)]),
            load=st.just(Spread(median=3)),
        ),
        drain_timeout=st.sampled_from([0.0, 2.0, 60.0]),
        spot=st.builds(
            Spot,
            zones=st.integers(1, 3),
            per_hour=st.sampled_from([0.0, 60.0]),
            fleet_per_hour=st.sampled_from([0.0, 60.0]),
            burst=st.sampled_from([Burst(), Burst(per_hour=20, share=0.7, shortage=60)]),
            notice=st.sampled_from([0.0, 5.0, 30.0]),
            shortage=st.sampled_from([Shortage(), Shortage(per_hour=60, seconds=40)]),
        ),
    ),
    spot_policy=st.one_of(
        st.none(),
        st.builds(
            SpotPolicy,
            policy=st.just("Prefer"),
            on_demand_base=st.integers(0, 2),
            max_share=st.sampled_from([50, 100]),
        ),
        st.builds(
            SpotPolicy,
            policy=st.sampled_from(["Never", "Only"]),
            on_demand_base=st.integers(0, 2),
        ),
    ),
    pools=st.one_of(
        st.just(()),
        st.builds(
            lambda size, start, budget: (pool(size, start, budget),),
            st.integers(0, 3),
            st.sampled_from([0.0, 4.0, 30.0]),
            st.sampled_from([None, Decimal(2)]),
        ),
    ),
    seed=st.integers(0, 3),
)


@given(REQUESTS, FLEETS)
@settings(max_examples=50, deadline=None)
def test_no_request_is_lost_and_every_second_is_paid_once(each, options: FleetOptions):
    trace = requests(*each)
    outcome = Simulation(trace, options).run()
    found, history = outcome.requests, outcome.history
    assert PENDING not in found.state
    counts = Counter(found.state)
    assert sum(counts[code] for code in OUTCOMES.values()) == len(trace)
    for place, at in enumerate(trace.arrivals):
        if found.state[place] == DONE:
            assert at <= found.taken[place] < found.first[place] <= found.last[place]
        else:
            assert math.isnan(found.last[place])
    summary = summarize(trace, outcome, Slo(2.0, 0.1), has_price=False)
    assert summary.oldest_wait >= 0
    assert sum(summary.outcomes.values()) == len(trace)
    bill = history.bill
    for seconds in (bill.serving, bill.idle, bill.cold, bill.draining):
        assert seconds >= 0
    done = [
        r for r, s in zip(zip(trace.arrivals, trace.prompts, trace.answers, strict=True),
                          found.state, strict=True) if s == DONE
    ]  # fmt: skip
    bound = area_bound(requests(*done), CALIBRATION, options.max_sequences) if done else 0.0
    assert summary.replica_hours >= bound - 1e-9


class Watched(Simulation):
    """Counts the workers that hold a node after each event."""

    def __init__(self, *arguments) -> None:
        self.held: list[tuple[float, int]] = []
        super().__init__(*arguments)

    def _call_at(self, at, what):
        def then(now: float) -> None:
            what(now)
            workers = self._fleet.workers.values()
            placed = [w for w in workers if w.seen.placed_at is not None and not w.seen.failure]
            self.held.append((now, len(placed)))

        super()._call_at(at, then)

    def seconds(self, end: float) -> float:
        """From the first request on."""
        ends = [*(at for at, _ in self.held[1:]), end]
        return sum(
            count * max(min(later, end) - max(at, 0.0), 0.0)
            for (at, count), later in zip(self.held, ends, strict=True)
        )


@given(REQUESTS, FLEETS)
@settings(max_examples=30, deadline=None)
def test_replica_hours_are_the_replicas_over_time(each, options: FleetOptions):
    simulated = Watched(requests(*each), options)
    history = simulated.run().history
    assert history.bill.total == pytest.approx(simulated.seconds(history.ended), abs=1e-6)


@given(REQUESTS, FLEETS)
@settings(max_examples=60, deadline=None)
def test_a_steady_plan_is_the_plan_that_make_plan_makes(each, options: FleetOptions):
    class ComparedPlanner(Planner):
        def _decide_steady(self, now: float) -> bool:
            memory = self._steady.into(self._memory) if self._steady else self._memory
            whole = make_plan(
                self._fleet.observe(now),
                signals(self._fleet, self._gateway, now),
                now + START,
                memory,
                self._status,
            )
            is_steady = super()._decide_steady(now)
            if is_steady:
                assert whole.actions == ()
                assert self._steady.into(self._memory) == whole.memory
            return is_steady

    class Compared(Simulation):
        planner = ComparedPlanner

    Compared(requests(*each), options).run()


@given(REQUESTS, FLEETS)
@settings(max_examples=20, deadline=None)
def test_the_same_input_gives_the_same_outcome(each, options: FleetOptions):
    trace = requests(*each)
    one, other = Simulation(trace, options).run(), Simulation(trace, options).run()
    assert one.requests.state == other.requests.state
    assert list(map(repr, one.requests.last)) == list(map(repr, other.requests.last))
    assert one.history == other.history


@given(REQUESTS)
@settings(max_examples=30, deadline=None)
def test_requests_are_taken_first_in_first_out(each):
    options = fleet(scaling={"max_replicas": 2}, max_sequences=2)
    trace = requests(*each)
    found = Simulation(trace, options).run().requests
    taken = [at for at in found.taken if not math.isnan(at)]
    assert taken == sorted(taken)


def test_newest_first_serves_more_in_time_and_as_many_in_all():
    """60 come at once to a worker for 8, then one each second."""
    trace = requests(*((0.0, 100, 40) for _ in range(60)), *((n, 100, 40) for n in range(1, 40)))
    in_time, ended = {}, {}
    for target in (0.0, 1.2):
        options = fleet(scaling={"min_replicas": 1, "max_replicas": 1}, overload_target=target)
        outcome = Simulation(trace, options).run()
        assert set(outcome.requests.state) == {DONE}
        summary = summarize(trace, outcome, Slo(2.0, 1.0), has_price=False)
        in_time[target] = summary.attainment
        ended[target] = outcome.history.ended
    assert in_time[1.2] > in_time[0.0] + 0.1
    assert ended[1.2] == pytest.approx(ended[0.0], rel=0.1)


def test_what_a_start_takes_is_learned_by_its_phases():
    class Learning(Simulation):
        def run(self):
            super().run()
            return self._planner._memory

    start = ColdStart(
        node=Spread(median=30),
        image=Spread(median=12),
        weights=Spread(median=46),
        load=Spread(median=7),
        first_token=Spread(median=2),
    )
    options = fleet(scenario=Scenario(cold_start=start))
    memory = Learning(requests((0, 10, 5)), options).run()
    assert memory.wakes[""][-1] == (30, 12, 46, 7, 2)
    assert expected_cold_start(memory) == pytest.approx(97)


@pytest.mark.parametrize("name", BASELINES)
@given(each=REQUESTS)
@settings(max_examples=8, deadline=None)
def test_another_policy_loses_nothing_and_stays_within_its_bounds(name: str, each):
    options = fleet(scaling={"min_replicas": 1, "max_replicas": 3})
    scaler = BASELINES[name](Bounds(least=1, most=3, target=4), {"slots": 8.0})
    outcome = Simulation(requests(*each), options, scaler).run()
    assert set(outcome.requests.state) == {DONE}
    assert all(1 <= sample.wanted <= 3 for sample in outcome.history.samples)


def test_a_sleeping_fleet_wakes_for_a_request_and_sleeps_again():
    outcome = Simulation(requests((0, 10, 5), (200, 10, 5), (400, 10, 5)), fleet()).run()
    first = outcome.requests.first
    assert first[1] - 200 == pytest.approx(5.05, abs=0.1)  # the start, then one step
    assert outcome.history.met_cold == 3
    assert outcome.history.bill.cold == pytest.approx(15, abs=1)
    assert outcome.history.bill.total == pytest.approx(60, abs=1)  # 5 s, then 20 s idle, twice


def test_a_request_waits_no_longer_than_hold_timeout():
    options = fleet(start=60.0, hold_timeout=20.0)
    outcome = Simulation(requests((0, 10, 5), (250, 10, 5)), options).run()
    assert list(outcome.requests.state) == [TIMED_OUT] * 2 or outcome.requests.state[1] == TIMED_OUT
    summary = summarize(requests((0, 10, 5), (250, 10, 5)), outcome, Slo(2, 1), has_price=False)
    assert summary.oldest_wait == 20.0


def steady_load(count: int = 100) -> Trace:
    return requests(*((n * 2.0, 50, 200) for n in range(count)))


def on_spot(**market) -> FleetOptions:
    start = ColdStart(load=Spread(median=3))
    return fleet(
        scenario=Scenario(cold_start=start, spot=Spot(zones=2, **market)),
        scaling={"min_replicas": 2},
        spot_policy=SpotPolicy(policy="Prefer"),
    )


def test_after_a_notice_streams_move_and_none_is_late():
    outcome = Simulation(steady_load(300), on_spot(per_hour=60, notice=30)).run()
    history = outcome.history
    assert history.interrupted >= 3
    assert history.moved > 0
    assert history.rerun == 0
    assert set(outcome.requests.state) == {DONE}


def test_without_a_notice_streams_begin_anew_elsewhere_and_none_is_lost():
    outcome = Simulation(steady_load(), on_spot(per_hour=60, notice=0)).run()
    assert outcome.history.rerun > 0
    # A worker that is gone without a word has failed: after three in a row none is said to come.
    assert set(outcome.requests.state) <= {DONE, NO_WORKER}


def test_workers_on_demand_are_not_taken_back():
    options = on_spot(per_hour=500, burst=Burst(per_hour=100))
    for policy in (None, SpotPolicy(policy="Never")):
        deployment = replace(options.deployment, spot=policy)
        outcome = Simulation(steady_load(), replace(options, deployment=deployment)).run()
        assert outcome.history.interrupted == 0


def test_a_market_without_room_sends_workers_on_demand_and_back_again():
    class Market(Simulation):
        def _call_at(self, at, what):
            def then(now: float) -> None:
                what(now)
                held = [w for w in self._fleet.workers.values() if w.seen.placed_at is not None]
                self.seen.append((now, Counter(w.seen.capacity for w in held)))

            super()._call_at(at, then)

        def __init__(self, *arguments) -> None:
            self.seen: list[tuple[float, Counter[str]]] = []
            super().__init__(*arguments)

    options = on_spot(shortage=Shortage(per_hour=20, seconds=300), notice=30, per_hour=10)
    simulated = Market(steady_load(2000), replace(options, price=1.0))
    history = simulated.run().history
    assert {*history.costs} == {"spot", "onDemand"}
    was_on_demand = next(at for at, held in simulated.seen if held["OnDemand"])
    assert any(at > was_on_demand and held == {"Spot": 2} for at, held in simulated.seen)


def test_a_claim_is_a_short_start_and_the_pool_fills_up_again():
    start = ColdStart(node=Spread(median=30), image=Spread(median=25), load=Spread(median=5))
    options = fleet(scenario=Scenario(cold_start=start, pool=PoolScenario(price_share=0.3)))
    standbys = replace(pool(2), start=options.scenario.standing_by(0.0), price=0.3)
    trace = requests((0, 10, 5), (200, 10, 5), (400, 10, 5))
    without = Simulation(trace, options).run()
    outcome = Simulation(trace, replace(options, pools=(standbys,), price=1.0)).run()
    assert without.requests.first[1] - 200 == pytest.approx(60.05, abs=0.1)
    history = outcome.history
    assert outcome.requests.first[1] - 200 == pytest.approx(5.05, abs=0.1)
    assert (history.hits, history.misses) == (3, 0)
    # Two stand by at all times, but while a new one waits for its node.
    held = 2 * history.ended - 2 * (30 + REFILL_PAUSE) - (history.ended - 400)
    assert history.standby_hours == pytest.approx(held / 3600, rel=0.01)
    assert history.costs["standby"] == pytest.approx(0.3 * history.standby_hours)
    assert history.costs["onDemand"] == pytest.approx(history.bill.total / 3600)


def test_a_claim_of_a_standby_that_holds_the_model_loads_nothing():
    start = ColdStart(node=Spread(median=30), image=Spread(median=25), load=Spread(median=5))
    options = fleet(scenario=Scenario(cold_start=start))
    holds = pool(1)
    holds = replace(
        holds,
        pool=replace(holds.pool, loaded_model="default/tiny"),
        start=options.scenario.standing_by(0.0, loads=True),
    )
    trace = requests((200, 10, 5), (230, 10, 5), (400, 10, 5))
    outcome = Simulation(trace, replace(options, pools=(holds,))).run()
    assert outcome.history.hits == 2
    assert outcome.requests.first[0] - 200 == pytest.approx(0.15, abs=0.1)
    # The next one stands by 2 + 60 s later: loaded, so that its claim is as short.
    assert outcome.requests.first[2] - 400 == pytest.approx(0.15, abs=0.1)
    other = replace(holds, pool=replace(holds.pool, loaded_model="default/other"))
    outcome = Simulation(trace, replace(options, pools=(other,))).run()
    assert outcome.requests.first[0] - 200 == pytest.approx(5.05, abs=0.1)


def test_a_start_that_finds_the_pool_empty_is_a_miss():
    options = replace(fleet(start=20.0), pools=(pool(1, start=20.0),))
    burst = requests(*((200.0, 100, 60) for _ in range(30)))
    history = Simulation(burst, options).run().history
    assert history.hits == 1
    assert history.misses == history.created > 0


@given(REQUESTS, FLEETS)
@settings(max_examples=40, deadline=None)
def test_spot_policy_and_pool_budget_are_kept_at_every_moment(each, options: FleetOptions):
    """Of those that serve the base is on demand, and what is started keeps to the share."""

    class Checked(Simulation):
        def _call_at(self, at, what):
            def then(now: float) -> None:
                what(now)
                self.check()

            super()._call_at(at, then)

        def check(self) -> None:
            policy, workers = options.deployment.spot, self._fleet.workers.values()
            mix = count_mix([w.seen for w in workers])
            if policy is not None:
                total = mix.spot + mix.on_demand
                assert mix.spot <= policy.most_spot(max(total, self._planner._memory.target or 0))
                assert policy.policy != "Only" or mix.on_demand <= policy.on_demand_base
            for there in self._fleet.pools:
                settings_ = there._options.pool
                most = settings_.max_hourly_cost
                assert there.paid <= (settings_.size if most is None else min(most, settings_.size))
            claimed = [w.seen.uid for w in workers if w.seen.claimed_from]
            assert len(claimed) == len(set(claimed))

    Checked(requests(*each), options).run()


def test_one_market_is_the_same_for_all_fleets():
    spot = Spot(burst=Burst(per_hour=5, share=1.0, shortage=60), shortage=Shortage(per_hour=3))

    def bursts(workers: int) -> list[float]:
        market, found = SpotMarket(spot, 3), []
        for _ in range(20):
            found.append(market.next_reclaim)
            zone = market.choose_zone(market.next_reclaim, ())
            market.reclaim([(str(n), zone) for n in range(workers)])
        return found

    assert bursts(0) == bursts(50)


def test_signals_come_as_often_as_a_gateway_sends_them():
    assert (planner.SIGNAL_PAUSE, planner.URGENT_PAUSE) == (link.SIGNAL_PAUSE, link.URGENT_PAUSE)

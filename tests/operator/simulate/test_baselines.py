"""Other autoscalers' formulas, each against its documentation's own numbers."""

from __future__ import annotations

import pytest

from modelfleet_operator.errors import ScenarioError
from modelfleet_operator.simulate.baselines import Bounds, Hpa, Keda, Kpa, KubeAi, parse_baseline
from modelfleet_operator.simulate.clairvoyant import schedule
from modelfleet_operator.simulate.scaler import Scaler, Seen

BOUNDS = Bounds(least=0, most=50, target=10)


def seen(now: float = 0.0, **changes) -> Seen:
    defaults = {
        "waiting": 0, "running": 0, "replicas": 1, "ready": 1, "starting": 0, "busy_seconds": 0.0,
    }  # fmt: skip
    return Seen(now=now, **(defaults | changes))


def story(scaler: Scaler, seconds: int, load, *, replicas: int = 1) -> list[int]:
    """The count after each decision; all of it is ready at once. `load`: in flight at a time."""
    counts, now = [], 0.0
    while now < seconds:
        replicas, _ = scaler.decide(seen(now, running=load(now), replicas=replicas, ready=replicas))
        counts.append(replicas)
        now += scaler.interval
    return counts


def test_hpa_multiplies_by_the_ratio_and_tolerates_a_tenth():
    hpa = Hpa(BOUNDS, 10, "inflight")
    assert hpa.decide(seen(replicas=2, ready=2, running=40))[0] == 4  # 200 of 100: twice as many
    hpa = Hpa(BOUNDS, 10, "inflight")
    assert hpa.decide(seen(replicas=2, ready=2, running=21)) == (2, "within the tolerance")


def test_hpa_grows_at_most_to_the_double_or_by_four():
    hpa = Hpa(BOUNDS, 1, "inflight")
    assert hpa.decide(seen(replicas=1, ready=1, running=40))[0] == 5
    assert hpa.decide(seen(15, replicas=6, ready=6, running=600))[0] == 12


def test_hpa_counts_pods_that_start_as_idle():
    hpa = Hpa(BOUNDS, 10, "inflight")
    decided = hpa.decide(seen(replicas=4, ready=2, starting=2, running=40))
    assert decided == (4, "within the tolerance")


def test_hpa_shrinks_to_the_highest_of_five_minutes_and_never_to_zero():
    counts = story(Hpa(BOUNDS, 10, "inflight"), 600, lambda now: 40 if now < 60 else 0)
    assert max(counts) == 4
    assert counts[-1] == 1
    place = next(n for n, count in enumerate(counts) if n > 5 and count < 4)
    assert place * 15 == pytest.approx(60 + 300, abs=30)


def test_hpa_on_utilization_sees_busy_engines_only():
    hpa = Hpa(BOUNDS, 0.8, "utilization")
    hpa.decide(seen(0, replicas=2, ready=2, running=1))
    busy = {"busy_seconds": 30.0}  # both for 15 s: 100 % of 80 %
    assert hpa.decide(seen(15, replicas=2, ready=2, running=50, **busy))[0] == 3


def test_keda_wakes_when_it_polls_and_sleeps_after_the_cooldown():
    keda = Keda(BOUNDS, 10, "inflight")
    counts = story(keda, 900, lambda now: 5 if 10 < now < 100 else 0, replicas=0)
    assert counts[:2] == [0, 0]  # at 0 and 15 s: it polls every 30 s
    assert counts[2] == 1
    asleep = next(n for n, count in enumerate(counts) if n > 3 and count == 0) * 15
    assert asleep == pytest.approx(90 + 300, abs=30)


def test_kpa_panics_and_grows_fast_but_shrinks_by_half():
    kpa = Kpa(BOUNDS, 10)
    counts = story(kpa, 240, lambda now: 5 if now < 60 else 100 if now < 90 else 5)
    assert counts[58] == 1
    assert max(counts[60:70]) == 10  # within ten seconds
    assert counts[100] == 10  # no fewer while it panics
    assert counts[-1] == 1


def test_kpa_keeps_for_its_scale_down_delay_and_then_sleeps():
    kpa = Kpa(BOUNDS, 10, scale_down_delay=100)
    counts = story(kpa, 400, lambda now: 20 if now < 30 else 0)
    assert counts[120] >= 2
    assert counts[-1] == 0
    assert kpa.decide(seen(400, waiting=1, replicas=0, ready=0)) == (1, "activator")


def test_kubeai_follows_the_mean_of_ten_minutes():
    counts = story(KubeAi(BOUNDS, 10), 1800, lambda now: 100 if now < 900 else 0)
    assert counts[290] == 5  # half of its window is zeros still
    assert counts[890] == 10
    assert counts[900 + 300] == pytest.approx(5, abs=1)
    assert counts[-1] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [("hpa", "expected one of all, hpa-util"), ("kpa:goal=3", "expected NAME:target=NUMBER"),
     ("kpa:target=x", "found 'target=x'")],
)  # fmt: skip
def test_an_unknown_baseline_is_named(text: str, message: str):
    with pytest.raises(ScenarioError, match=message):
        parse_baseline(text)
    assert parse_baseline("kpa:target=11,delay=300") == ("kpa", {"target": 11.0, "delay": 300.0})


def test_the_clairvoyant_starts_ahead_and_keeps_over_short_gaps():
    demand = [0] * 10 + [5] * 10 + [0] * 3 + [5] * 5 + [0] * 30 + [15] * 2
    counts, begins = schedule(demand, 5, start=4, most=9)
    asked = {second: counts[int(second - begins)] for second in range(-5, 60)}
    assert asked[4] == 0
    assert asked[5] == 1  # 5 s before it is needed: a start of 4 s
    assert all(asked[second] == 1 for second in range(5, 28))  # over the gap of 3 s
    assert asked[30] == 0
    assert asked[58] == 3

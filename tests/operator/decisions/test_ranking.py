"""Which place is the cheapest per token, and why the others are not."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.model_memory import ModelNeeds
from modelfleet_operator.decisions.observed import Accelerator
from modelfleet_operator.decisions.ranking import (
    Misfit,
    Ranking,
    Wanted,
    describe,
    rank,
    show_figure,
    why_behind,
)
from modelfleet_operator.decisions.throughput import Basis, ClassSpeeds, throughputs
from modelfleet_operator.decisions.worker_speed import Targets, Work, WorkerSpeed

GIB = 1 << 30
H100 = Accelerator(
    price=Decimal(4),
    spot_price=Decimal("1.5"),
    currency="USD",
    memory=80 * GIB,
    bandwidth=3350_000_000_000,
)
L4 = Accelerator(price=Decimal("0.7"), currency="USD", memory=24 * GIB, bandwidth=300_000_000_000)
CLASSES = {"h100": H100, "l4": L4}
NEEDS = ModelNeeds(total=18 * GIB, weights=16_000_000_000)


def measured(step: float, *, decodes: int = 16, busy: float = 100.0) -> WorkerSpeed:
    """A worker whose steps take so long with so many requests, of 200 tokens each.

    Prompts take it no time: in half of what was seen there are none.
    """
    steps = int(busy / step / 2)
    tokens = steps * decodes
    finished = max(tokens // 200, 25)
    with_prompts = Work(busy / 2, steps, finished, tokens, finished, float(finished))
    return WorkerSpeed().learn(with_prompts).learn(replace(with_prompts, prompt_tokens=0))


def ranking(
    speeds: dict[str, WorkerSpeed] | None = None,
    *,
    classes: dict[str, Accelerator] = CLASSES,
    needs: ModelNeeds = NEEDS,
    capacities: tuple[str, ...] = ("OnDemand",),
    misfits: dict[str, Misfit] | None = None,
    **targets: float,
) -> Ranking:
    wanted = Wanted(
        places=tuple((name, capacity) for name in classes for capacity in capacities),
        needs=needs,
        targets=Targets(most=16, **targets),
        misfits=misfits or {},
    )
    return rank(wanted, classes, speeds or {})


def names(found: Ranking) -> list[str]:
    return [r.place[0] for r in found.rated]


def test_until_something_is_measured_bandwidth_for_the_money_decides():
    found = ranking()
    assert names(found) == ["h100", "l4"], "11 times the bandwidth for 5.7 times the money"
    assert {r.throughput.basis for r in found.rated} == {Basis.ESTIMATED}
    # 16 requests get a token each with every reading of 16 GB at 3.35 TB/s.
    assert found.rated[0].throughput.tokens == pytest.approx(16 * 3350 / 16)
    assert found.rated[0].cost == pytest.approx(4 / (3350 * 3600) * 1e6)


def test_what_was_measured_decides_then():
    found = ranking({"h100": measured(0.02), "l4": measured(0.04)})
    assert names(found) == ["l4", "h100"], "half the speed for a sixth of the money"
    assert {r.throughput.basis for r in found.rated} == {Basis.MEASURED}
    assert found.rated[0].throughput.tokens == pytest.approx(16 / 0.04, rel=0.05)


def test_one_measured_class_tells_of_the_other_by_their_bandwidths():
    found = ranking({"l4": measured(0.04)})
    h100 = found.find(("h100", "OnDemand"))
    assert h100 is not None
    assert h100.throughput.basis is Basis.ESTIMATED
    assert h100.throughput.tokens == pytest.approx(16 / 0.04 * 3350 / 300, rel=0.05)


def test_a_class_that_was_seen_with_few_requests_is_not_taken_for_slow():
    busy, idle = measured(0.04, decodes=16), measured(0.02, decodes=2)
    found = throughputs(CLASSES, CLASSES, {"l4": busy, "h100": idle}, NEEDS, Targets(most=16))
    assert found["h100"].basis is Basis.MEASURED
    assert found["h100"].tokens > 1.5 * found["l4"].tokens


def test_a_class_that_does_not_keep_the_targets_comes_after_one_that_does():
    speeds = {"h100": measured(0.02), "l4": measured(0.04)}
    found = ranking(speeds, tpot=0.03)
    assert names(found) == ["h100", "l4"]
    best, behind = found.rated
    assert (best.throughput.keeps_targets, behind.throughput.keeps_targets) == (True, False)
    assert "does not keep spec.scaling.slo: a token takes 40 ms" in why_behind(behind, best)
    none_keeps = ranking(speeds, tpot=0.001)
    assert names(none_keeps) == ["h100", "l4"], "the fastest is the least bad"


def test_estimates_keep_to_the_targets_too():
    found = ranking(tpot=0.02)
    assert [r.throughput.keeps_targets for r in found.rated] == [True, False]


def test_spot_and_on_demand_of_all_classes_are_compared():
    found = ranking({"h100": measured(0.02), "l4": measured(0.04)}, capacities=("Spot", "OnDemand"))
    assert [r.place for r in found.rated] == [
        ("l4", "Spot"),  # without a price of its own, as on demand
        ("l4", "OnDemand"),
        ("h100", "Spot"),
        ("h100", "OnDemand"),
    ]


def test_a_class_that_cannot_hold_the_model_is_out():
    found = ranking(needs=replace(NEEDS, total=40 * GIB))
    assert names(found) == ["h100"]
    (name, why) = found.excluded[0]
    assert name == "l4"
    assert why == "a worker of this model needs 40 GiB (by its name), and its memory is 24 GiB"


def test_a_class_where_a_worker_did_not_fit_is_out_until_its_memory_is_another():
    misfit = {"h100": Misfit(memory=80 * GIB, why="tiny-a-0 ran out of memory there")}
    assert names(ranking(misfits=misfit)) == ["l4"]
    larger = {**CLASSES, "h100": replace(H100, memory=141 * GIB)}
    assert names(ranking(misfits=misfit, classes=larger)) == ["h100", "l4"]
    dearer = {**CLASSES, "h100": replace(H100, price=Decimal(5), generation=7)}
    assert names(ranking(misfits=misfit, classes=dearer)) == ["l4"], "a price makes no memory"


@pytest.mark.parametrize(
    ("changed", "lacks"),
    [
        pytest.param({"price": None}, "it says no spec.price", id="a price"),
        pytest.param({"memory": 0}, "it says no spec.memory", id="memory"),
        pytest.param({"bandwidth": 0}, "it says no spec.memoryBandwidth", id="bandwidth"),
    ],
)
def test_a_class_that_lacks_something_is_used_last_and_says_what(changed: dict, lacks: str):
    found = ranking(classes={"h100": replace(H100, spot_price=None, **changed), "l4": L4})
    assert names(found) == ["l4"]
    assert found.order == (("l4", "OnDemand"), ("h100", "OnDemand"))
    assert lacks in found.unrated[0][1]


def test_a_class_that_was_measured_needs_to_say_neither_memory_nor_bandwidth():
    bare = replace(L4, memory=0, bandwidth=0)
    assert names(ranking({"l4": measured(0.04)}, classes={"l4": bare})) == ["l4"]


def test_two_currencies_leave_the_classes_in_their_order():
    found = ranking(classes={"l4": replace(L4, currency="EUR"), "h100": H100})
    assert found.rated == ()
    assert [name for name, _ in found.order] == ["l4", "h100"]
    assert found.problem == ("prices in two currencies cannot be added: l4 in EUR and h100 in USD")


def test_a_currency_of_a_class_that_is_out_does_not_matter():
    euros = replace(L4, currency="EUR")
    found = ranking(classes={"l4": euros, "h100": H100}, needs=replace(NEEDS, total=40 * GIB))
    assert (names(found), found.problem) == (["h100"], "")


def test_the_words_have_the_figures_and_say_which_they_are():
    found = ranking({"h100": measured(0.02)})
    best, behind = found.rated
    assert "USD per million tokens (measured, " in describe(best, "USD")
    assert "(estimated from its memory bandwidth, " in describe(behind, "USD")
    assert why_behind(behind, best).endswith("% more")


@pytest.mark.parametrize(
    ("number", "text"), [(0.78412, "0.784"), (1240.4, "1,240"), (12.0, "12"), (0.00123, "0.00123")]
)
def test_figures_have_three_digits(number: float, text: str):
    assert show_figure(number) == text


classes_of_any_kind = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(
        Accelerator,
        price=st.none() | st.integers(0, 20).map(Decimal),
        currency=st.sampled_from(["", "USD", "EUR"]),
        memory=st.sampled_from([0, 10 * GIB, 24 * GIB, 80 * GIB]),
        bandwidth=st.sampled_from([0, 300_000_000_000, 3350_000_000_000]),
    ),
)
some_speeds = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(measured, st.sampled_from([0.005, 0.02, 0.08]), decodes=st.sampled_from([1, 4, 16])),
)


@given(classes_of_any_kind, some_speeds, st.sampled_from([0.0, 0.01, 0.05]))
def test_every_place_has_one_answer_and_no_dearer_one_comes_first(
    classes: dict[str, Accelerator], speeds: dict[str, WorkerSpeed], tpot: float
):
    found = ranking(speeds, classes=classes, tpot=tpot)
    placed = [name for name, _ in found.order] + [name for name, _ in found.excluded]
    assert sorted(placed) == sorted(classes)
    for name, _ in found.excluded:
        assert 0 < classes[name].memory < NEEDS.total
    keeping = [r for r in found.rated if r.throughput.keeps_targets]
    assert found.rated[: len(keeping)] == tuple(keeping)
    assert [r.cost for r in keeping] == sorted(r.cost for r in keeping)


@given(some_speeds)
def test_measured_speeds_survive_a_restart(speeds: dict[str, WorkerSpeed]):
    kept = ClassSpeeds(speeds=speeds, shown=speeds).dump()
    again = ClassSpeeds.load(kept)
    assert again.dump() == kept
    assert again.shown.keys() == speeds.keys()


@pytest.mark.parametrize(
    "broken",
    [{"fit": [1] * 9}, {"fit": "x", "points": [], "lengths": []}, [], None, {"points": [[1]]}],
)
def test_a_memory_that_another_hand_changed_is_no_measurement(broken: object):
    assert ClassSpeeds.load({"h100": broken}).shown == {}

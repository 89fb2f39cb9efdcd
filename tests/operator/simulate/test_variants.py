from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from modelfleet_operator.errors import ScenarioError
from modelfleet_operator.simulate.capacity import find_capacity
from modelfleet_operator.simulate.clairvoyant import in_flight, search
from modelfleet_operator.simulate.scenario import Scenario, Spread
from modelfleet_operator.simulate.summary import Slo, area_bound
from modelfleet_operator.simulate.trace import Trace
from modelfleet_operator.simulate.variants import make_variants, read_calibration, read_files
from modelfleet_process.calibration import Calibration

EXAMPLES = Path(__file__).parents[3] / "examples"
# Decodes min(25 b, 400) tokens a second at batch b.
ENGINE = Calibration(
    step_seconds=0,
    shortest_step_seconds=0.04,
    decode_sequence_seconds=0.0025,
    prefill_token_seconds=1 / 16000,
    kv_tokens=1_000_000,
    context_length=100_000,
)


def trace(*arrivals: float, prompt: int = 20, answer: int = 100) -> Trace:
    count = len(arrivals)
    return Trace(
        array("d", arrivals), array("q", [prompt] * count), array("q", [answer] * count), (), "test"
    )


def test_the_shipped_calibration_is_the_example_and_is_named():
    calibration, told = read_calibration(None)
    assert Calibration.read(EXAMPLES / "paced.json") == calibration
    assert calibration.model in told
    assert "--calibration" in told


def test_a_calibration_without_a_model_fits_every_model_and_another_ones_does_not():
    read = read_files([EXAMPLES / "smollm2.yaml"])

    def variants(calibration: Calibration):
        return make_variants(
            read, trace(0.0), model="", calibration=calibration, is_own_calibration=True,
            scenario=Scenario(), price=None, seed=0,
        )  # fmt: skip

    assert len(variants(Calibration())) == 1
    with pytest.raises(ScenarioError, match="was measured with hf://a/b"):
        variants(Calibration(model="hf://a/b"))


def test_capacity_is_what_keeps_the_slo():
    many = trace(*range(500))

    def capacity(tpot: float) -> int:
        return find_capacity(many, ENGINE, Slo(2, tpot), max_sequences=64, max_batch_tokens=512)

    # 0.0025 s a sequence: 32 at 0.08 s, less what prefills take beside them.
    assert 26 <= capacity(0.08) <= 32
    assert 14 <= capacity(0.045) <= 18
    assert capacity(0.001) == 64  # none keeps it, alone or not


def test_the_area_bound_is_the_work_at_the_best_batch():
    seconds = (20 / 16000 + 99 * 0.0025) * 10
    assert area_bound(trace(*range(10)), ENGINE, 64) == pytest.approx(seconds / 3600)


def test_demand_is_what_runs_when_none_waits():
    # Each takes 16 * 20 / 16000 + 100 * 0.04 = 4.02 s.
    assert in_flight(trace(0, 1, 2, 9.5), ENGINE, 16) == [1, 2, 3, 3, 3, 2, 1, 0, 0, 1, 1]


def test_the_search_takes_as_many_as_keep_99_percent():
    assert search(4, 20, lambda each: 1.0 if each <= 12 else 0.9) == pytest.approx(12, abs=0.3)
    assert search(4, 20, lambda each: 0.95 - each / 1000) == pytest.approx(6, abs=0.3)


def test_a_spread_has_its_median_and_95th_percentile():
    import random

    chance = random.Random(1)
    drawn = sorted(Spread(median=40, p95=90).draw(chance) for _ in range(4000))
    assert drawn[2000] == pytest.approx(40, rel=0.05)
    assert drawn[3800] == pytest.approx(90, rel=0.07)
    assert Spread(median=7).draw(chance) == 7

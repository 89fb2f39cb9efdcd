"""What loading took is known to the next fleet on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.local.learned import MODELS, LearnedTimes

LEARNED = Memory(cold_start_seconds=10.0, phase_seconds={"Starting": 4.0, "Weights": 6.0})


def test_the_next_fleet_recalls_it_by_the_models_source(tmp_path: Path):
    file = tmp_path / "learned.json"
    LearnedTimes(file).keep("hf://a/b", LEARNED)
    again = LearnedTimes(file)
    assert again.recall("hf://a/b") == LEARNED
    assert again.recall("hf://a/c") == Memory()


def test_nothing_is_written_before_something_was_learned(tmp_path: Path):
    LearnedTimes(tmp_path / "learned.json").keep("hf://a/b", Memory())
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_grow_without_end(tmp_path: Path):
    times = LearnedTimes(tmp_path / "learned.json")
    for number in range(MODELS + 1):
        times.keep(f"hf://a/{number}", LEARNED)
    again = LearnedTimes(tmp_path / "learned.json")
    assert again.recall("hf://a/0") == Memory()
    assert again.recall(f"hf://a/{MODELS}") == LEARNED


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"hf://a/b": 3}', '{"hf://a/b": {"phase_seconds": {"Weights": "x"}}}', "\x00"],
)
def test_a_file_that_is_none_of_ours_is_as_good_as_none(tmp_path: Path, text: str):
    file = tmp_path / "learned.json"
    file.write_text(text)
    times = LearnedTimes(file)
    assert times.recall("hf://a/b") == Memory()
    times.keep("hf://a/b", LEARNED)
    assert LearnedTimes(file).recall("hf://a/b") == LEARNED

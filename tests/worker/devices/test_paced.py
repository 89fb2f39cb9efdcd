"""The device that only takes time."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfleet_process.calibration import Calibration
from modelfleet_worker.devices.paced import (
    END_OF_SEQUENCE,
    PacedRunner,
    load_paced,
    read_calibration,
)
from modelfleet_worker.engine.request import Request, SamplingParams, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.errors import ModelError


def generate(
    prompt: tuple[int, ...] = (1, 2, 3),
    *,
    resumed: tuple[int, ...] = (),
    sampling: SamplingParams | None = None,
    eos: bool = True,
    runner: PacedRunner | None = None,
) -> tuple[int, ...]:
    runner = runner or PacedRunner(Calibration(), sleep=lambda _: None)
    sequence = Sequence(
        Request(
            request_id="a",
            prompt_ids=prompt,
            resumed_ids=resumed,
            max_tokens=200,
            sampling=sampling or SamplingParams(),
            stop_token_ids=frozenset({END_OF_SEQUENCE} if eos else ()),
        )
    )
    while True:
        (token,) = runner.execute([Chunk.of(sequence, 1000)])
        sequence.num_computed = len(sequence.token_ids)
        if sequence.append(token.id):
            return tuple(sequence.token_ids[len(prompt) :])


def test_an_answer_ends_by_itself_and_depends_on_the_prompt_only():
    answer = generate()
    assert 16 <= len(answer) < 128
    assert answer[-1] == END_OF_SEQUENCE
    assert END_OF_SEQUENCE not in answer[:-1]
    assert generate() == answer
    assert generate((1, 2, 4)) != answer


def test_an_ignored_end_of_sequence_never_comes():
    answer = generate(eos=False)
    assert len(answer) == 200
    assert min(answer) >= 1
    assert max(answer) < Calibration().vocab_size


def test_a_resumed_answer_goes_on_identically():
    answer = generate()
    assert all(generate(resumed=answer[:k]) == answer for k in range(len(answer)))


def test_seed_and_choice_count_unless_greedy():
    def draw(temperature: float, seed: int, choice: int = 0) -> tuple[int, ...]:
        return generate(sampling=SamplingParams(temperature=temperature, seed=seed, choice=choice))

    assert draw(0, 1) == draw(0, 2)
    assert len({draw(1, 1), draw(1, 2), draw(1, 1, choice=1)}) == 3


def test_a_step_takes_what_the_calibration_says():
    slept: list[float] = []
    calibration = Calibration(
        step_seconds=1, prefill_token_seconds=0.1, decode_sequence_seconds=0.01
    )
    runner = PacedRunner(calibration, sleep=slept.append)
    prompt = Sequence(Request(request_id="a", prompt_ids=(1,) * 5, max_tokens=9))
    decode = Sequence(Request(request_id="b", prompt_ids=(1,), max_tokens=9))
    runner.execute([Chunk.of(decode, 9), Chunk.of(prompt, 9)])
    assert slept == [pytest.approx(1 + 5 * 0.1 + 0.01)]


def test_loading_takes_its_time_and_reports_it():
    seen: list[tuple[str, float]] = []
    loaded = load_paced(
        Calibration(load_seconds=0.2, kv_tokens=1000),
        context_length=100,
        max_sequences=3,
        progress=lambda phase, share: seen.append((phase, share)),
    )
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (("Weights", 0), ("Weights", 1))
    assert (loaded.limits.context_length, loaded.limits.max_sequences) == (100, 3)
    assert loaded.limits.kv_tokens == 992


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step_seconds": -1}', "step_seconds: Input should be greater than or equal to 0"),
        ('{"steps": 1}', r"steps: Extra inputs are not permitted \(its fields: model, "),
        ("{", "the file: Invalid JSON"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_wrong_calibration_is_named(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "calibration.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=message):
        read_calibration(path)


def test_a_calibration_says_what_differs(tmp_path: Path):
    path = tmp_path / "calibration.json"
    path.write_text('{"max_sequences": 2}')
    assert read_calibration(path) == Calibration(max_sequences=2)


def test_a_step_of_decodes_is_never_shorter_than_said():
    calibration = Calibration(
        step_seconds=0, decode_sequence_seconds=0.01, shortest_step_seconds=0.05,
        prefill_token_seconds=0.001,
    )  # fmt: skip
    assert [calibration.step_time(n, 0) for n in (1, 5, 8)] == pytest.approx([0.05, 0.05, 0.08])
    assert calibration.step_time(1, 10) == pytest.approx(0.06)
    assert calibration.step_time(0, 10) == pytest.approx(0.01)

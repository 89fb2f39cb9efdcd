"""The families of the table on the compiled step: tiny random models against transformers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine_run import run_engine
from generic_models import teacher_forced
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.engine.request import Request, SamplingParams, Sequence
from modelfleet_worker.engine.scheduler import BLOCK_SIZE, Chunk
from modelfleet_worker.quantization.scheme import KVFormat
from native_families import BY_LENGTH, MODELS, VOCAB, load, native, saved
from native_sets import FMA
from quantized_models import BOUNDS, error, native_logits, step_logits

on_each_arithmetic = pytest.mark.usefixtures("arithmetic")

# Longer than windows and than the original context of ropes.
IDS = [int(i) for i in torch.randint(VOCAB, (90,), generator=torch.Generator().manual_seed(1))]
ALL = [*MODELS, *BY_LENGTH]


def sequence(ids: list[int], first_block: int) -> Sequence:
    made = Sequence(Request(request_id="a", prompt_ids=tuple(ids), max_tokens=1))
    made.block_table = list(range(first_block, first_block + len(ids) // BLOCK_SIZE + 1))
    return made


@on_each_arithmetic
@pytest.mark.parametrize("family", ALL)
def test_is_close_to_transformers_in_float32(family: str, tmp_path: Path):
    theirs = saved(family, tmp_path)
    with torch.inference_mode():
        truth = theirs(torch.tensor([IDS])).logits[0]
    assert error(native_logits(native(load(tmp_path)), IDS), truth) < BOUNDS["none"]


@on_each_arithmetic
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("family", ["gemma 2", "phi 3", "granite", "olmo 3", "gelu"])
def test_quantized_weights_are_close_to_transformers_modules_with_them(
    family: str, weights: str, tmp_path: Path
):
    saved(family, tmp_path)
    truth = teacher_forced(load(tmp_path, weights, "Float32"), IDS)
    assert error(native_logits(native(load(tmp_path, weights)), IDS), truth) < BOUNDS[weights]


@on_each_arithmetic
@pytest.mark.parametrize("family", ALL)
def test_a_token_is_the_same_in_every_batch_and_chunk(family: str, tmp_path: Path):
    """Bit for bit."""
    saved(family, tmp_path)
    runner = native(load(tmp_path, deterministic=True))
    alone = step_logits(runner, [Chunk.of(sequence(IDS, 0), len(IDS))], everywhere=True)
    runner.cache[:] = 0x7F80  # infinity: what another request left does not matter
    for sizes in ([1] * 90, [16, 16, 58], [3, 40, 1, 1, 45]):
        chunked, neighbour = sequence(IDS, 20), sequence(IDS[:70], 40)
        rows = []
        for size in sizes:
            chunks = [Chunk.of(neighbour, 5), Chunk.of(chunked, size)]
            chunks = [chunk for chunk in chunks if chunk.num_scheduled_tokens]
            rows.append(step_logits(runner, chunks, everywhere=True)[-size:])
            for chunk in chunks:
                chunk.sequence.num_computed = chunk.end
        assert torch.cat(rows).equal(alone)


@pytest.mark.skipif(len(FMA) < 2, reason="needs a processor with two sets of one arithmetic")
@pytest.mark.parametrize("kv_cache", [KVFormat.AUTO, KVFormat.INT8], ids=str)
@pytest.mark.parametrize("family", ["gemma 2", "olmo 3", "granite", "gelu", "phi 3, longrope"])
def test_sets_of_one_arithmetic_give_equal_bits(
    family: str, kv_cache: KVFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved(family, tmp_path)
    found = dict[str, Tensor]()
    for name in FMA:
        monkeypatch.setenv("MODELFLEET_ISA", name)
        found[name] = native_logits(native(load(tmp_path, "int8", kv_cache=kv_cache)), IDS)
    first, *others = found.values()
    assert all(other.equal(first) for other in others)


@on_each_arithmetic
@pytest.mark.parametrize("family", ["gemma 2", "olmo 3"])
def test_threads_do_not_change_a_bit(family: str, tmp_path: Path):
    saved(family, tmp_path)
    model = native(load(tmp_path)).model
    found = [
        native_logits(NativeRunner(model, num_blocks=32, context_length=256, threads=n), IDS)
        for n in (1, 2, 3)
    ]
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])


# Within the original context of ropes; across its end while answering; beyond it and the windows,
# two with a prefix of two blocks in common; and one of the same length as another.
PROMPTS = [
    tuple((7 * i + 3) % VOCAB for i in range(5)),
    tuple((3 * i + 1) % VOCAB for i in range(27)),
    tuple((11 * i + 5) % VOCAB for i in range(40)),
    tuple((11 * i + 5) % VOCAB for i in range(52)),
    tuple((5 * i * i + 1) % VOCAB for i in range(52)),
]
NEW = 12


def requests() -> list[Request]:
    return [
        Request(request_id=str(i), prompt_ids=prompt, max_tokens=NEW)
        for i, prompt in enumerate(PROMPTS)
    ]


def answers(run: Any) -> list[list[int]]:
    return [run.answers[str(i)].ids for i in range(len(PROMPTS))]


@on_each_arithmetic
@pytest.mark.parametrize("family", ["gemma 2", "gemma 3", "smollm3", "olmo 3", *BY_LENGTH])
def test_answers_are_the_same_in_batches_from_the_prefix_cache_and_resumed(
    family: str, tmp_path: Path
):
    saved(family, tmp_path)
    runner = native(load(tmp_path))
    run = run_engine(runner, requests(), sequences=1, caching=False, vocab_size=VOCAB)
    expected = answers(run)
    for budget in (7, 1000):
        run = run_engine(runner, requests(), budget=budget, vocab_size=VOCAB)
        assert answers(run) == expected
    run = run_engine(runner, requests(), sequences=1, vocab_size=VOCAB)
    assert answers(run) == expected
    # With dynamic rope the two prompts that begin alike share nothing: they are not equally long.
    assert (run.answers["3"].cached_tokens == 32) == (family != "llama, dynamic")
    small = NativeRunner(runner.model, num_blocks=7, context_length=256, threads=2)
    run = run_engine(small, requests(), caching=False, vocab_size=VOCAB)
    assert run.stats.preemptions > 0
    assert answers(run) == expected
    for done in (1, 6):
        resumed = [
            dataclasses.replace(request, resumed_ids=tuple(answer[:done]))
            for request, answer in zip(requests(), expected, strict=True)
        ]
        run = run_engine(runner, resumed, budget=64, vocab_size=VOCAB)
        assert answers(run) == [answer[done:] for answer in expected]


@on_each_arithmetic
@pytest.mark.parametrize("family", BY_LENGTH)
def test_a_rope_by_length_is_that_of_float32_while_answering(family: str, tmp_path: Path):
    """Across the end of the original context, too. In float32 it is transformers' to the token:
    test_long_contexts.py."""
    saved(family, tmp_path)
    asked = [
        dataclasses.replace(request, sampling=SamplingParams(logprobs=1)) for request in requests()
    ]
    run = run_engine(native(load(tmp_path)), asked, vocab_size=VOCAB)
    # Each token after those that the step has drawn.
    forced = [
        dataclasses.replace(
            request,
            request_id=f"{request.request_id} {done}",
            resumed_ids=tuple(run.answers[request.request_id].ids[:done]),
            max_tokens=done + 1,
            sampling=SamplingParams(logprobs=20),
        )
        for request in requests()
        for done in range(NEW)
    ]
    truth = run_engine(load(tmp_path, dtype="Float32").runner, forced, vocab_size=VOCAB)
    for request in requests():
        answer = run.answers[request.request_id]
        for done, (id_, found) in enumerate(zip(answer.ids, answer.logprobs, strict=True)):
            [expected] = truth.answers[f"{request.request_id} {done}"].logprobs
            assert found.chosen == pytest.approx(dict(expected.top)[id_], abs=0.15)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@on_each_arithmetic
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gemma 2", {"hidden_activation": "gelu_fast"}),
        ("granite", {"residual_multiplier": -0.5}),
        ("olmo 2", {"hidden_act": "tanh"}),
        ("gemma 3", {"layer_types": ["full_attention"] * 3}),
    ],
    ids=str,
)
def test_a_setting_that_the_table_does_not_know_goes_to_transformers_modules(
    family: str, changes: dict[str, Any], tmp_path: Path
):
    saved(family, tmp_path)
    change_config(tmp_path, **changes)
    assert isinstance(load(tmp_path).runner, GenericRunner)


@on_each_arithmetic
@pytest.mark.parametrize("dtype", ["Float32", "Float16"])
def test_another_type_goes_to_transformers_modules(dtype: str, tmp_path: Path):
    saved("gemma 2", tmp_path)
    assert isinstance(load(tmp_path, dtype=dtype).runner, GenericRunner)


def test_without_a_step_the_same_models_run_on_transformers_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MODELFLEET_ISA", "off")
    saved("granite", tmp_path)
    assert isinstance(load(tmp_path).runner, GenericRunner)

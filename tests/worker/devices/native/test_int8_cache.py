"""The compiled step with keys and values kept in int8: a scale for each token and head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.quantization.scheme import KVFormat
from quantized_models import int8_cache_logits, load, model_of, native_logits, step_logits, tiny

pytestmark = pytest.mark.usefixtures("instruction_set")

PROMPT = tuple(int(i) for i in torch.randint(96, (40,), generator=torch.Generator().manual_seed(3)))


@pytest.fixture
def native(tmp_path: Path) -> NativeRunner:
    tiny(head_dim=64, initializer_range=0.1).save_pretrained(tmp_path)
    runner = load(tmp_path, dtype="BFloat16", kv_cache=KVFormat.INT8).runner
    assert isinstance(runner, NativeRunner)
    return runner


def test_is_close_to_the_twin(native: NativeRunner, tmp_path: Path):
    model = model_of(load(tmp_path, dtype="Float32"))
    truth = int8_cache_logits(model, list(PROMPT))
    error = (native_logits(native, list(PROMPT))[-1] - truth).norm() / truth.norm()
    assert error < 0.015


def test_rounds_indeed(native: NativeRunner, tmp_path: Path):
    plain = load(tmp_path, dtype="BFloat16").runner
    assert isinstance(plain, NativeRunner)
    assert not native_logits(plain, list(PROMPT)).equal(native_logits(native, list(PROMPT)))


@pytest.mark.parametrize("sizes", [[1] * 40, [16, 24], [3, 20, 1, 16]], ids=str)
def test_gives_equal_bits_whatever_the_chunks(native: NativeRunner, sizes: list[int]):
    alone = native_logits(native, list(PROMPT))
    sequence = Sequence(Request(request_id="a", prompt_ids=PROMPT, max_tokens=1))
    sequence.block_table = [9, 4, 7]
    rows = []
    for size in sizes:
        chunk = Chunk.of(sequence, size)
        rows.append(step_logits(native, [chunk], everywhere=True))
        sequence.num_computed = chunk.end
    assert torch.cat(rows).equal(alone)


def test_what_another_request_left_in_the_cache_does_not_matter(native: NativeRunner):
    clean = native_logits(native, list(PROMPT))
    native.cache[:] = 127
    native._scales[:] = float("inf")
    assert native_logits(native, list(PROMPT)).equal(clean)

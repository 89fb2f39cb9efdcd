"""Keys and values kept in int8: a scale for each token and head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.models.llama import Llama, rope_tables
from modelfleet_worker.quantization.scheme import KVFormat
from quantized_models import Causal, load, model_of, native_logits, tiny

PROMPT = tuple(int(i) for i in torch.randint(96, (40,), generator=torch.Generator().manual_seed(3)))
NEW = 12


class RoundedCausal(Causal):
    """Attention to keys and values that went through int8."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return super().attend(layer, query, rounded(key), rounded(value))


def rounded(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True) / 127
    return (x / scale).round() * scale


def twin_logits(model: Llama, ids: list[int]) -> Tensor:
    """Of the last token."""
    cos, sin = rope_tables(model.config, len(ids), torch.float32)
    with torch.inference_mode():
        rows = torch.tensor([len(ids) - 1])
        return model(torch.tensor(ids), cos, sin, RoundedCausal(), rows)[0]


@pytest.fixture
def runner(tmp_path: Path) -> TorchRunner:
    tiny().save_pretrained(tmp_path)
    runner = load(tmp_path, kv_cache=KVFormat.INT8).runner
    assert isinstance(runner, TorchRunner)
    return runner


@pytest.fixture
def expected(runner: TorchRunner) -> list[int]:
    ids = list(PROMPT)
    for _ in range(NEW):
        ids.append(int(twin_logits(runner.model, ids).argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_equals_the_twin_whatever_the_chunks(
    runner: TorchRunner, expected: list[int], engine_run, budget: int
):
    strangers = [
        Request(request_id=f"stranger {n}", prompt_ids=PROMPT[n:], max_tokens=NEW) for n in (3, 20)
    ]
    asked = [Request(request_id="a", prompt_ids=PROMPT, max_tokens=NEW), *strangers]
    run = engine_run(runner, asked, budget=budget, vocab_size=96)
    assert run.answers["a"].ids == expected


def test_a_resumed_answer_goes_on_as_it_began(runner: TorchRunner, expected: list[int], engine_run):
    resumed = Request(
        request_id="a", prompt_ids=PROMPT, resumed_ids=tuple(expected[:5]), max_tokens=NEW
    )
    assert engine_run(runner, [resumed], vocab_size=96).answers["a"].ids == expected[5:]


def test_the_same_memory_holds_nearly_twice_the_tokens(tmp_path: Path):
    tiny(head_dim=64, max_position_embeddings=2**20).save_pretrained(tmp_path)
    tokens = {
        kind: load(tmp_path, dtype="BFloat16", kv_cache=kind).limits.kv_tokens for kind in KVFormat
    }
    assert 1.85 < tokens[KVFormat.INT8] / tokens[KVFormat.AUTO] < 1.9


def test_a_digest_is_of_the_cache_too(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    assert len({load(tmp_path, kv_cache=kind).digest for kind in KVFormat}) == 2


needs_native = pytest.mark.skipif(
    not library.has_bfloat16(), reason="needs a compiler and a processor with AVX-512 BF16"
)


@pytest.fixture
def native(tmp_path: Path) -> NativeRunner:
    tiny(head_dim=64, initializer_range=0.1).save_pretrained(tmp_path)
    runner = load(tmp_path, dtype="BFloat16", kv_cache=KVFormat.INT8).runner
    assert isinstance(runner, NativeRunner)
    return runner


@needs_native
def test_the_compiled_step_is_close_to_the_twin(native: NativeRunner, tmp_path: Path):
    model = model_of(load(tmp_path, dtype="Float32"))
    truth = twin_logits(model, list(PROMPT))
    error = (native_logits(native, list(PROMPT))[-1] - truth).norm() / truth.norm()
    assert error < 0.015


@needs_native
def test_the_compiled_step_rounds_indeed(native: NativeRunner, tmp_path: Path):
    plain = load(tmp_path, dtype="BFloat16").runner
    assert isinstance(plain, NativeRunner)
    assert not native_logits(plain, list(PROMPT)).equal(native_logits(native, list(PROMPT)))


@needs_native
@pytest.mark.parametrize("sizes", [[1] * 40, [16, 24], [3, 20, 1, 16]], ids=str)
def test_the_compiled_step_gives_equal_bits_whatever_the_chunks(
    native: NativeRunner, sizes: list[int]
):
    alone = native_logits(native, list(PROMPT))
    sequence = Sequence(Request(request_id="a", prompt_ids=PROMPT, max_tokens=1))
    sequence.block_table = [9, 4, 7]
    rows = []
    for size in sizes:
        chunk = Chunk.of(sequence, size)
        rows.append(native.logits([chunk], everywhere=True))
        sequence.num_computed = chunk.end
    assert torch.cat(rows).equal(alone)


@needs_native
def test_what_another_request_left_in_the_cache_does_not_matter(native: NativeRunner):
    clean = native_logits(native, list(PROMPT))
    native.cache[:] = 127
    native._scales[:] = float("inf")
    assert native_logits(native, list(PROMPT)).equal(clean)

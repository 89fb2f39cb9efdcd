"""Keys and values kept in int8: a scale for each token and head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine_run import run_engine
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.request import Request
from modelfleet_worker.quantization.scheme import KVFormat
from quantized_models import int8_cache_logits, load, tiny

PROMPT = tuple(int(i) for i in torch.randint(96, (40,), generator=torch.Generator().manual_seed(3)))
NEW = 12


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
        ids.append(int(int8_cache_logits(runner.model, ids).argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_equals_the_twin_whatever_the_chunks(runner: TorchRunner, expected: list[int], budget: int):
    others = [
        Request(request_id=f"other {n}", prompt_ids=PROMPT[n:], max_tokens=NEW) for n in (3, 20)
    ]
    asked = [Request(request_id="a", prompt_ids=PROMPT, max_tokens=NEW), *others]
    run = run_engine(runner, asked, budget=budget, vocab_size=96)
    assert run.answers["a"].ids == expected


def test_a_resumed_answer_goes_on_as_it_began(runner: TorchRunner, expected: list[int]):
    resumed = Request(
        request_id="a", prompt_ids=PROMPT, resumed_ids=tuple(expected[:5]), max_tokens=NEW
    )
    assert run_engine(runner, [resumed], vocab_size=96).answers["a"].ids == expected[5:]


def test_the_same_memory_holds_nearly_twice_the_tokens(tmp_path: Path):
    tiny(head_dim=64, max_position_embeddings=2**20).save_pretrained(tmp_path)
    tokens = {
        kind: load(tmp_path, dtype="BFloat16", kv_cache=kind).limits.kv_tokens for kind in KVFormat
    }
    assert 1.85 < tokens[KVFormat.INT8] / tokens[KVFormat.AUTO] < 1.9


def test_a_digest_is_of_the_cache_too(tmp_path: Path):
    tiny().save_pretrained(tmp_path)
    assert len({load(tmp_path, kv_cache=kind).digest for kind in KVFormat}) == 2

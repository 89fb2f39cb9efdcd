"""Experts in the compiled step: against transformers in float32, and itself in other batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine_run import run_engine
from expert_models import (
    FAMILIES,
    IDS,
    VOCAB,
    load,
    made,
    native,
    native_choices,
    saved,
    sequence,
    truth,
)
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.engine.request import Request
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.errors import ModelError
from native_sets import FMA
from quantized_models import BOUNDS, asked, error, native_logits, step_logits
from rounded_models import rounded

on_each_set = pytest.mark.usefixtures("instruction_set")
on_each_arithmetic = pytest.mark.usefixtures("arithmetic")

ROUNDED = ("int8", "int4")
SAME_CHOICES = 0.97


def same_share(found: Tensor, expected: Tensor) -> float:
    """Of what was chosen in each layer for each token, [layers, T, chosen]."""
    assert found.shape == expected.shape
    return float((found[..., None] == expected[..., None, :]).any(-1).float().mean())


@on_each_arithmetic
@pytest.mark.parametrize(
    ("family", "weights"),
    [
        *((family, "none") for family in FAMILIES),
        *((family, w) for family in ("mixtral", "qwen2-moe", "granite-moe") for w in ROUNDED),
    ],
)
def test_is_close_to_transformers_in_float32(family: str, weights: str, tmp_path: Path):
    """With the same weights rounded, and the same experts; these are nearly always its own, too."""
    theirs = rounded(saved(family, tmp_path), asked(weights))
    runner = native(load(tmp_path, weights))
    chosen = native_choices(runner, IDS)
    expected, own = truth(theirs, IDS, chosen)
    assert error(native_logits(runner, IDS), expected) < BOUNDS[weights]
    assert same_share(chosen, own) > SAME_CHOICES


@on_each_set
@pytest.mark.parametrize(
    ("weights", "family"),
    [
        *((weights, "qwen2-moe") for weights in BOUNDS),
        ("none", "mixtral with a window"),
        ("int8", "qwen3-moe, dense layers"),
    ],
)
def test_a_token_is_the_same_in_every_batch_and_chunk(weights: str, family: str, tmp_path: Path):
    """Bit for bit."""
    saved(family, tmp_path)
    runner = native(load(tmp_path, weights))
    alone = step_logits(runner, [Chunk.of(sequence(IDS, 0), len(IDS))], everywhere=True)
    for sizes in ([1] * 90, [16, 16, 58], [3, 40, 1, 1, 45]):
        chunked, neighbour = sequence(IDS, 20), sequence(IDS[::-1], 40)
        rows = []
        for size in sizes:
            chunks = [Chunk.of(neighbour, 5), Chunk.of(chunked, size)]
            chunks = [chunk for chunk in chunks if chunk.num_scheduled_tokens]
            logits = step_logits(runner, chunks, everywhere=True)
            rows.append(logits[-size:])
            for chunk in chunks:
                chunk.sequence.num_computed = chunk.end
        assert torch.cat(rows).equal(alone)


@on_each_set
def test_a_chunk_of_many_rows_gives_the_bits_of_few(tmp_path: Path):
    """So many that an expert's rows are computed in several parts."""
    saved("mixtral", tmp_path)
    runner = native(load(tmp_path))
    ids = (IDS * 3)[:250]
    chunks = [Chunk.of(sequence(ids, 16 * i), len(ids)) for i in range(3)]
    together = step_logits(runner, chunks, everywhere=True)
    alone = step_logits(runner, chunks[:1], everywhere=True)
    assert all(part.equal(alone) for part in together.split(len(ids)))


@on_each_arithmetic
@pytest.mark.parametrize("threads", [1, 3, 7])
def test_threads_do_not_change_a_bit(threads: int, tmp_path: Path):
    saved("qwen2-moe", tmp_path)
    loaded = load(tmp_path, "int8")
    other = NativeRunner(native(loaded).model, num_blocks=32, context_length=256, threads=threads)
    assert native_logits(other, IDS).equal(native_logits(native(loaded), IDS))
    assert native_logits(other, IDS[:1]).equal(native_logits(native(loaded), IDS[:1]))


@pytest.mark.skipif(len(FMA) < 2, reason="needs a processor with two sets of one arithmetic")
@pytest.mark.parametrize("weights", BOUNDS)
def test_sets_of_one_arithmetic_give_equal_bits(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved("qwen2-moe", tmp_path)
    found, digests = list[Tensor](), set[str]()
    for name in FMA:
        monkeypatch.setenv("MODELFLEET_ISA", name)
        loaded = load(tmp_path, weights)
        assert f"({name}, " in loaded.computed_by
        found.append(native_logits(native(loaded), IDS))
        digests.add(loaded.digest)
    assert all(other.equal(found[0]) for other in found[1:])
    assert len(digests) == 1


@on_each_arithmetic
@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "granite-moe", "olmoe"])
def test_several_requests_are_answered_as_transformers_answers_each(family: str, tmp_path: Path):
    """Prompts in chunks beside tokens of others; of near ties any may be taken."""
    theirs = saved(family, tmp_path)
    requests = [
        Request(request_id=str(i), prompt_ids=tuple(IDS[i : i + 10 + 9 * i]), max_tokens=12)
        for i in range(5)
    ]
    runner = native(load(tmp_path))
    run = run_engine(runner, requests, budget=17, vocab_size=VOCAB)
    for request in requests:
        answer = run.answers[request.request_id].ids
        ids = [*request.prompt_ids, *answer]
        logits, _ = truth(theirs, ids, native_choices(runner, ids))
        rows = logits[len(request.prompt_ids) - 1 : -1]
        behind = rows.amax(-1) - rows[torch.arange(len(answer)), torch.tensor(answer)]
        assert len(answer) == 12
        assert float(behind.max()) < 0.1 * float(rows.std())


@on_each_arithmetic
@pytest.mark.parametrize("family", ["mixtral", "qwen3-moe", "granite-moe"])
def test_stacked_experts_are_the_same_model(family: str, tmp_path: Path):
    """As transformers names its own modules' tensors, all experts of a layer in one."""
    theirs, old, new = made(family), tmp_path / "old", tmp_path / "new"
    theirs.save_pretrained(old)
    theirs.save_pretrained(new, save_original_format=False)
    names = [set(load_file(folder / "model.safetensors")) for folder in (old, new)]
    assert names[0] != names[1]
    first, second = (native_logits(native(load(folder)), IDS) for folder in (old, new))
    assert first.equal(second)


@on_each_arithmetic
def test_a_checkpoint_that_lacks_an_expert_is_refused(tmp_path: Path):
    saved("mixtral", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.block_sparse_moe.experts.3.w2.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 tensors.*layers.1.mlp.experts.3.down_proj"):
        load(tmp_path)


@on_each_arithmetic
def test_routers_keep_16_bits_and_overrides_reach_experts(tmp_path: Path):
    saved("qwen2-moe", tmp_path)
    overrides = ("*.0.*experts=none", "*.1.*experts.2.down_proj=int4")
    model = native(load(tmp_path, "int8", overrides=overrides)).model
    bits = [
        [(up.struct.bits, down.struct.bits) for up, down in layer.experts.networks]
        for layer in model.layers
        if layer.experts is not None
    ]
    assert bits[0] == [*[(16, 16)] * 8, (8, 8)]
    assert bits[1] == [(8, 8), (8, 8), (8, 4), *[(8, 8)] * 6]
    assert bits[2] == [(8, 8)] * 9
    assert {layer.experts.router.struct.bits for layer in model.layers if layer.experts} == {16}
    with pytest.raises(ModelError, match=r"override \*.mlp.gate=int8 matches no module"):
        load(tmp_path, overrides=("*.mlp.gate=int8",))


@on_each_arithmetic
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("mixtral", {"hidden_act": "gelu"}),
        ("mixtral", {"intermediate_size": 80}),
        ("qwen2-moe", {"use_sliding_window": True}),
        ("qwen2-moe", {"shared_expert_intermediate_size": 48}),
        ("olmoe", {"clip_qkv": 8.0}),
    ],
    ids=str,
)
def test_what_the_step_does_not_compute_runs_on_transformers_modules(
    family: str, change: dict[str, object], tmp_path: Path
):
    made(family, **change).save_pretrained(tmp_path)
    assert isinstance(load(tmp_path).runner, GenericRunner)


@on_each_arithmetic
def test_float32_runs_on_transformers_modules(tmp_path: Path):
    saved("mixtral", tmp_path)
    assert isinstance(load(tmp_path, dtype="Float32").runner, GenericRunner)

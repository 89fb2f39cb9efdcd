"""The compiled step against transformers in float32, and against itself in other batches."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine_run import run_engine
from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.linear import NativeLinear
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request, Sequence
from modelfleet_worker.engine.scheduler import Chunk
from modelfleet_worker.loading import compiled
from modelfleet_worker.loading.loader import load_model
from quantized_models import BOUNDS, asked, error, logits, native_logits, step_logits

on_each_set = pytest.mark.usefixtures("instruction_set")
on_each_arithmetic = pytest.mark.usefixtures("arithmetic")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "all biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    ),
    "tied, twelve heads share one": lambda: LlamaForCausalLM(
        LlamaConfig(
            **{**SIZES, "num_attention_heads": 12, "num_key_value_heads": 1},
            tie_word_embeddings=True,
        )
    ),
    "far": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "max_position_embeddings": 2048})),
    "heads of 64": lambda: LlamaForCausalLM(LlamaConfig(**{**SIZES, "head_dim": 64})),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
    "mistral with a window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=21)),
    "the last layers of qwen2 slide": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    ),
    "yarn": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=YARN)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, attention_bias=True)),
}
IDS = [int(i) for i in torch.randint(97, (90,), generator=torch.Generator().manual_seed(1))]


def saved(name: str, folder: Path) -> PreTrainedModel:
    torch.manual_seed(len(name))
    model = FAMILIES[name]().eval()
    for parameter in model.parameters():  # biases and norms are constants otherwise
        parameter.data += 0.05 * torch.randn_like(parameter)
        parameter.data = parameter.data.to(torch.bfloat16).float()
    model.save_pretrained(folder)
    return model


def load(
    folder: Path, weights: str = "none", dtype: str = "BFloat16", *, deterministic: bool = False
) -> LoadedModel:
    return load_model(
        folder,
        dtype=dtype,
        quantization=asked(weights),
        kv_cache_bytes=32 << 20,
        max_sequences=32,
        max_batch_tokens=256,
        deterministic=deterministic,
        progress=lambda *_: None,
    )


def native(loaded: LoadedModel) -> NativeRunner:
    assert isinstance(loaded.runner, NativeRunner)
    return loaded.runner


@on_each_arithmetic
@pytest.mark.parametrize("family", FAMILIES)
def test_is_close_to_transformers_in_float32(family: str, tmp_path: Path):
    theirs = saved(family, tmp_path)
    with torch.inference_mode():
        truth = theirs(torch.tensor([IDS])).logits[0]
    assert error(native_logits(native(load(tmp_path)), IDS), truth) < BOUNDS["none"]


@on_each_arithmetic
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_quantized_weights_are_close_to_the_twin_in_float32(
    family: str, weights: str, tmp_path: Path
):
    saved(family, tmp_path)
    truth = logits(load(tmp_path, weights, "Float32"), torch.tensor(IDS))
    assert error(native_logits(native(load(tmp_path, weights)), IDS), truth) < BOUNDS[weights]


def sequence(ids: list[int], first_block: int) -> Sequence:
    made = Sequence(Request(request_id="a", prompt_ids=tuple(ids), max_tokens=1))
    made.block_table = list(range(first_block, first_block + len(ids) // 16 + 1))
    return made


@on_each_set
@pytest.mark.parametrize(
    ("weights", "family"),
    [*((weights, "qwen3") for weights in BOUNDS), ("none", "mistral with a window")],
)
def test_a_token_is_the_same_in_every_batch_and_chunk(weights: str, family: str, tmp_path: Path):
    """Bit for bit."""
    saved(family, tmp_path)
    runner = native(load(tmp_path, weights, deterministic=True))
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
@pytest.mark.parametrize("far", [200, 1300])
def test_a_token_is_the_same_beside_one_that_looks_back_farther(far: int, tmp_path: Path):
    """Bit for bit. While one is computed, what the next one reads is fetched, as far as it fits."""
    saved("far", tmp_path)
    runner = native(load(tmp_path))
    long, short = sequence((IDS * 15)[:far], 0), sequence(IDS, 100)
    expected = [
        step_logits(runner, [Chunk.of(s, far)], everywhere=True)[-3:] for s in (long, short)
    ]
    for one in (long, short):
        one.num_computed -= 3 - len(one.token_ids)
    rows = []
    for _ in range(3):
        rows.append(step_logits(runner, [Chunk.of(s, 1) for s in (long, short)], everywhere=True))
        for one in (long, short):
            one.num_computed += 1
    for of_one, whole in zip(zip(*rows, strict=True), expected, strict=True):
        assert torch.stack(of_one).equal(whole)


@on_each_set
def test_the_likeliest_token_is_the_first_of_the_highest_logits(tmp_path: Path):
    saved("llama", tmp_path)
    runner = native(load(tmp_path))
    chunks = [Chunk.of(sequence(IDS[:n], 8 * i), n) for i, n in enumerate((3, 17, 40))]
    expected = step_logits(runner, chunks).argmax(-1).tolist()
    assert [token.id for token in runner.execute(chunks)] == expected


@on_each_set
@pytest.mark.parametrize("family", ["llama", "mistral with a window"])
def test_what_another_request_left_in_the_cache_does_not_matter(family: str, tmp_path: Path):
    saved(family, tmp_path)
    runner = native(load(tmp_path))
    clean = native_logits(runner, IDS)
    runner.cache[:] = 0x7F80  # infinity
    assert native_logits(runner, IDS).equal(clean)


def pages(runner: NativeRunner) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    """Address and size of the cache's whole pages."""
    start = runner.cache.ctypes.data
    first, end = -(-start // mmap.PAGESIZE), (start + runner.cache.nbytes) // mmap.PAGESIZE
    return ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t((end - first) * mmap.PAGESIZE)


def resident(runner: NativeRunner) -> float:
    """The share of the cache's pages that the system has given."""
    address, size = pages(runner)
    given = (ctypes.c_ubyte * (size.value // mmap.PAGESIZE))()
    assert ctypes.CDLL(None).mincore(address, size, given) == 0
    return sum(page & 1 for page in given) / len(given)


def give_back(runner: NativeRunner) -> None:
    """All pages: the memory may be some that this process had before."""
    assert ctypes.CDLL(None).madvise(*pages(runner), mmap.MADV_DONTNEED) == 0
    assert resident(runner) == 0


@on_each_arithmetic
def test_the_cache_is_taken_from_the_system_before_it_is_needed(tmp_path: Path):
    saved("llama", tmp_path)
    model = native(load(tmp_path)).model
    runner = NativeRunner(model, num_blocks=4096, context_length=256, threads=2)
    give_back(runner)
    clean = native_logits(runner, IDS)
    assert resident(runner) < 0.5
    while runner.prepare(0):
        pass
    assert resident(runner) == 1
    assert native_logits(runner, IDS).equal(clean)


@on_each_arithmetic
def test_of_a_large_cache_only_the_next_blocks_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved("llama", tmp_path)
    model = native(load(tmp_path)).model
    blocks = 8192
    runner = NativeRunner(model, num_blocks=blocks, context_length=256, threads=2)
    give_back(runner)
    monkeypatch.setattr(
        "modelfleet_worker.devices.native.runner._PREPARED", runner.cache.nbytes // 8
    )
    shares: list[float] = []
    for used in (0, blocks // 2, blocks):
        while runner.prepare(used):
            pass
        shares.append(resident(runner))
    assert shares[0] < 0.3
    assert 0.5 < shares[1] < 0.8
    assert shares[2] == 1


@on_each_set
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_a_bit(threads: int, tmp_path: Path):
    saved("llama", tmp_path)
    loaded = load(tmp_path)
    other = NativeRunner(native(loaded).model, num_blocks=32, context_length=256, threads=threads)
    assert native_logits(other, IDS).equal(native_logits(native(loaded), IDS))


@on_each_arithmetic
@pytest.mark.parametrize(
    "change",
    [{"hidden_size": 48}, {"intermediate_size": 80}, {"head_dim": 16}],
    ids=str,
)
def test_another_shape_runs_on_torch(change: dict[str, int], tmp_path: Path):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**SIZES, **change})).save_pretrained(tmp_path)
    assert isinstance(load(tmp_path).runner, TorchRunner)


@on_each_arithmetic
@pytest.mark.parametrize("weights", ["none", "int8"])
def test_torchs_modules_compute_the_same_with_compiled_projections(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved("llama", tmp_path)
    ours = load(tmp_path, weights)
    monkeypatch.setattr(compiled, "takes", lambda *_: False)
    theirs = load(tmp_path, weights)
    assert isinstance(theirs.runner, TorchRunner)
    assert isinstance(theirs.runner.model.lm_head.kernel, NativeLinear)
    # Only arithmetic that older workers did not have is named in it.
    assert (theirs.digest == ours.digest) == (library.arithmetic() == "bf16-dot")
    request = Request(request_id="a", prompt_ids=tuple(IDS[:20]), max_tokens=4)
    answers = [
        run_engine(loaded.runner, [request], vocab_size=97).answers["a"].ids
        for loaded in (ours, theirs)
    ]
    assert answers[0] == answers[1]

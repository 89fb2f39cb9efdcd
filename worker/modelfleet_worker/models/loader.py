"""From a Hugging Face folder to a runner: weights, digest, cache."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from ..engine.device import LoadedModel, Runner
from ..engine.host import available_memory, usable_cores
from ..engine.messages import EngineLimits
from ..engine.runner import TorchRunner, warm_up
from ..engine.scheduler import BLOCK_SIZE
from ..errors import ModelError
from ..native.runner import NativeRunner
from ..native.runner import takes as native_takes
from ..progress import Report
from ..quantization.scheme import AS_STORED, HEAD, KVFormat, Quantization
from ..quantization.stored import StoredFormat, stored_format
from .assembly import Assembly
from .checkpoint import Checkpoint
from .config import LlamaConfig, eos_token_ids, read_config, read_json
from .linear import Linear
from .llama import Llama
from .working_memory import Load, working_memory

_DTYPES = {"Float32": torch.float32, "BFloat16": torch.bfloat16, "Float16": torch.float16}
# Unless the size is given: a share of what is available, and no more than several workers that
# look at the same free memory of one machine can all take.
_CACHE_SHARE, _CACHE_MOST = 0.25, 2 << 30
# Left out by newer checkpoints, written by older ones; computed here from the config.
_DERIVED = "rotary_emb.inv_freq"


def load_model(
    folder: Path,
    *,
    dtype: str = "Auto",
    context_length: int | None = None,
    quantization: Quantization = AS_STORED,
    kv_cache_bytes: int | None = None,
    max_sequences: int,
    max_batch_tokens: int,
    progress: Report,
) -> LoadedModel:
    """Loads the model onto the CPU. Raises ModelError.

    `dtype` is Auto (the checkpoint's), Float32, BFloat16 or Float16; `context_length` (tokens)
    defaults to the model's own. What `quantization` leaves alone stays in `dtype`.
    """
    torch.set_num_threads(usable_cores())
    config = read_config(folder)
    kind = _dtype(dtype, folder)
    context = _context(config, context_length)
    model, weights = _load_weights(folder, config, kind, quantization, progress)
    progress("Cache", 0.0)
    kv_cache = quantization.kv_cache
    block_bytes = BLOCK_SIZE * _token_bytes(config, kind, kv_cache)
    load = Load(
        max_sequences=max_sequences, max_batch_tokens=max_batch_tokens, threads=usable_cores()
    )
    native = NativeRunner.of(model, num_blocks=1, context_length=1, threads=1, kv_cache=kv_cache)

    def working(blocks: int) -> int:
        longest = min(context, blocks * BLOCK_SIZE)
        return working_memory(config, kind.itemsize, load, longest, native=native is not None)

    blocks = _cache_blocks(block_bytes, kv_cache_bytes, max_sequences * context, working)
    # Positions beyond the cache are never computed: what a config claims takes no tables.
    reach = min(context, blocks * BLOCK_SIZE)
    runner: Runner = NativeRunner.of(
        model,
        num_blocks=blocks,
        context_length=reach,
        threads=usable_cores(),
        kv_cache=kv_cache,
    ) or TorchRunner(model, num_blocks=blocks, context_length=reach, kv_cache=kv_cache)
    progress("Warmup", 0.0)
    warm_up(runner, min(max_batch_tokens, context, 256))
    progress("Warmup", 1.0)
    return LoadedModel(
        runner=runner,
        limits=EngineLimits(
            context_length=context,
            kv_tokens=blocks * BLOCK_SIZE,
            max_sequences=max_sequences,
            vocab_size=config.vocab_size,
        ),
        digest=xxhash.xxh3_128_hexdigest(f"{weights} {kind} {config} {quantization}".encode()),
        eos_token_ids=eos_token_ids(folder),
    )


def _load_weights(
    folder: Path,
    config: LlamaConfig,
    dtype: torch.dtype,
    quantization: Quantization,
    progress: Report,
) -> tuple[Llama, str]:
    stored = stored_format(read_json(folder / "config.json"))
    checkpoint = Checkpoint(folder)
    needed = _needed_memory(config, dtype, quantization, checkpoint, quantized=stored is not None)
    if needed > (room := available_memory()):
        raise ModelError(
            f"the weights need {_gib(needed)}, but {_gib(room)} of memory are available"
        )
    assembly = Assembly(
        config,
        dtype=dtype,
        quantization=quantization,
        stored=stored,
        names=checkpoint.names(),
        native=native_takes(config, dtype),
    )
    read, total = 0, max(1, checkpoint.total_bytes)
    progress("Weights", 0.0)
    for name, tensor in checkpoint.tensors():
        if not assembly.take(name, tensor) and not _may_be_ignored(name, tensor, config, stored):
            raise ModelError(f"{folder}: the tensor {name} does not belong to the architecture")
        read += tensor.nbytes
        progress("Weights", min(1.0, read / total))
    try:
        return assembly.finish(), checkpoint.digest
    except ModelError as error:
        raise ModelError(f"{folder} {error}") from error


def _may_be_ignored(
    name: str, tensor: Tensor, config: LlamaConfig, stored: StoredFormat | None
) -> bool:
    if name.endswith(_DERIVED) or (config.tied_embeddings and name == "lm_head.weight"):
        return True
    # Packers of GPTQ write a bias for every projection, of zeros where the model has none.
    return stored is not None and name.endswith(".bias") and not tensor.any()


def _needed_memory(
    config: LlamaConfig,
    dtype: torch.dtype,
    quantization: Quantization,
    checkpoint: Checkpoint,
    *,
    quantized: bool,
) -> int:
    """Bytes of the model as it will stand, by the numbers of config.json."""
    with torch.device("meta"):
        model = Llama(config)
    embedding = config.vocab_size * config.hidden_size * dtype.itemsize
    if quantized:  # packed, it is about as large as its files; a tied head is a copy
        return checkpoint.total_bytes + config.tied_embeddings * embedding
    needed = 0.0
    for name, module in model.named_modules():
        sizes = [p.numel() for p in module.parameters(recurse=False)]
        scheme = None
        if isinstance(module, Linear):
            module_name = name if name == HEAD else f"model.{name}"
            scheme = quantization.scheme_of(module_name, module.inputs)
        needed += sum(sizes) * (scheme.bytes_per_weight if scheme else dtype.itemsize)
    return int(needed)


def _dtype(asked: str, folder: Path) -> torch.dtype:
    if asked in _DTYPES:
        return _DTYPES[asked]
    if asked != "Auto":
        raise ModelError(f"unknown dtype {asked!r}: Auto, {', '.join(_DTYPES)} are known")
    raw = read_json(folder / "config.json")
    stored = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    by_name = {str(d).removeprefix("torch."): d for d in _DTYPES.values()}
    if not isinstance(stored, str) or stored not in by_name:
        raise ModelError(f"config.json: dtype is {stored!r}; {', '.join(by_name)} are supported")
    return by_name[stored]


def _context(config: LlamaConfig, asked: int | None) -> int:
    if asked is None:
        return config.max_context
    if not 2 <= asked <= config.max_context:
        raise ModelError(
            f"contextLength is {asked}; this model's context goes from 2 to {config.max_context}"
        )
    return asked


def _token_bytes(config: LlamaConfig, dtype: torch.dtype, kv_cache: KVFormat) -> int:
    """Of a token's keys and values in all layers; in int8 each has a float32 scale."""
    is_int8 = kv_cache is KVFormat.INT8
    vector = config.head_dim + 4 if is_int8 else config.head_dim * dtype.itemsize
    return 2 * config.layers * config.kv_heads * vector


def _cache_blocks(
    block_bytes: int, asked: int | None, useful_tokens: int, working: Callable[[int], int]
) -> int:
    """Blocks of the cache: what was asked for, else a modest share, never more than useful.

    `working` says what a worker with so many blocks takes beside them; that has to fit, too.
    """
    room = available_memory()
    if asked is not None and asked > room:
        raise ModelError(f"the KV cache should have {_gib(asked)}, but {_gib(room)} are available")
    given = min(int(room * _CACHE_SHARE), _CACHE_MOST) if asked is None else asked
    blocks = given // block_bytes
    if blocks < 1:
        raise ModelError(
            f"the KV cache has room for no block: one of {BLOCK_SIZE} tokens takes {block_bytes}"
            f" bytes, {given} are given"
        )
    blocks = min(blocks, -(-useful_tokens // BLOCK_SIZE))

    def fits(blocks: int) -> bool:
        return blocks * block_bytes + working(blocks) <= room

    if asked is None and not fits(blocks) and fits(1):
        blocks = bisect.bisect_left(range(1, blocks), True, key=lambda n: not fits(n))
    if not fits(blocks):
        cache, beside = blocks * block_bytes, working(blocks)
        raise ModelError(
            f"a KV cache of {_gib(cache)} and up to {_gib(beside)} to compute with are"
            f" {_gib(cache + beside)}, but {_gib(room)} of memory are available: lower"
            " kvCacheMemory, maxSequences, maxBatchTokens or contextLength, or give it more"
        )
    return blocks


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size < 10 << 30 else f"{size / 2**30:.1f} GiB"

"""From a Hugging Face folder to a runner: weights, digest, cache."""

from __future__ import annotations

from pathlib import Path

import torch
import xxhash
from torch import Tensor

from ..engine.device import LoadedModel
from ..engine.host import available_memory, usable_cores
from ..engine.messages import EngineLimits
from ..engine.runner import TorchRunner
from ..engine.scheduler import BLOCK_SIZE
from ..errors import ModelError
from ..progress import Report
from .checkpoint import Checkpoint
from .config import LlamaConfig, eos_token_ids, read_config, read_json
from .llama import Linear, Llama

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
    kv_cache_bytes: int | None = None,
    max_sequences: int,
    max_batch_tokens: int,
    progress: Report,
) -> LoadedModel:
    """Loads the model onto the CPU. Raises ModelError.

    `dtype` is Auto (the checkpoint's), Float32, BFloat16 or Float16; `context_length` (tokens)
    defaults to the model's own.
    """
    torch.set_num_threads(usable_cores())
    config = read_config(folder)
    kind = _dtype(dtype, folder)
    context = _context(config, context_length)
    model, weights = _load_weights(folder, config, kind, progress)
    progress("Cache", 0.0)
    blocks = _cache_blocks(config, kind, kv_cache_bytes, max_sequences * context)
    runner = TorchRunner(model, num_blocks=blocks, context_length=context)
    progress("Warmup", 0.0)
    runner.warm_up(min(max_batch_tokens, context, 256))
    progress("Warmup", 1.0)
    return LoadedModel(
        runner=runner,
        limits=EngineLimits(
            context_length=context,
            kv_tokens=blocks * BLOCK_SIZE,
            max_sequences=max_sequences,
            vocab_size=config.vocab_size,
        ),
        digest=xxhash.xxh3_128_hexdigest(f"{weights} {kind} {config}".encode()),
        eos_token_ids=eos_token_ids(folder),
    )


def build_model(config: LlamaConfig, state: dict[str, Tensor]) -> Llama:
    """The module around weights that are in memory already; it empties `state`."""
    with torch.device("meta"):
        model = Llama(config)
    if config.tied_embeddings:
        state["lm_head.weight"] = state["embed_tokens.weight"]
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()
    state.clear()  # packing lets go of each weight in turn, so that there are never two of all
    for module in model.modules():
        if isinstance(module, Linear):
            module.pack()
    return model


def _load_weights(
    folder: Path, config: LlamaConfig, dtype: torch.dtype, progress: Report
) -> tuple[Llama, str]:
    with torch.device("meta"):
        parameters = dict(Llama(config).named_parameters())
    needed = sum(p.numel() for p in parameters.values()) * dtype.itemsize
    if config.tied_embeddings:  # the head is a packed copy of the embedding
        needed += config.vocab_size * config.hidden_size * dtype.itemsize
    if needed > (room := available_memory()):
        raise ModelError(
            f"the weights need {_gib(needed)} as {dtype}, but {_gib(room)} of memory are available"
        )
    state = {name: torch.empty(p.shape, dtype=dtype) for name, p in parameters.items()}
    targets = _targets(config, state)
    checkpoint = Checkpoint(folder)
    read, total = 0, max(1, checkpoint.total_bytes)
    progress("Weights", 0.0)
    for name, tensor in checkpoint.tensors():
        target = targets.pop(name, None)
        if target is not None:
            _fill(name, target, tensor)
        elif not name.endswith(_DERIVED) and not (
            config.tied_embeddings and name == "lm_head.weight"
        ):
            raise ModelError(f"{folder}: the tensor {name} does not belong to the architecture")
        read += tensor.nbytes
        progress("Weights", read / total)
    if targets:
        missing = sorted(targets)
        raise ModelError(f"{folder} lacks {len(missing)} tensors, the first is {missing[0]}")
    return build_model(config, state), checkpoint.digest


def _targets(config: LlamaConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where each tensor of the checkpoint goes: a parameter, or some rows of a merged one."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    merged = {
        "qkv_proj": {"q_proj": query, "k_proj": key, "v_proj": key},
        "gate_up_proj": {
            "gate_proj": config.intermediate_size,
            "up_proj": config.intermediate_size,
        },
    }
    targets: dict[str, Tensor] = {}
    for name, parameter in state.items():
        stored = name if name.startswith("lm_head") else f"model.{name}"
        parts = next((m for m in merged if f".{m}." in name), None)
        if parts is None:
            targets[stored] = parameter
            continue
        rows = torch.split(parameter, list(merged[parts].values()))
        for part, target in zip(merged[parts], rows, strict=True):
            targets[stored.replace(parts, part)] = target
    return targets


def _fill(name: str, target: Tensor, tensor: Tensor) -> None:
    if tensor.shape != target.shape:
        raise ModelError(
            f"the tensor {name} is {list(tensor.shape)}, but config.json asks for"
            f" {list(target.shape)}"
        )
    if tensor.dtype not in _DTYPES.values():
        raise ModelError(
            f"the tensor {name} is {tensor.dtype}; float32, bfloat16 or float16 is expected"
        )
    target.copy_(tensor)


def _dtype(asked: str, folder: Path) -> torch.dtype:
    if asked in _DTYPES:
        return _DTYPES[asked]
    if asked != "Auto":
        raise ModelError(f"unknown dtype {asked!r}: Auto, {', '.join(_DTYPES)} are known")
    raw = read_json(folder / "config.json")
    stored = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    by_name = {str(d).removeprefix("torch."): d for d in _DTYPES.values()}
    if stored not in by_name:
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


def _cache_blocks(
    config: LlamaConfig, dtype: torch.dtype, asked: int | None, useful_tokens: int
) -> int:
    """Blocks of the cache: what was asked for, else a modest share, never more than useful."""
    block_bytes = 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize
    block_bytes *= BLOCK_SIZE
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
    return min(blocks, -(-useful_tokens // BLOCK_SIZE))


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"

"""From a Hugging Face folder to a runner: weights, digest, cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
import torch
import xxhash
from torch import Tensor

from ..devices.host import available_memory, usable_cores
from ..devices.native import library
from ..devices.native.runner import NativeRunner
from ..devices.native.runner import takes as native_takes
from ..devices.torch.paged_attention import LayerShape
from ..devices.torch.runner import TorchRunner, warm_up
from ..engine.device import LoadedModel, Runner
from ..engine.request import EngineLimits
from ..engine.scheduler import BLOCK_SIZE
from ..errors import ModelError, NotOurModulesError
from ..models.config import LlamaConfig, eos_token_ids, is_ours, parse_config, read_json
from ..models.linear import Linear
from ..models.llama import Llama
from ..models.rope_config import context_variants
from ..progress import Report
from ..quantization.scheme import AS_STORED, HEAD, Quantization
from ..quantization.stored import StoredFormat, stored_format
from .checkpoint import Checkpoint
from .fastest_dtype import fastest_dtype
from .model_builder import ModelBuilder, stored_parts
from .sizing import (
    LoadedWeights,
    cache_blocks,
    context_within,
    describe_path,
    read_dtype,
    refuse_weights_beyond_memory,
)
from .tied_head import HEAD_WEIGHT, with_stored_head
from .working_memory import ServingLimits, Widths, working_memory

# Left out by newer checkpoints, written by older ones; computed here from the config.
_DERIVED = "rotary_emb.inv_freq"

log = structlog.get_logger()


def load_model(
    folder: Path,
    *,
    dtype: str = "Auto",
    context_length: int | None = None,
    quantization: Quantization = AS_STORED,
    kv_cache_bytes: int | None = None,
    max_sequences: int,
    max_batch_tokens: int,
    deterministic: bool = False,
    progress: Report,
) -> LoadedModel:
    """Loads the model onto the CPU. Raises ModelError.

    If `deterministic`, only where the compiled step computes it: torch's operations sum in another
    order for another shape of the batch.

    `dtype` is Auto (the checkpoint's), Float32, BFloat16 or Float16; `context_length` (tokens)
    defaults to the model's own. What `quantization` leaves alone stays in `dtype`.
    """
    torch.set_num_threads(usable_cores())
    kind = read_dtype(dtype, folder)
    config, lacking = _our_config(read_json(folder / "config.json"))
    if dtype == "Auto":
        kind = _fastest(folder, config, kind, context_length, quantization)
    if config is not None:
        context = context_within(config.max_context, context_length)
        weights = _load_llama(folder, config, kind, context, quantization, progress)
    else:
        context, weights = _load_generic(
            folder, kind, context_length, quantization, progress, lacking
        )
    if deterministic and not weights.widths.native:
        raise ModelError(
            f"{folder} cannot be served deterministically: it takes the compiled step, which"
            " computes models of the Llama, Mistral and Qwen families in bfloat16, on processors"
            " with AVX2 or with ARM's dot products, and takes a C++ compiler or an image that has"
            " it; load it elsewhere, or without `deterministic`"
        )
    progress("Cache", 0.0)
    most = ServingLimits(
        max_sequences=max_sequences, max_batch_tokens=max_batch_tokens, threads=usable_cores()
    )

    def working(blocks: int) -> int:
        return working_memory(weights.widths, most, min(context, blocks * BLOCK_SIZE))

    blocks = cache_blocks(weights.token_bytes, kv_cache_bytes, max_sequences * context, working)
    runner = weights.runner(blocks)
    progress("Warmup", 0.0)
    warm_up(runner, min(max_batch_tokens, context, 2 * BLOCK_SIZE))
    progress("Warmup", 1.0)
    return LoadedModel(
        runner=runner,
        limits=EngineLimits(
            context_length=context,
            kv_tokens=blocks * BLOCK_SIZE,
            max_sequences=max_sequences,
            vocab_size=weights.widths.vocab,
        ),
        digest=weights.digest,
        eos_token_ids=eos_token_ids(folder),
        computed_by=weights.computed_by,
    )


def _our_config(raw: dict[str, Any]) -> tuple[LlamaConfig | None, str | None]:
    """For our own modules; or else what they lack, if they have the architecture."""
    if not is_ours(raw):
        return None, None
    try:
        return parse_config(raw), None
    except NotOurModulesError as error:
        return None, str(error)


def _fastest(
    folder: Path,
    config: LlamaConfig | None,
    stored: torch.dtype,
    context_length: int | None,
    quantization: Quantization,
) -> torch.dtype:
    """The checkpoint's type, or float32 where that is faster on torch's operations."""
    context = context_length or (config.max_context if config is not None else 0)
    compiled = config is not None and native_takes(config, stored) and _keeps_rope(config, context)
    quantized = quantization != AS_STORED or stored_format(read_json(folder / "config.json"))
    as_float32 = Checkpoint(folder).total_bytes // stored.itemsize * torch.float32.itemsize
    kind = fastest_dtype(
        stored,
        library.processor_features(),
        compiled=compiled,
        quantized=bool(quantized),
        fits_float32=as_float32 < available_memory(),
    )
    if kind != stored:
        log.info(
            "the processor emulates the checkpoint's type, another one is faster",
            stored=str(stored),
            dtype=str(kind),
        )
    return kind


def _keeps_rope(config: LlamaConfig, context: int) -> bool:
    """Whether the rope does not change with the length of the sequence."""
    return context_variants(config.rope_scaling, context) is None


def _load_generic(
    folder: Path,
    dtype: torch.dtype,
    context_length: int | None,
    quantization: Quantization,
    progress: Report,
    lacking: str | None,
) -> tuple[int, LoadedWeights]:
    # Imported here: transformers' models take seconds, and ours need none of them.
    from . import generic

    try:
        config = generic.read_config(folder)
        context = context_within(generic.max_context(config), context_length)
        weights = generic.load(folder, config, dtype, context, quantization, progress)
    except ModelError as error:
        if lacking is None:
            raise
        raise ModelError(f"{lacking}; nor do transformers' modules serve it: {error}") from error
    if lacking is not None:
        log.info("our modules lack a setting, transformers' compute the model", setting=lacking)
    return context, weights


def _load_llama(
    folder: Path,
    config: LlamaConfig,
    dtype: torch.dtype,
    context: int,
    quantization: Quantization,
    progress: Report,
) -> LoadedWeights:
    stored = stored_format(read_json(folder / "config.json"))
    config = with_stored_head(config, Checkpoint(folder), stored)
    model, weights = _read_weights(folder, config, dtype, quantization, progress)
    kv_cache = quantization.kv_cache

    native = NativeRunner.takes(model) and _keeps_rope(config, context)

    def runner(blocks: int) -> Runner:
        # Positions beyond the cache are never computed: what a config claims takes no tables.
        reach = min(context, blocks * BLOCK_SIZE)
        if not native:
            return TorchRunner(model, num_blocks=blocks, context_length=reach, kv_cache=kv_cache)
        return NativeRunner(
            model,
            num_blocks=blocks,
            context_length=reach,
            threads=usable_cores(),
            kv_cache=kv_cache,
        )

    shape = LayerShape(kv_heads=config.kv_heads, key_dim=config.head_dim, value_dim=config.head_dim)
    return LoadedWeights(
        runner=runner,
        token_bytes=config.layers * shape.token_bytes(dtype, kv_cache),
        widths=Widths(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            query=config.heads * config.head_dim,
            key=config.kv_heads * config.head_dim,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            itemsize=dtype.itemsize,
            native=native,
        ),
        digest=_digest(
            weights, dtype, config, quantization, library.arithmetic() if native else ""
        ),
        computed_by=describe_path(
            f"our modules in the compiled step ({_described_step()})"
            if native
            else "our modules on torch's operations",
            dtype,
            quantization,
            _quantized_share(config, quantization),
        ),
    )


def _digest(
    weights: str,
    dtype: torch.dtype,
    config: LlamaConfig,
    quantization: Quantization,
    arithmetic: str,
) -> str:
    """Equal where a stream may be resumed: other arithmetic rounds in another way.

    Torch's operations and the arithmetic that there was first have no name in it, so that workers
    of older versions have the same digest.
    """
    other = "" if arithmetic in ("", "bf16-dot") else f" {arithmetic}"
    return xxhash.xxh3_128_hexdigest(f"{weights} {dtype} {config} {quantization}{other}".encode())


def _described_step() -> str:
    chosen = library.instruction_set()
    name = "" if chosen is None else chosen.name
    return f"{name}, {usable_cores()} threads"


def _quantized_share(config: LlamaConfig, quantization: Quantization) -> float:
    """Of the weights of all projections but the head."""
    with torch.device("meta"):
        model = Llama(config)
    covered = total = 0
    for name, module in model.named_modules():
        if not isinstance(module, Linear) or name == HEAD:
            continue
        for full, outputs in stored_parts(config, name, module.outputs).items():
            total += outputs * module.inputs
            if quantization.scheme_of(full, module.inputs) is not None:
                covered += outputs * module.inputs
    return covered / total


def _read_weights(
    folder: Path,
    config: LlamaConfig,
    dtype: torch.dtype,
    quantization: Quantization,
    progress: Report,
) -> tuple[Llama, str]:
    stored = stored_format(read_json(folder / "config.json"))
    checkpoint = Checkpoint(folder)
    needed = _needed_memory(config, dtype, quantization, checkpoint, quantized=stored is not None)
    refuse_weights_beyond_memory(needed)
    builder = ModelBuilder(
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
        if not builder.add_tensor(name, tensor) and not _may_be_ignored(
            name, tensor, config, stored
        ):
            raise ModelError(f"{folder}: the tensor {name} does not belong to the architecture")
        read += tensor.nbytes
        progress("Weights", min(1.0, read / total))
    try:
        return builder.build(), checkpoint.digest
    except ModelError as error:
        raise ModelError(f"{folder} {error}") from error


def _may_be_ignored(
    name: str, tensor: Tensor, config: LlamaConfig, stored: StoredFormat | None
) -> bool:
    if name.endswith(_DERIVED) or (config.tied_embeddings and name.endswith(HEAD_WEIGHT)):
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

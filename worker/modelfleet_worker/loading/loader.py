"""From a Hugging Face folder to a runner: weights, digest, cache. Imports no torch by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from ..devices.host import available_memory, usable_cores
from ..devices.native import library
from ..devices.native.runner import takes
from ..devices.warm_up import warm_up
from ..engine.device import LoadedModel, MemoryUse
from ..engine.request import EngineLimits
from ..engine.scheduler import BLOCK_SIZE
from ..errors import ModelError, NotOurModulesError, TooLargeError
from ..models.config import LlamaConfig, eos_token_ids, is_ours, parse_config, read_json
from ..models.float_type import FloatType
from ..progress import Report
from ..quantization.scheme import AS_STORED, Quantization
from ..quantization.stored import stored_format
from ..threads import using_transformers
from . import compiled
from .checkpoint import Checkpoint
from .fastest_dtype import fastest_dtype
from .our_model import OurModel
from .sizing import LoadedWeights, cache_blocks, context_within, read_dtype
from .tied_head import with_stored_head
from .working_memory import ServingLimits, working_memory

log = structlog.get_logger()

# Tokens. One is enough for the compiled step: it touches the memory that each step needs, and shows
# that the processor runs it. Torch's kernels are made when they are first called, and for some
# numbers of rows.
_COMPILED_WARM_UP = 1


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
    room = available_memory()
    kind = read_dtype(dtype, folder)
    config, lacking = _our_config(read_json(folder / "config.json"))
    if dtype == "Auto":
        kind = _fastest(folder, config, kind, quantization)
    context, weights = 0, None
    if config is not None and (config.on_torch or takes(config, kind)):
        context = context_within(config.max_context, context_length)
        weights = _load_ours(folder, config, kind, context, quantization, progress)
    if weights is None:
        if config is not None:
            lacking = (
                f"our modules compute it in the compiled step only, which takes no {kind} here"
            )
        with using_transformers:
            context, weights = _load_generic(
                folder, kind, context_length, quantization, progress, lacking
            )
    if deterministic and not weights.widths.native:
        raise ModelError(
            f"{folder} cannot be served deterministically: it takes the compiled step, which"
            " computes Llama and the families of docs/models.md in bfloat16, on processors with"
            " AVX2 or with ARM's dot products, and takes a C++ compiler or an image that has it;"
            " load it elsewhere, or without `deterministic`"
        )
    progress("Cache", 0.0)
    most = ServingLimits(
        max_sequences=max_sequences, max_batch_tokens=max_batch_tokens, threads=usable_cores()
    )

    def working(blocks: int) -> int:
        return working_memory(weights.widths, most, min(context, blocks * BLOCK_SIZE))

    try:
        blocks = cache_blocks(weights.token_bytes, kv_cache_bytes, max_sequences * context, working)
    except TooLargeError as error:
        needed = weights.weight_bytes + error.needed
        raise TooLargeError(str(error), needed=needed, available=room) from error
    runner = weights.runner(blocks)
    progress("Warmup", 0.0)
    tokens = _COMPILED_WARM_UP if weights.widths.native else 2 * BLOCK_SIZE
    warm_up(runner, min(max_batch_tokens, context, tokens))
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
        weights_digest=weights.weights_digest,
        computation=weights.computation,
        eos_token_ids=eos_token_ids(folder),
        computed_by=weights.computed_by,
        memory=MemoryUse(
            weights=weights.weight_bytes,
            cache=blocks * BLOCK_SIZE * weights.token_bytes,
            working=working(blocks),
            available=room,
        ),
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
    stored: FloatType,
    quantization: Quantization,
) -> FloatType:
    """The checkpoint's type, or float32 where that is faster on torch's operations."""
    quantized = quantization != AS_STORED or stored_format(read_json(folder / "config.json"))
    as_float32 = Checkpoint(folder).total_bytes // stored.itemsize * FloatType.FLOAT32.itemsize
    kind = fastest_dtype(
        stored,
        library.processor_features(),
        compiled=config is not None and takes(config, stored),
        quantized=bool(quantized),
        fits_float32=as_float32 < available_memory(),
    )
    if kind is not stored:
        log.info(
            "the processor emulates the checkpoint's type, another one is faster",
            stored=stored,
            dtype=kind,
        )
    return kind


def _load_ours(
    folder: Path,
    config: LlamaConfig,
    dtype: FloatType,
    context: int,
    quantization: Quantization,
    progress: Report,
) -> LoadedWeights | None:
    """None: neither the compiled step nor our modules on torch compute it."""
    stored = stored_format(read_json(folder / "config.json"))
    checkpoint = Checkpoint(folder)
    model = OurModel(
        config=with_stored_head(config, checkpoint, stored),
        dtype=dtype,
        context=context,
        quantization=quantization,
        stored=stored,
    )
    weights = compiled.load(model, checkpoint, progress)
    if weights is None and config.on_torch:
        # Imported here: torch takes seconds, and the compiled step does not need it.
        checkpoint.prefetch()
        from . import torch_llama

        weights = torch_llama.load(model, checkpoint, progress)
    return weights and replace(weights, weight_bytes=model.weight_bytes(checkpoint))


def _load_generic(
    folder: Path,
    dtype: FloatType,
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

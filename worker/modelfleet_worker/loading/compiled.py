"""From a folder of a Llama-family model to weights of the compiled step, without torch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import structlog

from ..devices.host import usable_cores
from ..devices.native.model import NativeModel
from ..devices.native.runner import NativeRunner, takes
from ..engine.device import Runner
from ..engine.scheduler import BLOCK_SIZE
from ..models.config import LlamaConfig
from ..progress import Report
from ..quantization.scheme import KVFormat
from .checkpoint import Checkpoint, WeightsDigest
from .expert_names import are_ours
from .native_builder import NativeBuilder, OtherLayoutError
from .our_model import OurModel
from .sizing import LoadedWeights

log = structlog.get_logger()

_BATCH = 512 << 20  # bytes of the files that are laid out in one call


def load(model: OurModel, checkpoint: Checkpoint, progress: Report) -> LoadedWeights | None:
    """None: the compiled step does not compute it. Raises ModelError."""
    config, context = model.config, model.context
    if not takes(config, model.dtype):
        return None
    if config.experts is not None and model.stored is not None and not are_ours(checkpoint.names()):
        # Which of them are quantized is told by names.
        log.info("the compiled step does not take it", reason="quantized experts of other names")
        return None
    try:
        built, digest = _read(model, checkpoint, progress)
    except OtherLayoutError as error:
        log.info("the compiled step does not take it", reason=str(error))
        return None
    kv_cache = model.quantization.kv_cache
    return model.loaded(
        partial(_runner, built, context, kv_cache),
        digest,
        token_bytes=2 * config.layers * config.kv_heads * _vector_bytes(config, kv_cache),
        native=True,
    )


def _runner(model: NativeModel, context: int, kv_cache: KVFormat, blocks: int) -> Runner:
    return NativeRunner(
        model,
        num_blocks=blocks,
        # Positions beyond the cache are never computed: what a config claims takes no tables.
        context_length=min(context, blocks * BLOCK_SIZE),
        threads=usable_cores(),
        kv_cache=kv_cache,
    )


def _vector_bytes(config: LlamaConfig, kv_cache: KVFormat) -> int:
    """A key or a value of a token and head; in int8 it has a float32 scale."""
    return config.head_dim + 4 if kv_cache is KVFormat.INT8 else 2 * config.head_dim


def _read(
    model: OurModel, checkpoint: Checkpoint, progress: Report
) -> tuple[NativeModel, WeightsDigest]:
    expected = model.expected(checkpoint)
    builder, threads = NativeBuilder(model.config, expected), usable_cores()
    digest, digesting = WeightsDigest(), list[Future[None]]()
    read, laid_out, total = 0, 0, max(1, checkpoint.total_bytes)

    def told() -> None:
        progress("Weights", min(1.0, (read + laid_out) / 2 / total))

    progress("Weights", 0.0)
    # One thread digests what the others lay out: it reads the same bytes at the same time.
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as pool:
        for name, tensor in checkpoint.tensors():
            builder.add(name, tensor)
            digesting.append(pool.submit(digest.add, name, tensor))
            read += tensor.nbytes
            if read - laid_out >= _BATCH:
                builder.lay_out(threads, told)
                laid_out = read
        built = builder.build(threads, told)
        for future in digesting:
            future.result()
    progress("Weights", 1.0)
    return built, digest

"""From a folder of a Llama-family model to our modules on torch's operations."""

from __future__ import annotations

import torch

from ..devices.host import usable_cores
from ..devices.native.runner import takes
from ..devices.torch.paged_attention import LayerShape
from ..devices.torch.runner import TorchRunner
from ..engine.device import Runner
from ..engine.scheduler import BLOCK_SIZE
from ..models.llama import Llama
from ..progress import Report
from .checkpoint import Checkpoint, WeightsDigest
from .model_builder import ModelBuilder
from .our_model import OurModel
from .sizing import LoadedWeights


def load(model: OurModel, checkpoint: Checkpoint, progress: Report) -> LoadedWeights:
    """Raises ModelError."""
    torch.set_num_threads(usable_cores())
    config, dtype = model.config, getattr(torch, model.dtype)
    llama, digest = _read(model, checkpoint, dtype, progress)
    kv_cache = model.quantization.kv_cache

    def runner(blocks: int) -> Runner:
        # Positions beyond the cache are never computed: what a config claims takes no tables.
        reach = min(model.context, blocks * BLOCK_SIZE)
        return TorchRunner(llama, num_blocks=blocks, context_length=reach, kv_cache=kv_cache)

    shape = LayerShape(kv_heads=config.kv_heads, key_dim=config.head_dim, value_dim=config.head_dim)
    token_bytes = config.layers * shape.token_bytes(dtype, kv_cache)
    return model.loaded(runner, digest, token_bytes=token_bytes, native=False)


def _read(
    model: OurModel, checkpoint: Checkpoint, dtype: torch.dtype, progress: Report
) -> tuple[Llama, WeightsDigest]:
    builder = ModelBuilder(
        model.config,
        model.expected(checkpoint),
        dtype=dtype,
        native=takes(model.config, model.dtype),
    )
    digest = WeightsDigest()
    read, total = 0, max(1, checkpoint.total_bytes)
    progress("Weights", 0.0)
    for name, tensor in checkpoint.tensors():
        builder.add(name, tensor)
        digest.add(name, tensor)
        read += tensor.nbytes
        progress("Weights", min(1.0, read / total))
    return builder.build(), digest

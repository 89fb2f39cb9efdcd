"""A model outside an engine that our modules of torch lack: texts through the compiled step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..devices.native.runner import NativeRunner
from ..engine.request import Request, Sequence
from ..engine.scheduler import BLOCK_SIZE, Chunk
from ..errors import ModelError
from ..loading.loader import load_model
from .calibration import WINDOW


class StepModel:
    """In bfloat16, as it is served."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError where the compiled step does not compute it."""
        loaded = load_model(
            folder,
            dtype="BFloat16",
            max_sequences=1,
            max_batch_tokens=WINDOW,
            progress=lambda *_: None,
        )
        if not isinstance(loaded.runner, NativeRunner):
            raise ModelError(
                f"{folder} is of a family that takes the compiled step to be compared, and that"
                f" does not compute it here: {loaded.computed_by}"
            )
        self._runner = loaded.runner

    @property
    def has_experts(self) -> bool:
        """Whether any layer chooses among some."""
        return self._runner.model.config.experts is not None

    def logits(self, ids: Tensor) -> Tensor:
        """Teacher-forced, float32 [T, vocab] of ids [T]."""
        return torch.from_numpy(self._runner.logits([_chunk(ids)], everywhere=True))

    def choices(self, ids: Tensor) -> Tensor:
        """Which experts each router takes, [layers, T, chosen]; -1 in layers without."""
        return torch.from_numpy(self._runner.chosen_experts([_chunk(ids)]))


def _chunk(ids: Tensor) -> Chunk:
    sequence = Sequence(Request(request_id="text", prompt_ids=tuple(ids.tolist()), max_tokens=1))
    sequence.block_table = list(range(-(-len(ids) // BLOCK_SIZE)))
    return Chunk.of(sequence, len(ids))

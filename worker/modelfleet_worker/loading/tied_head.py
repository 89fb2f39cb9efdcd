"""Whether a model's head is its embedding: what is stored decides, not config.json alone.

Fine-tunes train both and keep the `tie_word_embeddings: true` of the model that they began with.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import structlog

from ..models.config import LlamaConfig
from ..models.llama_tensors import EMBEDDING, HEAD_WEIGHT
from ..models.stored_tensor import StoredTensor
from ..quantization.scheme import HEAD
from ..quantization.stored import StoredFormat
from .checkpoint import Checkpoint

log = structlog.get_logger()

# With and without the prefix that checkpoints of base models lack.
_HEADS = (HEAD_WEIGHT, f"model.{HEAD_WEIGHT}")
_EMBEDDINGS = (EMBEDDING, EMBEDDING.removeprefix("model."))


def with_stored_head(
    config: LlamaConfig, checkpoint: Checkpoint, stored: StoredFormat | None
) -> LlamaConfig:
    """Untied if the checkpoint has a head that is not its embedding, as transformers 5.23 does it.

    Raises ModelError for files that cannot be read.
    """
    if not config.tied_embeddings:
        return config
    names = checkpoint.names()
    if stored is None or not stored.holds(HEAD, names):
        heads, embeddings = names.intersection(_HEADS), names.intersection(_EMBEDDINGS)
        if not heads or not embeddings:
            return config
        if _equal(*checkpoint.read(min(heads), min(embeddings))):
            return config
    log.warning(
        "the head is not the embedding, although config.json ties them: both are as stored",
        folder=str(checkpoint.folder),
    )
    return replace(config, tied_embeddings=False)


def _equal(head: StoredTensor, embedding: StoredTensor) -> bool:
    if head.dtype != embedding.dtype:
        return False
    return np.array_equal(head.array, embedding.array)

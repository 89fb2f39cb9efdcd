"""Whether a model's head is its embedding: what is stored decides, not config.json alone.

Fine-tunes train both and keep the `tie_word_embeddings: true` of the model that they began with.
"""

from __future__ import annotations

from dataclasses import replace

import structlog
import torch

from ..models.config import LlamaConfig
from ..quantization.scheme import HEAD
from ..quantization.stored import StoredFormat
from .checkpoint import Checkpoint

log = structlog.get_logger()

HEAD_WEIGHT = f"{HEAD}.weight"
EMBEDDING = "model.embed_tokens.weight"
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


def _equal(head: torch.Tensor, embedding: torch.Tensor) -> bool:
    if head.shape != embedding.shape or head.dtype != embedding.dtype:
        return False
    return torch.equal(head, embedding)

"""What a model is for, as `spec.model.task` and workers' Stats say it."""

from __future__ import annotations

import enum
from typing import Final


class Task(enum.StrEnum):
    """What is asked of a model."""

    GENERATE = "Generate"
    EMBED = "Embed"


# What an error says of a model that is for this, to who asked for something else.
INSTEAD: Final[dict[str, str]] = {
    Task.GENERATE: "generates text and makes no embeddings: send it chats or completions",
    Task.EMBED: "makes embeddings and generates nothing: send it to /v1/embeddings",
}

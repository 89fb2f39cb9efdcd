"""What a model is for. Imports nothing that makes --help slow."""

from __future__ import annotations

import enum


class Task(enum.StrEnum):
    """As `spec.model.task` and worker.proto name them."""

    AUTO = "Auto"  # what the checkpoint says
    GENERATE = "Generate"
    EMBED = "Embed"

"""What `worker` and `quantize` ask for alike. Imports nothing that makes --help slow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .errors import UsageError

GroupSizeOption = Annotated[
    int, typer.Option(help="Inputs that share a scale in int4: 32, 64 or 128.")
]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=FORMAT",
        help="none, int8 or int4 for modules, like '*.down_proj=int8'; the first match decides.",
    ),
]
RevisionOption = Annotated[str, typer.Option(help="Branch, tag or commit of an hf:// source.")]
ModelDirOption = Annotated[
    Path | None,
    typer.Option(
        help="Local copies of hub models as OWNER/NAME; default $MODELFLEET_CACHE/models."
    ),
]


def cache_dir() -> Path:
    """What this machine keeps of models."""
    return Path(os.environ.get("MODELFLEET_CACHE") or "~/.cache/modelfleet").expanduser()


def model_copies(chosen: Path | None) -> Path:
    """Where local copies of hub models are."""
    return (chosen or cache_dir() / "models").expanduser()


def cache_limit() -> int | None:
    """Bytes that downloaded models may have. Raises UsageError without the variable's value."""
    from .quantities import parse_bytes

    limit = os.environ.get("MODELFLEET_CACHE_LIMIT")
    try:
        return parse_bytes(limit) if limit else None
    except UsageError:
        # It ends as the pod's message, where no variable is to be read.
        raise UsageError(
            "MODELFLEET_CACHE_LIMIT: expected a size like 512Mi, 2Gi or 3.5G"
        ) from None

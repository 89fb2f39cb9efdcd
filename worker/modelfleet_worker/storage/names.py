"""Names that come from elsewhere and become names of files: none leads out of its folder."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ..errors import ModelError

MOST_FOLDERS = 32  # that a file may be in, one in the other
MOST_FILES = 10_000
_LONGEST = 255  # bytes of one part of a path: what file systems take
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,200}")


def safe_name(name: str) -> str:
    """The name, relative to the model's folder. ModelError if it could lead out of it."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or re.search(r"[\x00-\x1f\\\ud800-\udfff]", name)
    ):
        raise ModelError(f"the artifact names a file outside of its folder: {name[:100]!r}")
    if len(path.parts) > MOST_FOLDERS + 1:
        raise ModelError(f"a file of the artifact is in more than {MOST_FOLDERS} folders")
    if any(len(part.encode()) > _LONGEST for part in path.parts):
        raise ModelError(f"a file of the artifact has a name of more than {_LONGEST} bytes")
    return str(path)


def safe_version(version: object) -> str:
    """The version, which names a folder of the cache. ModelError for one that must not."""
    if not isinstance(version, str) or not _VERSION.fullmatch(version) or version in (".", ".."):
        raise ModelError(
            "expected a version of letters, digits, '.', '_' and '-', found something else"
        )
    return version

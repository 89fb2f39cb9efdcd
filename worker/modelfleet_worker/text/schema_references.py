"""What a reference within a JSON schema points to."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

MISSING: Final = object()  # the reference points to nothing, or to another document


def pointed_at(reference: Any, root: Any) -> Any:
    """By the JSON pointer in its fragment (RFC 6901), from `root` on; else MISSING."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        return MISSING
    found = root
    for token in unquote(reference).split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return MISSING
    return found

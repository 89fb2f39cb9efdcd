"""Reasoning that clients send back which keep no text of it: in a field that is opaque to them.

OpenAI's is encrypted. Ours is not: the text is in the output as well, and there is nothing to hide.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

MARK: Final = "modelfleet-1."


def encode_reasoning(text: str) -> str:
    """What `encrypted_content` says."""
    return MARK + base64.urlsafe_b64encode(text.encode()).decode()


def decode_reasoning(content: str) -> str:
    """The text again; nothing for what somebody else made, which nobody here can read."""
    if not content.startswith(MARK):
        return ""
    try:
        return base64.urlsafe_b64decode(content.removeprefix(MARK).encode()).decode()
    except (binascii.Error, UnicodeError):
        return ""

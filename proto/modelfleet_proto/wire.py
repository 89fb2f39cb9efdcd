"""Parts of serialized messages, for what is too large to be copied into a message first.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Sequence


def nested(number: int, parts: Sequence[bytes]) -> list[bytes]:
    """A length-delimited field of a serialized message: its key and length, then `parts`."""
    size = sum(map(len, parts))
    return [_varint(number << 3 | 2) + _varint(size), *parts]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

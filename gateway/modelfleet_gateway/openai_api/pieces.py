"""What an answer is made of: text, reasoning, and calls of tools."""

from __future__ import annotations

import json
from collections.abc import Sequence

from modelfleet_proto import worker_pb2

from .answer import Json


def pieces(
    event: worker_pb2.Tokens | worker_pb2.Finished,
) -> Sequence[worker_pb2.OutputPart]:
    """What came, in order; of an answer that is not parsed all is text."""
    if event.parts:
        return event.parts
    return [worker_pb2.OutputPart(text=event.text)] if event.text else []


def call_arguments(arguments: str) -> Json:
    """A call's arguments as an object: empty where the model's were cut off, or are none."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}

"""In which shape a chat template takes the calls of earlier turns.

Transformers passes arguments as objects, and most templates print them as JSON. Some print them as
they are, so that they must be text; some know a call by a content that is none; some refuse ids
that have not nine letters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..errors import InvalidRequestError
from .tokenizer import Message

_KEY, _VALUE, _NAME, _RESULT = "keyofprobe", "valueofprobe", "nameofprobe", "resultofprobe"
_SHORT = 9  # characters of an id


@dataclass(frozen=True, slots=True)
class CallShape:
    """How a call of an assistant is passed on."""

    as_text: bool = False  # arguments, as JSON; else as an object
    no_content: str | None = None  # of a message that has calls only
    short_ids: bool = False

    def call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """One of `tool_calls`."""
        function = call["function"]
        arguments: Any = function.get("arguments") or "{}"
        if not self.as_text and isinstance(arguments, str):
            arguments = _as_object(arguments)
        made = {**call, "type": "function", "function": {**function, "arguments": arguments}}
        if "id" in call:
            made["id"] = self.call_id(str(call["id"]))
        return made

    def call_id(self, call_id: str) -> str:
        """An id that the template takes."""
        if not self.short_ids or (len(call_id) == _SHORT and call_id.isalnum()):
            return call_id
        return hashlib.blake2b(call_id.encode(), digest_size=8).hexdigest()[:_SHORT]


PLAIN_SHAPE = CallShape()


def _as_object(arguments: str) -> Any:
    """What is no JSON stays text: a model wrote it, and gets it back."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def find_shape(render: Callable[[Sequence[Message], CallShape], str]) -> CallShape:
    """By trying: the first shape in which a chat shows its call and its result.

    One that shows the call is better than none; of a template that shows no call, transformers'.
    """
    arguments = json.dumps({_KEY: _VALUE})
    call_id = "call_0123456789abcdef"
    call = {"id": call_id, "function": {"name": _NAME, "arguments": arguments}}
    chat = [
        Message("user", "textofprobe"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", _RESULT, tool_call_id=call_id),
    ]
    best, most = PLAIN_SHAPE, 0
    for short_ids, as_text, no_content in product((False, True), (False, True), (None, "")):
        shape = CallShape(as_text=as_text, no_content=no_content, short_ids=short_ids)
        for messages, worth in ((chat, 2), (chat[:2], 1)):
            if worth <= most:
                continue
            try:
                prompt = render(messages, shape)
            except InvalidRequestError:
                continue
            if _shows_call(prompt) and (worth == 1 or _RESULT in prompt):
                best, most = shape, worth
    return best


def _shows_call(prompt: str) -> bool:
    """Objects printed as they are come with Python's quotes; texts made JSON twice, escaped."""
    is_shown = all(text in prompt for text in (_NAME, _KEY, _VALUE))
    wrong = (f"'{_KEY}'", f'\\"{_KEY}\\"', "None")
    return is_shown and not any(text in prompt for text in wrong)

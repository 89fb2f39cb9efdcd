"""Answers in OpenAI's harmony format: messages, each with a channel and maybe a recipient."""

from __future__ import annotations

import re

from .formats import Answering
from .json_values import json_value
from .reader import EndError, MalformedError, Script

CHANNEL, MESSAGE, START = "<|channel|>", "<|message|>", "<|start|>"
END, CALL, RETURN, CONSTRAIN = "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"
MARKS = (CHANNEL, MESSAGE, START, END, CALL, RETURN, CONSTRAIN)
_ENDS = (END, CALL, RETURN, START, CHANNEL)
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")
_KIND = re.compile(r"\s*(\w+)")


def read_messages(answer: Answering) -> Script[None]:
    """All of them; the prompt has the beginning of the first one's header."""
    reader, parts = answer.reader, answer.parts
    header = yield from _begins(answer)
    while header:
        try:
            words = yield from _header(answer)
        except EndError:
            return
        except MalformedError:
            header = yield from _text(answer)
            continue
        recipient = _RECIPIENT.search(words)
        channel = words.rpartition(CHANNEL)[2] if CHANNEL in words else ""
        kind = _KIND.match(channel)
        parts.end_block()
        if recipient is not None:
            header = yield from _call(answer, recipient[1])
        elif kind is not None and kind[1] == "analysis":
            header = (yield from reader.until(_ENDS, parts.reasoning, again=False)) is not None
        else:
            header = yield from _text(answer)


def _begins(answer: Answering) -> Script[bool]:
    """Whether the answer begins with a header; else all of it is text."""
    if (yield from answer.reader.take(CHANNEL, START, " to=", MESSAGE)):
        answer.reader.position = 0
        return True
    return (yield from _text(answer))


def _header(answer: Answering) -> Script[str]:
    """What stands before the message; marks between messages were read or were not."""
    words: list[str] = []
    while True:
        text, mark = yield from answer.reader.collect((MESSAGE, *_ENDS, CONSTRAIN))
        words += [text, mark]
        if mark == MESSAGE:
            return "".join(words[:-1])
        if len(words) > 16:
            raise MalformedError


def _text(answer: Answering) -> Script[bool]:
    """A message for the user; whether another one follows."""
    found = yield from answer.reader.until(_ENDS, answer.parts.text, again=False)
    if found is None:
        answer.parts.keep_space()
    return found is not None


def _call(answer: Answering, name: str) -> Script[bool]:
    reader, parts = answer.reader, answer.parts
    yield from reader.space()
    parts.begin_call(name)
    try:
        yield from json_value(reader, parts.arguments, again=False)
    except EndError:
        return False
    except MalformedError:
        return (yield from reader.until(_ENDS, parts.arguments, again=False)) is not None
    parts.end_call()
    return (yield from reader.until(_ENDS, lambda _: None, again=False)) is not None

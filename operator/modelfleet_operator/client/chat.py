"""A conversation at a terminal: what was said, what is said next, and how it is shown."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TextIO

from ..errors import EndpointError
from ..terminal import printable
from .gateway import Event, Finished, Token, Waiting

HELP: Final = "/clear forgets what was said, /exit ends; Ctrl-C stops an answer"
PROMPT: Final = ">>> "
STOPPED: Final = "stopped"
_COMMAND: Final = re.compile(r"/[a-z]+")
_REMARKS: Final = {"length": "(the limit of tokens was reached)", STOPPED: "(stopped)"}
_ERASE: Final = "\r\x1b[K"  # the line, so that something else stands there

Message = dict[str, str]
Ask = Callable[[Sequence[Mapping[str, str]]], Generator[Event, None, None]]


@dataclass(slots=True)
class Conversation:
    """The messages so far; `system` stays when they are cleared."""

    system: str = ""
    messages: list[Message] = field(default_factory=list)

    def clear(self) -> None:
        """Forgets all but the system's message."""
        self.messages.clear()

    def to_send(self, text: str) -> list[Message]:
        """All that the model reads for its answer to `text`."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.messages, {"role": "user", "content": text}]

    def note(self, text: str, answer: str) -> None:
        """A question with what there is of its answer: one that was stopped counts, too."""
        self.messages.append({"role": "user", "content": text})
        self.messages.append({"role": "assistant", "content": answer})


class Screen:
    """Where answers go: text to `out`; what is said about it to `notes`, on a terminal only."""

    def __init__(self, out: TextIO, notes: TextIO) -> None:
        self._out, self._notes = out, notes
        self._shows_notes = notes.isatty()
        self._has_note = False

    def token(self, text: str) -> None:
        """At once, without what could steer the terminal."""
        self.clear_note()
        self._out.write(printable(text) if self._out.isatty() else text)
        self._out.flush()

    def note(self, text: str) -> None:
        """What the answer waits for; the next word replaces it."""
        if self._shows_notes:
            self._notes.write(f"{_ERASE}{printable(text)[:78]}")
            self._notes.flush()
            self._has_note = True

    def clear_note(self) -> None:
        """Nothing is waited for any more."""
        if self._has_note:
            self._notes.write(_ERASE)
            self._notes.flush()
            self._has_note = False

    def line(self, text: str) -> None:
        """A sentence of ours."""
        self.clear_note()
        self._notes.write(f"{printable(text)}\n")
        self._notes.flush()

    def end_answer(self, has_text: bool) -> None:
        """The next thing stands on a line of its own."""
        self.clear_note()
        if has_text:
            self._out.write("\n")
            self._out.flush()


def answer(ask: Ask, conversation: Conversation, text: str, screen: Screen) -> str:
    """Streams one answer and returns how it ended: `stop`, `length`, or STOPPED by Ctrl-C.

    What there is of a stopped answer stays in the conversation. EndpointError.
    """
    said: list[str] = []
    ended = ""
    try:
        with contextlib.closing(ask(conversation.to_send(text))) as events:  # ends the request
            for event in events:
                match event:
                    case Token(text=piece):
                        said.append(piece)
                        screen.token(piece)
                    # Between its words a note would replace the line that they are on.
                    case Waiting(reason=reason) if not said:
                        screen.note(reason)
                    case Finished(reason=reason):
                        ended = reason
    except KeyboardInterrupt:
        ended = STOPPED
    finally:
        screen.end_answer(bool(said))
    if ended in _REMARKS:
        screen.line(_REMARKS[ended])
    conversation.note(text, "".join(said))
    return ended


def talk(ask: Ask, conversation: Conversation, read: Callable[[str], str], screen: Screen) -> None:
    """Asks `read` for one question after the other; it gets the prompt, and EOFError ends it."""
    while True:
        try:
            text = read(PROMPT).strip()
        except (EOFError, KeyboardInterrupt):
            screen.line("")
            return
        if text == "/exit":
            return
        if text == "/clear":
            conversation.clear()
            screen.line("(cleared)")
        elif _COMMAND.fullmatch(text):
            screen.line(HELP)
        elif text:
            try:
                answer(ask, conversation, text, screen)
            except EndpointError as error:
                screen.line(f"error: {error}")

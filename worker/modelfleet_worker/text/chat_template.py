"""The chat template of a model: what it is given, as transformers gives it, and in which shape.

A template of a text model prints `message.content`. One that was made for several media loops over
it, as over parts like `{"type": "text", "text": ...}`; of a plain text it prints nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations, islice
from typing import Any

from ..errors import InvalidRequestError
from .template_sandbox import render_template
from .tokenizer import ROLES, Message

# Lines of Python: some for any chat, more for each message (real templates run some 30), and never
# more than a second takes, whatever the request is like.
_LINES, _LINES_A_MESSAGE, _MOST_LINES = 100_000, 1_000, 2_000_000
_PROBE_LINES = 20_000
_PROBES = (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",))
_PIECE = re.compile(r"\w{1,8}")
_MOST_PIECES = 64

Parts = frozenset[str]  # the roles whose text becomes a list of parts


class ChatTemplate:
    """Renders chats as transformers' `apply_chat_template` does."""

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: the template's names for them, like bos_token."""
        self._template, self._special_tokens = template, dict(special_tokens)

    def prepare(self) -> None:
        """What the first chat would wait for: compiles the template, and looks what it takes."""
        _ = self._parts

    def render(
        self, messages: Sequence[Message], *, created: float, add_generation_prompt: bool
    ) -> str:
        """The prompt; `created` (Unix seconds) is the template's now.

        Raises InvalidRequestError for what the template refuses, and rather than lose the text of
        the last message of the user.
        """
        text = self._render(
            messages,
            self._parts,
            created=created,
            add_generation_prompt=add_generation_prompt,
            lines=min(_LINES + _LINES_A_MESSAGE * len(messages), _MOST_LINES),
        )
        asked = next((m.content for m in reversed(messages) if m.role == "user"), "")
        if is_lost(asked, text):
            raise InvalidRequestError(
                "the model's chat template leaves the text of the user's last message out of the"
                " prompt: it is made for other messages; send a prompt to /v1/completions instead"
            )
        return text

    @cached_property
    def _parts(self) -> Parts:
        def render(messages: Sequence[Message], parts: Parts) -> str:
            return self._render(
                messages, parts, created=0.0, add_generation_prompt=True, lines=_PROBE_LINES
            )

        return find_parts(render)

    def _render(
        self,
        messages: Sequence[Message],
        parts: Parts,
        *,
        created: float,
        add_generation_prompt: bool,
        lines: int,
    ) -> str:
        variables = {
            **self._special_tokens,
            "messages": [_as_dict(message, parts) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            # It hides transformers' own `strftime_now`: the prompt of a resumed request must not
            # depend on the day, nor on the time zone of the worker.
            "strftime_now": datetime.fromtimestamp(created, UTC).strftime,
        }
        return render_template(self._template, variables, lines)


def _as_dict(message: Message, parts: Parts) -> dict[str, Any]:
    content: Any = message.content
    if message.role in parts:
        content = [{"type": "text", "text": content}]
    named = {"name": message.name} if message.name else {}
    return {"role": message.role, "content": content, **named}


def find_parts(render: Callable[[Sequence[Message], Parts], str]) -> Parts:
    """The roles whose text a template takes as parts, by trying: what it prints decides.

    A short chat is rendered with all texts as they are, then with all as parts, then with those of
    some roles as parts, until every text is in the prompt; else the first of the prompts that show
    most of them counts. A template that takes no system message, or only one message, is tried
    with such a chat. Roles that were not in the chat go as the user's do.
    """
    for roles in _PROBES:
        messages = [Message(role, f"text{i}of{role}") for i, role in enumerate(roles)]
        best, most = None, 0
        for parts in _choices(roles):
            try:
                prompt = render(messages, parts).lower()
            except InvalidRequestError:
                continue
            shown = [_is_shown(m.content, prompt, m.role in parts) for m in messages]
            if shown[-1] and sum(shown) > most:
                best, most = parts, sum(shown)
            if most == len(roles):
                break
        if best is not None:
            return best | (ROLES.difference(roles) if "user" in best else frozenset())
    return frozenset()


def _choices(roles: Sequence[str]) -> Iterator[Parts]:
    distinct = sorted(set(roles))
    for size in (0, len(distinct), *range(1, len(distinct))):
        yield from map(frozenset, combinations(distinct, size))


def _is_shown(text: str, prompt: str, as_part: bool) -> bool:
    """A part that a template for texts prints comes with its quotes: that is not its text."""
    quoted = as_part and re.search(rf"""['"]text['"]: *['"]{text}""", prompt)
    return text in prompt and not quoted


def is_lost(text: str, prompt: str) -> bool:
    """Whether nothing of the text is in the prompt; templates may trim, escape and replace."""
    text = text.strip()
    if not text or text in prompt:
        return False
    prompt = prompt.lower()
    pieces = (piece[0].lower() for piece in islice(_PIECE.finditer(text), _MOST_PIECES))
    return not any(piece in prompt for piece in pieces)

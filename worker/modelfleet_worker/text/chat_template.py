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
from .call_shapes import PLAIN_SHAPE, CallShape, find_shape
from .template_sandbox import render_template
from .tokenizer import ROLES, Chat, Message

# Lines of Python: some for any chat, more for each message (real templates run some 30), and never
# more than a second takes, whatever the request is like.
_LINES, _LINES_A_MESSAGE, _MOST_LINES = 100_000, 1_000, 2_000_000
_LINES_A_VALUE = 200  # of a tool's schema
_PROBE_LINES = 20_000
_PROBES = (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",))
_PIECE = re.compile(r"\w{1,8}")
_MOST_PIECES = 64

_REASONING = ("reasoning_content", "thinking", "reasoning")
_RESERVED = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "strftime_now", "raise_exception")
)

Parts = frozenset[str]  # the roles whose text becomes a list of parts


class ChatTemplate:
    """Renders chats as transformers' `apply_chat_template` does."""

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: the template's names for them, like bos_token."""
        self._template, self._special_tokens = template, dict(special_tokens)

    def prepare(self) -> None:
        """What the first chat would wait for: compiles the template, and looks what it takes."""
        _ = self._parts

    def render(self, chat: Chat) -> str:
        """The prompt.

        Raises InvalidRequestError for what the template refuses, and rather than lose the text of
        the last message of the user, a result or a tool.
        """
        self._check_tools(chat)
        text = self._render(chat, self._parts, self._shape_of(chat), _lines(chat))
        for asked in _must_be_shown(chat.messages):
            if is_lost(asked.content, text):
                raise InvalidRequestError(
                    "the model's chat template leaves the text of the user's last message out of"
                    " the prompt: it is made for other messages; send a prompt to /v1/completions"
                    " instead"
                    if asked.role == "user"
                    else "the model's chat template leaves the result of a tool out of the prompt:"
                    " it has no messages of tools"
                )
        # Some templates show tools beside a message of the user only.
        shown = chat.tools if chat.messages[-1].role == "user" else None
        for name in map(tool_name, shown or ()):
            if name not in text:
                raise InvalidRequestError(
                    f"the model's chat template leaves the tool {name!r} out of the prompt"
                )
        return text

    def _check_tools(self, chat: Chat) -> None:
        if chat.tools and "tools" not in self._template:
            raise InvalidRequestError(
                "this model's chat template has no tools: it was not made for them. Leave 'tools'"
                " out, or serve a model whose template has them"
            )
        for name in chat.arguments or ():
            if name in _RESERVED or name in self._special_tokens:
                raise InvalidRequestError(
                    f"chat_template_kwargs.{name} cannot be set: the request's other fields say it"
                )

    @cached_property
    def _parts(self) -> Parts:
        def render(messages: Sequence[Message], parts: Parts) -> str:
            return self._render(Chat(messages=messages), parts, PLAIN_SHAPE, _PROBE_LINES)

        return find_parts(render)

    def _shape_of(self, chat: Chat) -> CallShape:
        return self._shape if any(m.tool_calls for m in chat.messages) else PLAIN_SHAPE

    @cached_property
    def _shape(self) -> CallShape:
        """Looked for when the first chat with calls comes."""

        def render(messages: Sequence[Message], shape: CallShape) -> str:
            return self._render(Chat(messages=messages), self._parts, shape, _PROBE_LINES)

        return find_shape(render)

    def _render(self, chat: Chat, parts: Parts, shape: CallShape, lines: int) -> str:
        names = {
            str(call.get("id")): str(call["function"]["name"])
            for message in chat.messages
            for call in message.tool_calls
        }
        variables = {
            **self._arguments(chat.arguments or {}),
            **self._special_tokens,
            "messages": [
                _as_dict(message, parts, shape, names, self._reasoning_fields)
                for message in chat.messages
            ],
            "tools": None if chat.tools is None else list(chat.tools),
            "documents": None,
            "add_generation_prompt": chat.add_generation_prompt,
            # It hides transformers' own `strftime_now`: the prompt of a resumed request must not
            # depend on the day, nor on the time zone of the worker.
            "strftime_now": datetime.fromtimestamp(chat.created, UTC).strftime,
        }
        return render_template(self._template, variables, lines)

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the request; an effort also where a template knows only whether to think."""
        arguments = dict(given)
        effort = arguments.get("reasoning_effort")
        if effort is not None and "reasoning_effort" not in self._template:
            arguments.setdefault("enable_thinking", effort != "none")
        return arguments

    @cached_property
    def _reasoning_fields(self) -> tuple[str, ...]:
        """What this template calls the reasoning of a message."""
        return tuple(name for name in _REASONING if name in self._template)


def _lines(chat: Chat) -> int:
    tools = sum(_size(tool) for tool in chat.tools or ())
    return min(_LINES + _LINES_A_MESSAGE * len(chat.messages) + _LINES_A_VALUE * tools, _MOST_LINES)


def _size(value: Any) -> int:
    """Values within a value: templates may write a line or more for each."""
    if isinstance(value, Mapping):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _must_be_shown(messages: Sequence[Message]) -> Iterator[Message]:
    """The last message of the user, and the results that came last."""
    for message in reversed(messages):
        if message.role != "tool":
            break
        yield message
    yield from islice((m for m in reversed(messages) if m.role == "user"), 1)


def tool_name(tool: Mapping[str, Any]) -> str:
    """Of one of OpenAI's tools."""
    return str(tool["function"]["name"])


def _as_dict(
    message: Message,
    parts: Parts,
    shape: CallShape,
    names: Mapping[str, str],
    reasoning: Sequence[str],
) -> dict[str, Any]:
    content: Any = message.content
    if message.tool_calls and not content:
        content = shape.no_content
    elif message.role in parts:
        content = [{"type": "text", "text": content}]
    made: dict[str, Any] = {"role": message.role, "content": content}
    name = message.name or (names.get(message.tool_call_id) if message.role == "tool" else None)
    if name:
        made["name"] = name
    if message.tool_calls:
        made["tool_calls"] = [shape.call(call) for call in message.tool_calls]
    if message.tool_call_id:
        made["tool_call_id"] = shape.call_id(message.tool_call_id)
    if message.reasoning:
        made.update(dict.fromkeys(reasoning, message.reasoning))
    return made


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

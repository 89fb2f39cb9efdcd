"""Chats are rendered as transformers renders them, and never without what the user asked."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.chat_template import ChatTemplate, is_lost
from modelfleet_worker.text.tokenizer import Chat, Message
from prepare_smollm2 import model_folder

NOON = 1_700_000_000.0
CHAT = [
    Message("system", "You are *brief*."),
    Message("user", "  What is 'x' in <b>{{ Größe }}</b>?\n"),
    Message("assistant", 'A "variable" \\ 日本.'),
    Message("user", "And 🚀?", "ann"),
]
TURNS = """{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\\n' }}
{%- endif %}
"""
# What templates of the hub do, in templates of our own.
TEXTS = {
    "tools that are not none": "{% if tools is not none %}{{ tools | tojson }}{% endif %}" + TURNS,
    "documents that are not none": (
        "{% if documents != none %}{{ documents[0].text }}{% endif %}" + TURNS
    ),
    "tools as JSON": "[TOOLS]{{ tools | tojson }}[/TOOLS]{{ documents | tojson }}" + TURNS,
    "tools that may be undefined": (
        "{%- if not tools is defined %}{%- set tools = 'none' %}{%- endif %}"
        "{{ 'Tools: ' ~ tools }}" + TURNS
    ),
    "tools and no tools": "{% if tools %}{{ tools | length }}{% else %}no tools{% endif %}" + TURNS,
    "the options of tojson": (
        "{{ messages[0] | tojson(indent=2) }}{{ messages[2] | tojson(ensure_ascii=True) }}"
        "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}"
    ),
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ sep_token | default('none') }}" + TURNS,
    "the assistant's part is marked": (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "loop controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% if loop.index > 9 %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    ),
    "alternating roles": """{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in turns %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system is defined %}
            {{- "[INST] " + system + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "names and dates": (
        "{{ strftime_now('today') }}{% for m in messages %}"
        "{{ m.name if m.name is defined else m.role }}: {{ m['content'] | trim }}\n{% endfor %}"
    ),
    "macros and dicts": (
        "{% macro turn(m, names=dict(user='U', assistant='A', system='S')) %}"
        "{{ names[m.role] ~ ': ' ~ m.content }}{% endmacro %}"
        "{% for m in messages %}\n  {{ turn(m) }}\n{% endfor %}"
    ),
    "texts and parts": (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}"
        "{% else %}{% for part in m.content %}{{ '#' + part.text }}{% endfor %}{% endif %}"
        "{% endfor %}"
    ),
}
ALL, USERS = frozenset({"system", "user", "assistant"}), frozenset({"user"})
PARTS = {
    "a loop over parts": (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
        "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}",
        ALL,
    ),
    "a filter of parts": (
        "{% for m in messages %}{% for part in m['content'] | selectattr('type', 'equalto', 'text')"
        " %}{{ part.text + ' ' }}{% endfor %}{% endfor %}",
        ALL,
    ),
    "the first part": "{% for m in messages %}{{ m.content[0].text }}{% endfor %}",
    "parts in a macro": (
        "{% macro show(content) %}{% for part in content %}{{ part.text | trim }}{% endfor %}"
        "{% endmacro %}{% set rest = messages[1:] %}"
        "{% for m in rest %}{{ show(m.content) }}{% endfor %}"
    ),
    "a text of the system, parts of the others": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | trim }}{% else %}"
        "{% for part in m.content %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}",
        ALL - {"system"},
    ),
    "parts of the user alone": (
        "{% for m in messages %}{% if m.role == 'user' %}{% for part in m.content %}"
        "{{ part['text'] }}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
        USERS,
    ),
    "parts, and roles that alternate": (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('no system message here') }}{% endif %}"
        "{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
        ALL,
    ),
}


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_folder())


def theirs(template: str, chat: list[Message], parts: frozenset[str], *, generation: bool) -> str:
    """transformers' own rendering, of the shapes that users of it send."""
    messages = [
        {
            "role": m.role,
            "content": [{"type": "text", "text": m.content}] if m.role in parts else m.content,
            **({"name": m.name} if m.name else {}),
        }
        for m in chat
    ]
    return tokenizer().apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=generation
    )


def ours(template: str, chat: list[Message], *, generation: bool = True) -> str:
    chats = ChatTemplate(template, tokenizer().special_tokens_map)
    return chats.render(Chat(messages=chat, created=NOON, add_generation_prompt=generation))


@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("template", TEXTS.values(), ids=TEXTS)
def test_texts_are_rendered_as_transformers_does(template: str, generation: bool):
    expected = theirs(template, CHAT, frozenset(), generation=generation)
    assert ours(template, CHAT, generation=generation) == expected
    assert "🚀" in expected


@pytest.mark.parametrize("case", PARTS.values(), ids=PARTS)
def test_a_template_of_parts_gets_parts(case: str | tuple[str, frozenset[str]]):
    template, parts = (case, ALL) if isinstance(case, str) else case
    chat = CHAT[1:] if "no system" in template else CHAT
    expected = theirs(template, chat, parts, generation=True)
    assert ours(template, chat) == expected
    assert "🚀" in expected


@pytest.mark.parametrize(
    ("template", "chat"),
    [
        pytest.param("Say hello.", CHAT, id="no text at all"),
        pytest.param("{{ messages[0].content }}", CHAT, id="the first message alone"),
        pytest.param(
            "{% for m in messages %}{% for image in m.content | selectattr('image') %}"
            "{{ image }}{% endfor %}{% endfor %}",
            CHAT,
            id="images alone",
        ),
    ],
)
def test_a_prompt_without_the_users_text_is_refused(template: str, chat: list[Message]):
    with pytest.raises(InvalidRequestError, match="leaves the text of the user's last message out"):
        ours(template, chat)


@pytest.mark.parametrize(
    "template",
    [
        pytest.param("{{ messages[-1].content | tojson }}", id="as JSON"),
        pytest.param("{{ messages[-1].content | upper }}", id="in capitals"),
        pytest.param("{{ messages[-1].content | replace('b', '') | e }}", id="changed and escaped"),
        pytest.param("{{ messages[-1].content.split(' ') | join('_') }}", id="cut into words"),
    ],
)
def test_a_template_may_change_the_text(template: str):
    chat = [Message("user", '\n"Bring" me a <better> answer ')]
    assert ours(template, chat) == theirs(template, chat, frozenset(), generation=True)


def test_an_empty_text_is_not_lost():
    assert ours(TURNS, [Message("user", "")]) == "<|user|>\n<|end|>\n<|assistant|>\n"
    assert not is_lost(" \n", "")
    assert is_lost("???", "!")


def test_what_a_template_may_take_has_a_ceiling_whatever_the_request():
    nested = (
        "{% for a in messages %}{% for b in messages %}{% endfor %}{% endfor %}"
        "{{ messages[-1].content }}"
    )
    with pytest.raises(InvalidRequestError, match="runs for longer than 2000000 lines"):
        ours(nested, [Message("user", "hi")] * 50_000)

"""Templates that would run for ever or compute something huge; and real ones that may not be."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.template_sandbox import render_template

SMOLLM2 = Path("~/.cache/modelfleet/models/HuggingFaceTB/SmolLM2-135M-Instruct").expanduser()
# Of the shape of Qwen's: it looks back for the last question, and treats each turn differently.
TURNS = """{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
  {%- set index = (messages | length - 1) - loop.index0 %}
  {%- if ns.last < 0 and message.role == "user" %}{% set ns.last = index %}{% endif %}
{%- endfor %}
{%- for message in messages %}
  {%- set content = message.content | trim %}
  {%- if message.role == "assistant" and "</think>" in content %}
    {%- set content = content.split("</think>")[-1].lstrip("\\n") %}
  {%- endif %}
  {{- "<|im_start|>" + message.role + "\\n" + content + "<|im_end|>" + "\\n" * 2 }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}{% endif %}"""


def messages(count: int) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"turn {i}"} for i in range(count)]


def rendered(template: str, count: int = 1) -> str:
    return render_template(
        template,
        {"messages": messages(count), "add_generation_prompt": True},
        100_000 + 1_000 * count,
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "runs for longer than 101000 lines",
            id="loops within loops",
        ),
        pytest.param(
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "recursion|longer than",
            id="recursion",
        ),
        pytest.param(
            "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
            "{{ f(64) }}",
            "runs for longer than",
            id="a tree of calls",
        ),
        pytest.param("{{ range(10**9) | list }}", "Range too big", id="a long range"),
        pytest.param("{{ 10 ** (10 ** 10) }}", r"\*\* makes something too large", id="a power"),
        pytest.param(
            "{% set n = namespace(x=10**9) %}{% for i in range(99) %}"
            "{% set n.x = n.x * n.x %}{% endfor %}",
            r"\* makes something too large",
            id="squares of squares",
        ),
        pytest.param("{{ 'x' * 10**10 }}", r"\* makes something too large", id="a long text"),
        pytest.param("{{ 10**10 * [1] }}", r"\* makes something too large", id="a long list"),
        pytest.param("{{ lipsum(n=10**9) }}", "runs for longer than", id="a long lorem ipsum"),
        pytest.param("{{ ''.__class__.mro() }}", "unsafe", id="out of the sandbox"),
        pytest.param("{% for %}", "refuses these messages", id="no template at all"),
        pytest.param("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion", id="nested"),
        pytest.param("{{ 1 / 0 }}", "division by zero", id="a division by zero"),
        pytest.param("{{ nobody.anything }}", "'nobody' is undefined", id="an unknown name"),
        pytest.param("{{ '\\ud83d' }}", "surrogates not allowed", id="half of a character"),
    ],
)
def test_a_hostile_template_is_an_invalid_request_and_soon(template: str, message: str):
    began = time.process_time()
    with pytest.raises(InvalidRequestError, match=message):
        rendered(template)
    assert time.process_time() - began < 10


def test_a_trace_that_was_there_is_there_again():
    seen: list[str] = []

    def theirs(_frame: object, event: str, _argument: object) -> None:
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(theirs)
    try:
        rendered("{{ messages[0].content }}")
        assert sys.gettrace() is theirs
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("count", [1, 100, 5000])
def test_a_real_template_may_have_any_number_of_messages(count: int):
    template = (SMOLLM2 / "chat_template.jinja").read_text()
    assert rendered(template, count).count("<|im_start|>") >= count
    assert rendered(TURNS, count).count("<|im_start|>") == count + 1
    assert "turn 0<|im_end|>\n\n" in rendered(TURNS, count)


def test_arithmetic_is_as_everywhere():
    assert rendered(
        "{{ 3 * 4 }} {{ 2 ** 10 }} {{ 'ab' * 2 }} {{ 2 ** 0.5 > 1 }} {{ 1.5 * 2 }}"
    ) == ("12 1024 abab True 3.0")

"""Words of others at a terminal: neither markup nor control characters."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from modelfleet_operator.terminal import printable, render_text


def shown(event: str, **fields: object) -> str:
    out = io.StringIO()
    console = Console(file=out, color_system=None, width=200)
    console.print(render_text(None, "warning", {"event": event, **fields}), soft_wrap=True)
    return out.getvalue()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param("pip install a[b]", id="an extra"),
        pytest.param("[/red] [bold]", id="markup"),
        pytest.param("[link=http://a]x[/]", id="a link"),
        pytest.param("ends in \\", id="a backslash"),
        pytest.param("C:\\\\[a]", id="a backslash before a bracket"),
    ],
)
def test_log_lines_show_words_as_they_are(words: str):
    line = shown(words, model="default/smol", source=words, timestamp="10:31:02", exception=words)
    assert line == f"10:31:02 smol: {words} (source {words})\n{words}\n"


def test_control_characters_are_shown_and_not_sent():
    assert "\x1b" not in shown("a\x1b]0;title\x07", error="\x9b2J")
    assert printable("a\tb\nc\x1bd") == "a\tb\nc\N{REPLACEMENT CHARACTER}d"

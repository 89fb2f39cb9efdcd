"""The live line of a model that loads."""

from __future__ import annotations

import io

from rich.console import Console

from modelfleet_operator.decisions.status import ColdStartProgress
from modelfleet_operator.local.bars import LoadBars


def bars() -> tuple[LoadBars, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=80, color_system=None, _environ={"TERM": "xterm"}
    )
    return LoadBars(console, lambda: 1000.0), out


def test_each_model_has_one_line_with_percent_phase_and_what_is_left():
    shown, out = bars()
    shown.show("default/smol", ColdStartProgress(phase="Weights", percent=40, eta=1012.0))
    shown.show("b/other[x]", ColdStartProgress(phase="Starting", percent=3))
    text = out.getvalue()
    assert "smol" in text
    assert "40%" in text
    assert "weights, about 12 s" in text
    assert "b/other[x]" in text
    assert shown.models == ["default/smol", "b/other[x]"]


def test_the_line_goes_when_the_model_is_ready_or_waits_for_the_next_try():
    shown, _ = bars()
    shown.show("default/smol", ColdStartProgress(phase="Weights", percent=40))
    shown.show("default/smol", None)
    assert shown.models == []
    shown.show("default/smol", ColdStartProgress(phase="BackOff"))
    assert shown.models == []
    shown.show("default/smol", ColdStartProgress(phase="Starting"))
    assert shown.models == ["default/smol"], "it can come again"
    shown.end()
    assert shown.models == []


def test_an_eta_that_has_passed_is_not_shown():
    shown, out = bars()
    shown.show("default/smol", ColdStartProgress(phase="Warmup", percent=95, eta=999.0))
    shown.end()
    assert "about" not in out.getvalue()

"""One JSON line for each request, which is a trace for `modelfleet simulate`."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from gateway_doubles import DEFAULTS, ScriptedWorker, running_fleet
from modelfleet_gateway.errors import StartupError
from modelfleet_gateway.http.access_log import AccessLog
from modelfleet_operator.simulate.trace import read_trace

SECRET = "the text of a client"


async def test_every_request_is_one_line_without_its_text(tmp_path: Path):
    path = tmp_path / "access.jsonl"
    options = replace(DEFAULTS, access_log=str(path))
    begun = time.time()
    async with running_fleet(ScriptedWorker(tokens=8), options=options) as fleet:
        for stream in (False, True):
            answer = await fleet.client.completions.create(
                model="tiny", prompt=SECRET, seed=7, stream=stream
            )
            if stream:
                assert [chunk async for chunk in answer]
        with pytest.raises(openai.NotFoundError):
            await fleet.client.completions.create(model="none", prompt=SECRET)
    text = path.read_text()
    assert SECRET not in text
    whole, streamed, unknown = map(json.loads, text.splitlines())
    assert whole.keys() == streamed.keys() == unknown.keys()
    for line in (whole, streamed):
        assert (line["event"], line["status"], line["model"]) == ("access", 200, "default/tiny")
        assert line["prompt_tokens"] > 0
        assert line["completion_tokens"] == 8
        assert begun <= line["arrival"] <= time.time()
        assert 0 < line["ttft"] <= line["seconds"]
    assert whole["request"] != streamed["request"]
    assert (unknown["status"], unknown["model"], unknown["ttft"]) == (404, "", None)
    assert (unknown["prompt_tokens"], unknown["completion_tokens"]) == (None, None)
    trace = read_trace(path)
    assert (len(trace), list(trace.answers)) == (2, [8, 8])
    assert set(trace.models) == {"default/tiny"}


def test_a_log_that_cannot_be_written_is_said_at_the_start(tmp_path: Path):
    with pytest.raises(StartupError, match=r"--access-log: .*none/log cannot be written: No such"):
        AccessLog(str(tmp_path / "none" / "log"))

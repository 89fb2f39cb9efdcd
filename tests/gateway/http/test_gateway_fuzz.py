"""Requests that are nearly right: none is a 5xx, breaks an answer's shape or leaves anything."""

import asyncio
from pathlib import Path

import pytest

from gateway_doubles import ScriptedWorker, eventually, running_fleet
from http_fuzz import fuzz
from modelfleet_gateway.options import ConnectionLimits, Options

QUICK = Options(
    operator="",
    limits=ConnectionLimits(header_time=0.2, body_time=0.2, idle_time=0.2, linger_time=0.2),
)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("seed", range(2))
async def test_what_is_nearly_right_harms_nothing(seed: int, capfd: pytest.CaptureFixture[str]):
    worker = ScriptedWorker(tokens=2, slots=1000)
    async with running_fleet(worker, options=QUICK) as fleet:
        await fleet.client.completions.create(model="tiny", prompt="hi")
        await fuzz(fleet.url, seed + 100, 10)
        await eventually(lambda: not fleet.gateway.app.bodies.budget.used)
        tasks, files = len(asyncio.all_tasks()), descriptors()
        statuses = await fuzz(fleet.url, seed, 400)
        assert {200, 400, 404, 405, 415} <= set(statuses), "it meets each of them"
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        await eventually(lambda: descriptors() <= files)
        assert not fleet.gateway.app.bodies.budget.used
        assert not worker.running
        await fleet.client.completions.create(model="tiny", prompt="hi")
    written = capfd.readouterr()
    assert "Traceback" not in written.err + written.out

"""Ten notices under traffic, with real processes: no request is refused and no text differs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway_doubles import eventually
from local_fleet import manifest
from modelfleet_operator.decisions.interruption import Notice
from modelfleet_operator.decisions.signs import NoticeKind
from noticed_fleet import NoticedFleet, noticed_fleet

pytestmark = pytest.mark.integration

SHORT = Notice(kind=NoticeKind.NODE_SHUTDOWN, source="condition Ready", seconds=15.0)
STREAMS, TOKENS, NOTICES = 16, 120, 10


async def answer(fleet: NoticedFleet, number: int) -> str:
    """One whole streamed answer."""
    stream: Any = await fleet.gateway.client.completions.create(
        model="smollm2", prompt=f"prompt {number}", max_tokens=TOKENS, seed=7, stream=True,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])


async def test_ten_notices_under_traffic_cost_no_request(tmp_path: Path):
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"load_seconds": 0.2}')
    model = manifest(scaling={"minReplicas": 2, "maxReplicas": 2}, engine={"maxSequences": 32})
    paced = ("--device", "paced", "--calibration", str(calibration))
    async with noticed_fleet(tmp_path, model, *paced) as fleet:
        await eventually(lambda: len(fleet.ready()) == 2, within=60)
        undisturbed = [await answer(fleet, number) for number in range(4)]
        for _ in range(NOTICES):
            await eventually(lambda: len(fleet.ready()) == 2, within=60)
            asked = [asyncio.create_task(answer(fleet, n % 4)) for n in range(STREAMS)]
            going = fleet.ready()[0]
            await eventually(lambda going=going: fleet.taken(going) > 0)  # type: ignore[misc]
            fleet.tell(going, SHORT)
            assert await asyncio.gather(*asked) == [undisturbed[n % 4] for n in range(STREAMS)]
            await eventually(
                lambda going=going: going.uid not in {w.uid for w in fleet.workers()},  # type: ignore[misc]
                within=30,
            )
        assert await fleet.counted("modelfleet_gateway_refusals_total") == 0
        assert await fleet.counted("modelfleet_gateway_resumed_total") > 0


async def test_the_last_one_is_not_let_go_before_another_is_ready(tmp_path: Path):
    calibration = tmp_path / "calibration.json"
    calibration.write_text('{"load_seconds": 1.0}')
    paced = ("--device", "paced", "--calibration", str(calibration))
    async with noticed_fleet(tmp_path, manifest(), *paced) as fleet:
        await eventually(lambda: len(fleet.ready()) == 1, within=60)
        (only,) = fleet.ready()
        fleet.tell(only, SHORT)
        expected = await answer(fleet, 0)
        while only.uid in {w.uid for w in fleet.workers()}:
            assert await answer(fleet, 0) == expected
        assert len(fleet.ready()) == 1

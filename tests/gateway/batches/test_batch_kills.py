"""Gateways and workers are killed at any moment: nothing is lost, nothing written runs twice."""

import asyncio
import contextlib
import random
import signal
import sqlite3
from collections import Counter
from pathlib import Path

from batch_files import create, ended, lines_of, prompts
from gateway_doubles import ScriptedWorker, eventually, expected_text, model_view
from gateway_processes import gateway_process, operator_of
from modelfleet_proto import fleet_pb2

LINES = 60


def flags(folder: Path) -> tuple[str, ...]:
    return ("--batch-dir", str(folder / "store"), "--batch-lease", "1")


def written(folder: Path) -> set[int]:
    """Lines with a result on the disk."""
    with contextlib.closing(sqlite3.connect(folder / "store" / "batches.sqlite3")) as store:
        rows = store.execute("SELECT number FROM lines WHERE succeeded IS NOT NULL")
        return {number for (number,) in rows}


def ran(worker: ScriptedWorker, since: int = 0) -> list[int]:
    """Numbers of the lines that a worker was asked for."""
    return [int(request.prompt[1:]) for request in worker.requests[since:]]


async def answers(client, batch) -> list[str]:
    """Of all lines, which must have succeeded, each once and in order."""
    assert batch.status == "completed"
    lines = await lines_of(client, batch.output_file_id)
    assert [one["custom_id"] for one in lines] == [f"c{i}" for i in range(LINES)]
    return [one["response"]["body"]["choices"][0]["text"] for one in lines]


async def test_gateways_and_workers_are_killed_at_random_moments(tmp_path: Path):
    chance = random.Random(1)
    workers = [ScriptedWorker(worker_id=f"w-{i}", slots=6, pace=0.01) for i in range(2)]
    async with operator_of(*workers) as operator:
        operator.view.models[0].CopyFrom(model_view(*workers))
        batch_id, checks = "", list[tuple[set[int], list[int]]]()
        while True:
            (tmp_path / "gateway.address").unlink(missing_ok=True)
            async with gateway_process(operator, tmp_path, *flags(tmp_path)) as gateway:
                if not batch_id:
                    batch_id = (await create(gateway.client, prompts(LINES))).id
                seen = len(written(tmp_path)) if checks else 0
                goal = min(seen + chance.randint(5, 25), LINES)
                ending = asyncio.create_task(ended(gateway.client, batch_id, within=60))
                progress = asyncio.create_task(reach(tmp_path, goal))
                await asyncio.wait({ending, progress}, return_when=asyncio.FIRST_COMPLETED)
                progress.cancel()
                if ending.done():
                    texts = await answers(gateway.client, ending.result())
                    break
                ending.cancel()
                if chance.random() < 0.5:
                    await replace(chance.choice(workers), operator, workers)
                await asyncio.sleep(chance.random() * 0.1)
                gateway.process.kill()
                await gateway.process.wait()
                # What is on the disk when all is dead is never computed again.
                checks.append((written(tmp_path), [len(worker.requests) for worker in workers]))
        assert len(checks) >= 3
        assert texts == [expected_text(f"p{i}", 4) for i in range(LINES)]
        for done, asked in checks:
            for worker, before in zip(workers, asked, strict=True):
                assert done.isdisjoint(ran(worker, before))


async def reach(folder: Path, count: int) -> None:
    """Returns when so many lines are on the disk."""
    while len(written(folder)) < count:
        await asyncio.sleep(0.005)


async def replace(worker: ScriptedWorker, operator, workers) -> None:
    """It is killed with everything that runs, and another process takes its place."""
    await worker.kill()
    worker.running = 0
    await worker.start()
    view = fleet_pb2.View(term=1, version=operator.view.version + 1, models=[model_view(*workers)])
    operator.push(view)


async def test_two_gateways_never_run_one_line(tmp_path: Path):
    # A refused line is asked for again, so there are slots for all that both may run at once.
    worker = ScriptedWorker(slots=256, pace=0.005)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # None of them dies: a lease that a busy machine lets pass is what other tests are about.
    long = ("--batch-dir", str(tmp_path / "store"), "--batch-lease", "600")
    async with (
        operator_of(worker) as operator,
        gateway_process(operator, tmp_path / "a", *long) as a,
        gateway_process(operator, tmp_path / "b", *long) as b,
    ):
        made = [await create(one.client, prompts(LINES)) for one in (a, b, a)]
        for one in made:
            batch = await ended(b.client, one.id, within=60)
            assert len(await answers(a.client, batch)) == LINES
        assert set(Counter(ran(worker)).values()) == {3}  # each of three batches has each once


async def test_a_gateway_that_drains_hands_its_batch_over(tmp_path: Path):
    worker = ScriptedWorker(slots=4, pace=0.01)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    long = ("--batch-dir", str(tmp_path / "store"), "--batch-lease", "600")
    async with (
        operator_of(worker) as operator,
        gateway_process(operator, tmp_path / "a", *long) as a,
    ):
        made = await create(a.client, prompts(LINES))
        await reach(tmp_path, 5)
        a.process.send_signal(signal.SIGTERM)
        assert await a.process.wait() == 0
        assert len(worker.requests) == len(written(tmp_path))  # what it had begun, it finished
        async with gateway_process(operator, tmp_path / "b", *long) as b:
            await answers(b.client, await ended(b.client, made.id, within=60))
        assert len(worker.requests) == LINES


async def test_one_that_stood_still_writes_nothing_of_what_another_took_over(tmp_path: Path):
    worker = ScriptedWorker(slots=4, pace=0.02)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with (
        operator_of(worker) as operator,
        gateway_process(operator, tmp_path / "a", *flags(tmp_path)) as a,
    ):
        made = await create(a.client, prompts(LINES))
        await reach(tmp_path, 5)
        a.process.send_signal(signal.SIGSTOP)
        async with gateway_process(operator, tmp_path / "b", *flags(tmp_path)) as b:
            await reach(tmp_path, 20)
            a.process.send_signal(signal.SIGCONT)
            texts = await answers(b.client, await ended(b.client, made.id, within=60))
            assert texts == [expected_text(f"p{i}", 4) for i in range(LINES)]
        # At most what was in work when it stopped was computed a second time.
        assert len(worker.requests) <= LINES + worker.slots
        await eventually(lambda: worker.running == 0)

"""The loop in its thread: commands in, outputs and failures out."""

from __future__ import annotations

import pickle
import threading
import time

import pytest

from gated_engine import Gate, Running, add
from modelfleet_process.calibration import Calibration
from modelfleet_worker.devices.paced import PacedRunner
from modelfleet_worker.engine.messages import Abort, Add, EngineFailure
from modelfleet_worker.engine.request import FinishReason, Request


def test_delivers_a_token_a_step_and_the_end_once():
    with Running(Gate(opened=True)) as run:
        run.engine.submit(add())
        outputs = run.until_finished("a")
    assert [o.ids for o in outputs] == [(7,)] * 3
    assert [o.finished for o in outputs] == [None, None, FinishReason.LENGTH]
    assert (run.engine.stats.finished, run.engine.stats.completion_tokens) == (1, 3)
    assert run.engine.stats.prompt_tokens == 3


class Preparing(Gate):
    """There is so much to prepare that it never ends, if the test does not want it to."""

    def __init__(self, pieces: int) -> None:
        super().__init__(opened=True)
        self.left = pieces
        self.begun = threading.Event()
        self.done = threading.Event()

    def prepare(self, used: int) -> bool:
        assert used == 0
        self.begun.set()
        self.left -= 1
        if self.left < 0:
            self.done.set()
        return self.left >= 0


def test_the_device_prepares_while_the_engine_is_idle_until_it_has_nothing_left():
    runner = Preparing(5)
    with Running(runner) as run:
        assert runner.done.wait(timeout=10)
        assert runner.left == -1  # once it said so, it was not asked again
        runner.left = 3
        runner.done.clear()
        run.engine.submit(add())
        assert len(run.until_finished("a")) == 3
        assert runner.done.wait(timeout=10)  # but after the next request


def test_a_request_does_not_wait_for_the_device_to_have_prepared_all():
    runner = Preparing(10**9)
    with Running(runner) as run:
        assert runner.begun.wait(timeout=10)
        run.engine.submit(add())
        assert len(run.until_finished("a")) == 3


def test_a_stop_token_is_the_last_id():
    with Running(Gate(opened=True)) as run:
        run.engine.submit(add(stop=7))
        assert [(o.ids, o.finished) for o in run.until_finished("a")] == [((7,), FinishReason.STOP)]


def test_an_aborted_request_is_gone_at_the_next_plan():
    gate = Gate()
    with Running(gate) as run:
        run.engine.submit(add("a", max_tokens=1000))
        run.engine.submit(add("b", max_tokens=1000))
        assert gate.entered.acquire(timeout=10)
        run.engine.submit(Abort("a"))  # while the step computes
        run.engine.submit(Abort("unknown"))
        gate.steps.release(2)
        assert [o.request_id for o in run.step().outputs] == ["a", "b"]
        assert [o.request_id for o in run.step().outputs] == ["b"]
        assert run.engine.stats.aborted == 1
        run.engine.submit(add("a"))  # the name is free again
        gate.steps.release(10**6)


def test_an_abort_of_the_last_request_leaves_the_engine_idle():
    gate = Gate()
    with Running(gate) as run:
        run.engine.submit(add(max_tokens=1000))
        assert gate.entered.acquire(timeout=10)
        run.engine.submit(Abort("a"))
        gate.steps.release()
        assert [o.request_id for o in run.step().outputs] == ["a"]
        idle = run.step()
        assert (idle.outputs, idle.stats.running, idle.stats.kv_blocks_used) == ((), 0, 0)
        assert run.engine.stalled(time.monotonic() + 3600) is None


def test_a_broken_runner_is_a_failure_and_no_silent_death():
    gate = Gate(opened=True)
    gate.error = RuntimeError("out of luck")
    with Running(gate) as run:
        run.engine.submit(add())
        failure = run.delivered.get(timeout=10)
        assert failure == EngineFailure("RuntimeError: out of luck")
        run.engine.submit(add("later"))  # later callers hear of it, too
        assert run.delivered.get(timeout=10) == failure
        assert run.engine.stalled(time.monotonic()) == "engine failed: RuntimeError: out of luck"


def test_stalls_when_work_exists_and_no_step_finishes():
    gate = Gate()
    with Running(gate) as run:
        assert run.engine.stalled(time.monotonic() + 3600) is None  # idle is not stalled
        run.engine.submit(add(max_tokens=2))
        assert gate.entered.acquire(timeout=10)
        now = time.monotonic()
        assert run.engine.stalled(now + 5, after=10) is None
        assert run.engine.stalled(now + 15, after=10) == (
            "engine stalled: 1 requests, but no step finished for 15 s (after step 0)"
        )
        gate.steps.release()
        run.step()
        assert run.engine.stalled(time.monotonic() + 5, after=10) is None  # it recovers by itself
        gate.steps.release()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (add(max_tokens=5000), "the context holds 2048"),
        (Add(Request(request_id="a", prompt_ids=(100,), max_tokens=1)), "not in the vocabulary"),
    ],
)
def test_takes_no_request_that_would_wait_for_ever(command: Add, reason: str):
    with Running(Gate(opened=True)) as run, pytest.raises(ValueError, match=reason):
        run.engine.submit(command)


def test_takes_no_second_request_of_one_name():
    gate = Gate()
    with Running(gate) as run:
        run.engine.submit(add())
        with pytest.raises(ValueError, match="'a' is being served already"):
            run.engine.submit(add())
        gate.steps.release(10**6)


def test_stops_with_work_left():
    with Running(PacedRunner(Calibration())) as run:
        run.engine.submit(add(max_tokens=1000))
        run.step()
    assert run.engine.stats.running == 1


def test_all_that_crosses_the_seam_is_picklable():
    with Running(Gate(opened=True)) as run:
        run.engine.submit(pickle.loads(pickle.dumps(add())))
        output = run.step()
    assert pickle.loads(pickle.dumps(output)) == output

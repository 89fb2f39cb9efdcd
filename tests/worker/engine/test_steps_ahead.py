"""How many steps are launched before one is read, on a device that computes in order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from gated_engine import Running, add
from modelfleet_worker.engine.device import MAX_STEPS_IN_FLIGHT, Runner, SampledToken
from modelfleet_worker.engine.messages import Add
from modelfleet_worker.engine.request import Request, SamplingParams
from modelfleet_worker.engine.scheduler import Chunk, steps_ahead


class InOrder(Runner):
    """Says 7; a step takes so long, and is computed when it is read."""

    max_steps_in_flight = MAX_STEPS_IN_FLIGHT

    def __init__(self, seconds: float) -> None:
        self.num_blocks = 32
        self.unread = 0
        self.most_behind_a_prompt = self.most_unread = 0
        self._seconds, self._prompts = seconds, 0

    def launch(self, chunks: Sequence[Chunk]) -> InOrderStep:
        self.most_unread = max(self.most_unread, self.unread)
        if self._prompts:
            self.most_behind_a_prompt = max(self.most_behind_a_prompt, self.unread)
        self.unread += 1
        step = InOrderStep(
            self, sum(c.samples for c in chunks), any(c.num_scheduled_tokens > 1 for c in chunks)
        )
        self._prompts += step.has_prompt
        return step

    def read(self, step: InOrderStep) -> None:
        time.sleep(self._seconds)
        self.unread -= 1
        self._prompts -= step.has_prompt


@dataclass(frozen=True)
class InOrderStep:
    runner: InOrder
    rows: int
    has_prompt: bool

    def result(self) -> list[SampledToken]:
        self.runner.read(self)
        return [SampledToken(7)] * self.rows


def served(runner: InOrder, *requests: Add) -> None:
    with Running(runner) as run:
        for request in requests:
            run.engine.submit(request)
        missing = {request.request.request_id: request.request.max_tokens for request in requests}
        while any(missing.values()):
            for output in run.step().outputs:
                missing[output.request_id] -= len(output.ids)


@pytest.mark.parametrize(
    ("step_seconds", "most", "steps"),
    [
        pytest.param(0.006, 4, 3, id="short steps fill the batch of 20 ms"),
        pytest.param(0.030, 4, 1, id="of long ones one is ahead"),
        pytest.param(0.002, 4, 4, id="never more than the device takes"),
        pytest.param(0.002, 1, 1, id="or than the requests allow"),
        pytest.param(0.0, 4, 1, id="one while the duration is unknown"),
        pytest.param(0.006, 0, 0, id="none on a device that computes at once"),
    ],
)
def test_steps_ahead(step_seconds: float, most: int, steps: int):
    assert steps_ahead(step_seconds, 0.02, most) == steps


def test_as_many_as_are_delivered_together():
    runner = InOrder(0)
    served(runner, add("a", max_tokens=60))
    assert runner.most_unread == MAX_STEPS_IN_FLIGHT


def test_one_if_a_step_takes_long():
    runner = InOrder(0.05)
    served(runner, add("a", max_tokens=8))
    assert runner.most_unread == 1


def test_none_behind_a_prompt():
    runner = InOrder(0)
    served(runner, add("a", max_tokens=40), add("b", max_tokens=40), add("c", max_tokens=40))
    assert runner.most_behind_a_prompt == 0


@pytest.mark.parametrize("sampling", [{"logprobs": 0}, {"presence_penalty": 1.0}], ids=str)
def test_one_if_a_request_needs_history(sampling: dict[str, float]):
    runner = InOrder(0)
    params = SamplingParams(**sampling)
    request = Request(request_id="a", prompt_ids=(1, 2, 3), sampling=params, max_tokens=40)
    served(runner, Add(request))
    assert runner.most_unread == 1

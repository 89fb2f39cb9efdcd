"""One worker's engine on simulated time: continuous batching, a step at a time.

It follows the worker's scheduler (modelfleet_worker/engine/scheduler.py): each step fills a budget
of tokens with decodes, then with chunks of prefill; requests are admitted in order while slots and
the KV cache have room, and when the cache is full the youngest sequence is preempted and computed
anew. Steps that only decode are all alike until a sequence ends or a request comes, so they are
taken as one *run*: what is simulated is exact to the step, and costs three events a request.

Not simulated: prefix caching (traces have no text) and steps that are launched ahead.
"""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush

from modelfleet_process.calibration import Calibration

from ..decisions.worker_speed import Work

# Of a request: its number, tokens to prefill, tokens to answer, and its place in the queue.
Pending = list[int]
REQUEST, PREFILL, ANSWER, ORDER = range(4)
NEVER = math.inf


class Engine:
    """Call `advance` when its `next_event` has come; `submit` at any time before that."""

    __slots__ = (
        "_answering",
        "_busy_since",
        "_cached",
        "_completing",
        "_decode_times",
        "_is_run",
        "_joined",
        "_kv_tokens",
        "_max_batch_tokens",
        "_max_sequences",
        "_prefill_time",
        "_prefilling",
        "_run_started",
        "_step_seconds",
        "_steps",
        "_steps_known",
        "_waiting",
        "busy_seconds",
        "completion_tokens",
        "finished",
        "next_event",
        "prompt_squares",
        "prompt_tokens",
    )  # fmt: skip

    def __init__(
        self, calibration: Calibration, *, max_sequences: int, max_batch_tokens: int
    ) -> None:
        # Looked up, since it is asked for at every event: seconds with so many decodes.
        self._decode_times = [calibration.step_time(n, 0) for n in range(max_sequences + 1)]
        self._prefill_time = calibration.prefill_token_seconds
        self._max_sequences = max_sequences
        self._max_batch_tokens = max_batch_tokens
        self._kv_tokens = calibration.kv_tokens
        self._steps = 0  # that ended so far: a sequence with n tokens to go ends at _steps + n
        self._answering: list[tuple[int, int, int, int]] = []  # heap: last step, order, request, KV
        self._prefilling: deque[Pending] = deque()
        self._waiting: deque[Pending] = deque()
        self._completing: list[Pending] = []  # whose prefill ends with this step
        self._cached = 0  # tokens in the KV cache, prompts that were admitted count whole
        self._joined = 0
        self._is_run = False
        self._run_started = 0.0
        self._steps_known = 0  # that end at next_event
        self._step_seconds = 0.0
        self._busy_since = NEVER
        self.busy_seconds = 0.0
        self.next_event = NEVER
        # As the worker's Stats count them: a prompt when its first token is out.
        self.prompt_tokens = 0
        self.prompt_squares = 0
        self.completion_tokens = 0
        self.finished = 0

    def submit(self, now: float, request: int, prefill: int, answer: int) -> None:
        """A request with tokens to prefill and to answer (1 at least), which fits the cache."""
        self._joined += 1
        self._waiting.append([request, prefill, answer, self._joined])
        if self.next_event == NEVER:
            self._busy_since = now
            self._begin(now)
        elif self._is_run:
            self._cut_run(now)

    def advance(self) -> tuple[list[int], list[int]]:
        """Ends the step or run at `next_event`; returns requests with a first token, and ended."""
        now, steps, answering = self.next_event, self._steps_known, self._answering
        self._steps += steps
        self._cached += steps * len(answering)
        self.completion_tokens += steps * len(answering)
        first: list[int] = []
        ended: list[int] = []
        while answering and answering[0][0] <= self._steps:
            _, _, request, cached = heappop(answering)
            self._cached -= cached
            ended.append(request)
        if self._completing:
            self.completion_tokens += len(self._completing)
            for request, prefill, answer, order in self._completing:
                first.append(request)
                self.prompt_tokens += prefill
                self.prompt_squares += prefill * prefill
                if answer == 1:
                    self._cached -= prefill
                    ended.append(request)
                else:
                    last = self._steps + answer - 1
                    heappush(answering, (last, order, request, prefill + answer - 1))
            self._completing = []
        self.finished += len(ended)
        self._begin(now)
        return first, ended

    def evict(self, now: float, most: int | None = None) -> list[tuple[int, int, int]]:
        """Ends with what it has, the oldest first: (request, tokens to prefill, tokens to answer).

        Of a request that had tokens, they are to be prefilled elsewhere with its prompt. `most`: no
        more than so many; all others go on, and the step that is computed ends as it would have.
        """
        done = self._steps + self._steps_of_run(now)
        left: list[tuple[int, int, int, int]] = []
        for last, order, request, cached in self._answering:
            answer = max(last - done, 1)
            left.append((order, request, cached - answer + 1, answer))
        left.extend(
            (pending[ORDER], pending[REQUEST], pending[PREFILL], pending[ANSWER])
            for pending in (*self._completing, *self._prefilling, *self._waiting)
        )
        left.sort()
        gone = left if most is None else left[:most]
        if len(gone) == len(left):
            self.completion_tokens += (done - self._steps) * len(self._answering)
            self._answering.clear()
            self._prefilling.clear()
            self._waiting.clear()
            self._completing = []
            self._cached = 0
            self._become_idle(now)
        elif gone:
            self._take_out({entry[0] for entry in gone}, done)
            if self._is_run:
                self._cut_run(now)
        return [entry[1:] for entry in gone]

    def _take_out(self, orders: set[int], done: int) -> None:
        """Some go and others stay; `done`: steps so far, those of the run that goes on too."""
        for entry in [entry for entry in self._answering if entry[1] in orders]:
            self._answering.remove(entry)
            self._cached -= entry[3] - (entry[0] - self._steps)  # what it had when the run began
            self.completion_tokens += done - self._steps
        self._answering.sort()  # a sorted list is a heap
        for admitted in (self._completing, self._prefilling):
            self._cached -= sum(p[PREFILL] for p in admitted if p[ORDER] in orders)
        self._completing = [p for p in self._completing if p[ORDER] not in orders]
        self._prefilling = deque(p for p in self._prefilling if p[ORDER] not in orders)
        self._waiting = deque(p for p in self._waiting if p[ORDER] not in orders)

    def _steps_of_run(self, now: float) -> int:
        """Steps that are over of the run that goes on."""
        if not self._is_run or self._step_seconds <= 0:
            return 0
        return min(int((now - self._run_started) / self._step_seconds), self._steps_known)

    def busy_until(self, now: float) -> float:
        """Seconds that it computed so far."""
        return self.busy_seconds + max(now - self._busy_since, 0.0)

    def work(self, now: float) -> Work:
        """What it did so far, as its Stats say."""
        done = self._steps_of_run(now)
        return Work(
            busy_seconds=self.busy_until(now),
            steps=self._steps + done,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens + done * len(self._answering),
            finished=self.finished,
            prompt_squares=self.prompt_squares,
        )

    def _begin(self, now: float) -> None:
        """Plans the next step, or a run of decodes."""
        answering = self._answering
        is_short = False  # of cache: who was preempted just now must not take it back
        decodes = len(answering)
        while self._cached + decodes > self._kv_tokens and decodes + len(self._prefilling) > 1:
            self._preempt()
            is_short, decodes = True, len(answering)
        if self._prefilling or (self._waiting and not is_short):
            chunk = self._fill(self._max_batch_tokens - decodes)
            if chunk:
                self._is_run = False
                self._steps_known = 1
                self.next_event = now + self._decode_times[decodes] + chunk * self._prefill_time
                return
        if not decodes:
            self._become_idle(now)
            return
        steps = answering[0][0] - self._steps
        if self._cached + steps * decodes > self._kv_tokens or self._waiting:
            # Until the cache is full; or step by step while the first in the queue finds no room.
            steps = max((self._kv_tokens - self._cached) // decodes, 1)
            steps = min(steps, answering[0][0] - self._steps)
        self._is_run, self._run_started, self._steps_known = True, now, steps
        self._step_seconds = self._decode_times[decodes]
        self.next_event = now + steps * self._step_seconds

    def _fill(self, budget: int) -> int:
        """Tokens of prefill that the step takes; notes the prefills that it completes."""
        left = budget
        prefilling, waiting = self._prefilling, self._waiting
        while left > 0 and prefilling:
            pending = prefilling[0]
            left = self._prefill(pending, left)
            if left < 0:
                return budget
            prefilling.popleft()
        while (
            left > 0
            and waiting
            and len(self._answering) + len(self._completing) < (self._max_sequences)
        ):
            pending = waiting[0]
            if self._cached + pending[PREFILL] > self._kv_tokens:
                break  # strictly in order, as the worker's scheduler
            waiting.popleft()
            self._cached += pending[PREFILL]
            left = self._prefill([*pending, pending[PREFILL]], left)
            if left < 0:
                return budget
        return budget - left

    def _prefill(self, pending: Pending, left: int) -> int:
        """Takes its next chunk; returns what is left of the budget, -1 if it was not enough.

        The last value of an admitted one is what is left to prefill.
        """
        if pending[-1] > left:
            pending[-1] -= left
            if not self._prefilling or self._prefilling[0] is not pending:
                self._prefilling.append(pending)
            return -1
        left -= pending[-1]
        self._completing.append(pending[:4])
        return left

    def _cut_run(self, now: float) -> None:
        """A request came: the run ends with the step that is being computed."""
        if self._step_seconds <= 0:
            return
        steps = max(math.ceil((now - self._run_started) / self._step_seconds - 1e-9), 1)
        if steps < self._steps_known:
            self._steps_known = steps
            self.next_event = self._run_started + steps * self._step_seconds

    def _preempt(self) -> None:
        """The youngest gives its place up, and is prefilled again with what it had."""
        youngest = max(self._answering, key=lambda entry: entry[1], default=None)
        prefilling = max(self._prefilling, key=lambda pending: pending[ORDER], default=None)
        if prefilling is not None and (youngest is None or youngest[1] < prefilling[ORDER]):
            self._prefilling.remove(prefilling)
            self._cached -= prefilling[PREFILL]
            self._waiting.appendleft(prefilling[:4])
        elif youngest is not None:
            self._answering.remove(youngest)
            self._answering.sort()  # a sorted list is a heap
            last, order, request, cached = youngest
            answer = last - self._steps
            self._cached -= cached - answer
            self._waiting.appendleft([request, cached - answer + 1, answer, order])

    def _become_idle(self, now: float) -> None:
        self.busy_seconds = self.busy_until(now)
        self._busy_since, self.next_event, self._is_run = NEVER, NEVER, False

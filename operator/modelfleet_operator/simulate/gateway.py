"""The gateway on simulated time: a bounded queue, hold timeouts, the least loaded worker.

It follows `modelfleet_gateway/routing/queue.py`, `request_queue.py` and `workers.py`: streams to
resume go before new requests, of these the next one is chosen by the same function
(`modelfleet_process/overload.py`); a slot is taken on the worker with the least requests, of equal
ones on the first by name.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from modelfleet_process.overload import FifoTurns, OverloadPolicy, most_admitted, newest_is_next

from ..decisions.latency import Judged

if TYPE_CHECKING:
    from .worker import SimulatedWorker

Stream = tuple[int, int, int]  # request, tokens to prefill, tokens to answer
SMOOTHING: Final = 1 / 16  # weight of the latest request in the mean time that one takes


@dataclass(slots=True)
class Counted:
    """What the gateway tells the operator since its start (fleet.proto)."""

    last_request: float = -math.inf  # seconds
    requests: int = 0
    first_tokens: int = 0
    late: int = 0
    answers: int = 0
    slow: int = 0

    @property
    def judged(self) -> Judged:
        """How requests fared."""
        return Judged(self.first_tokens, self.late, self.answers, self.slow)


class Gateway:
    """`submit` starts a request on a worker that the gateway has chosen."""

    __slots__ = (
        "_answers",
        "_arrivals",
        "_most",
        "_policy",
        "_prompts",
        "_service_seconds",
        "_submit",
        "_turns",
        "counted",
        "max_queue",
        "queue",
        "ready",
        "resumed",
        "running",
    )

    def __init__(
        self,
        max_queue: int,
        policy: OverloadPolicy,
        arrivals: list[float],
        prompts: list[int],
        answers: list[int],
        submit: Callable[[float, SimulatedWorker, int, int, int], None],
    ) -> None:
        self.max_queue = max_queue
        self.queue: deque[int] = deque()  # new requests, in order of arrival
        self.resumed: deque[Stream] = deque()  # streams that lost their worker
        self.running = 0  # requests that workers have
        self.ready: list[SimulatedWorker] = []  # that requests are sent to, by name
        self.counted = Counted()
        self._policy = policy
        self._most: int | None = None  # new requests that one worker gets; None: its slots
        self._turns = None if policy.order == "Fifo" else FifoTurns()
        self._service_seconds = 0.0  # that a request is on a worker, a moving mean; 0: not known
        self._arrivals, self._prompts, self._answers = arrivals, prompts, answers
        self._submit = submit

    @property
    def waiting(self) -> int:
        """New requests and streams to resume."""
        return len(self.queue) + len(self.resumed)

    def set_target_in_flight(self, target: int) -> None:
        """As the operator's view says; 0: not known."""
        self._most = most_admitted(self._policy, target)

    def note_service(self, seconds: float) -> None:
        """A request was on its worker for so long."""
        mean = self._service_seconds
        self._service_seconds = mean + SMOOTHING * (seconds - mean) if mean else seconds

    def arrive(self, now: float, request: int) -> bool:
        """Takes a new request; False: the queue is full (429)."""
        if not self.queue and not self.resumed:
            worker = self._choose(self._most)
            if worker is not None:
                self._submit(now, worker, request, self._prompts[request], self._answers[request])
                return True
        elif len(self.queue) >= max(self.max_queue, 1):
            return False
        self.queue.append(request)
        if self._turns is not None:
            self._turns.arrive(request, now, self._policy.hold_timeout)
        return True

    def assign(self, now: float) -> None:
        """Gives free slots to those that wait. Call it when a slot or a worker is free."""
        while self.resumed:
            worker = self._choose(None)
            if worker is None:
                return
            self._submit(now, worker, *self.resumed.popleft())
        while self.queue:
            worker = self._choose(self._most)
            if worker is None:
                return
            request = self.queue.pop() if self._is_newest_next(now) else self.queue.popleft()
            if self._turns is not None:
                self._turns.serve(request, now)
            self._submit(now, worker, request, self._prompts[request], self._answers[request])
        if self._turns is not None:
            self._turns.clear()

    def time_out(self, now: float) -> list[int]:
        """Takes out those whose hold timeout is over, but who was passed over (FifoTurns)."""
        held: list[int] = []
        over: list[int] = []
        while self.queue and self._arrivals[self.queue[0]] + self._policy.hold_timeout <= now:
            request = self.queue.popleft()
            if self._turns is not None and self._turns.had_turn(request):
                held.append(request)
                continue
            over.append(request)
            if self._turns is not None:
                self._turns.leave(request)
        self.queue.extendleft(reversed(held))
        return over

    def next_timeout(self, now: float) -> float | None:
        """When the next hold timeout is over; None: nobody waits for one."""
        for request in self.queue:
            at = self._arrivals[request] + self._policy.hold_timeout
            if at > now:
                return at
        return None

    def _is_newest_next(self, now: float) -> bool:
        policy = self._policy
        oldest_wait = now - self._arrivals[self.queue[0]]
        if policy.order == "Fifo" or oldest_wait <= policy.target:
            return False
        most = self._most
        return newest_is_next(
            policy,
            oldest_wait=oldest_wait,
            waiting=len(self.queue),
            slots=sum(w.slots if most is None else min(w.slots, most) for w in self.ready),
            service_seconds=self._service_seconds,
        )

    def _choose(self, most: int | None) -> SimulatedWorker | None:
        least, chosen = 1 << 60, None
        for worker in self.ready:
            if worker.outstanding < least:
                least, chosen = worker.outstanding, worker
        if chosen is None or least >= (chosen.slots if most is None else min(chosen.slots, most)):
            return None
        return chosen

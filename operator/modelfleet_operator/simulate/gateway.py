"""The gateway on simulated time: a bounded queue, hold timeouts, the least loaded worker.

It follows `modelfleet_gateway/routing/queue.py` and `workers.py`: streams to resume go before new
requests, new ones first in, first out; a slot is taken on the worker with the least requests, of
equal ones on the first by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import SimulatedWorker

Stream = tuple[int, int, int]  # request, tokens to prefill, tokens to answer


class Gateway:
    """`submit` starts a request on a worker that the gateway has chosen."""

    __slots__ = (
        "_answers",
        "_prompts",
        "_submit",
        "max_queue",
        "queue",
        "ready",
        "resumed",
        "running",
    )

    def __init__(
        self,
        max_queue: int,
        prompts: list[int],
        answers: list[int],
        submit: Callable[[float, SimulatedWorker, int, int, int], None],
    ) -> None:
        self.max_queue = max_queue
        self.queue: deque[int] = deque()  # new requests, in order of arrival
        self.resumed: deque[Stream] = deque()  # streams that lost their worker
        self.running = 0  # requests that workers have
        self.ready: list[SimulatedWorker] = []  # that requests are sent to, by name
        self._prompts, self._answers = prompts, answers
        self._submit = submit

    @property
    def waiting(self) -> int:
        """New requests and streams to resume."""
        return len(self.queue) + len(self.resumed)

    def arrive(self, now: float, request: int) -> bool:
        """Takes a new request; False: the queue is full (429)."""
        if not self.queue and not self.resumed:
            worker = self._choose()
            if worker is not None:
                self._submit(now, worker, request, self._prompts[request], self._answers[request])
                return True
        elif len(self.queue) >= max(self.max_queue, 1):
            return False
        self.queue.append(request)
        return True

    def assign(self, now: float) -> None:
        """Gives free slots to those that wait. Call it when a slot or a worker is free."""
        while self.resumed or self.queue:
            worker = self._choose()
            if worker is None:
                return
            if self.resumed:
                self._submit(now, worker, *self.resumed.popleft())
            else:
                request = self.queue.popleft()
                self._submit(now, worker, request, self._prompts[request], self._answers[request])

    def _choose(self) -> SimulatedWorker | None:
        least, chosen = 1 << 60, None
        for worker in self.ready:
            if worker.outstanding < least:
                least, chosen = worker.outstanding, worker
        return chosen if chosen is not None and least < chosen.slots else None

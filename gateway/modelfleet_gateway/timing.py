"""How fast tokens came."""

from __future__ import annotations

import asyncio

from modelfleet_proto import worker_pb2

from .metrics import ModelMeter


class Timing:
    """Of one request, from its arrival."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()
        self._first: dict[int, float] = {}  # by choice

    @property
    def elapsed(self) -> float:
        """Seconds since its arrival."""
        return self._loop.time() - self._arrived

    def note(
        self, index: int, event: worker_pb2.Tokens | worker_pb2.Finished, meter: ModelMeter
    ) -> None:
        """A choice brought something."""
        now = self._loop.time()
        if isinstance(event, worker_pb2.Tokens):
            if event.ids and index not in self._first:
                self._first[index] = now
                meter.ttft.observe(now - self._arrived)
        elif event.completion_tokens > 1 and index in self._first:
            meter.tpot.observe((now - self._first[index]) / (event.completion_tokens - 1))

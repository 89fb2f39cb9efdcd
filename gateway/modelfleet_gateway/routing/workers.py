"""The workers of the view: their channels, their Stats, and what this gateway runs there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2, worker_pb2_grpc

from .channels import METADATA, open_channel
from .view import WorkerRoute

SILENCE: Final = 5.0  # a worker that sends no Stats for so long is a stopped worker; seconds
FIRST_PAUSE: Final = 0.05  # of a back-off, doubled up to the longest
LONGEST_PAUSE: Final = 1.0
# In these states running requests go on: a draining worker hands them over itself.
WORKING: Final = (worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING)

log = structlog.get_logger()

GenerateCall = grpc.aio.UnaryStreamCall[worker_pb2.GenerateRequest, worker_pb2.GenerateResponse]


class Slot:
    """One slot of a worker, taken by one choice until released."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.was_aborted = False  # we cancelled the call: its worker went silent or failed
        self.accepted = False
        self._call: GenerateCall | None = None

    def start_call(self, request: worker_pb2.GenerateRequest) -> GenerateCall:
        """Begins the call that this slot is for."""
        self._call = self.worker.stub.Generate(request, metadata=METADATA)
        if self.was_aborted:
            self._call.cancel()
        return self._call

    def mark_accepted(self) -> None:
        """The worker has the request in its engine."""
        self.accepted = True
        self.worker.on_accepted()

    def abort(self) -> None:
        """Ends the call: its reader gets asyncio.CancelledError and sees `was_aborted`."""
        self.was_aborted = True
        if self._call is not None:
            self._call.cancel()

    def release(self) -> None:
        """Gives the slot back and cancels what still runs; a second time is a no-op."""
        if self._call is not None and not self._call.done():
            self._call.cancel()
        self.worker.release_slot(self)


class Worker:
    """One worker, watched for as long as `run` runs."""

    def __init__(self, route: WorkerRoute, model: str, on_change: Callable[[], None]) -> None:
        self.worker_id = route.worker_id
        self.address = route.address
        self.revision = route.revision
        self.model = model
        self.routable = route.routable  # the operator's word
        self.stats: worker_pb2.Stats | None = None
        self._channel = open_channel(route.address)
        self.stub = worker_pb2_grpc.WorkerStub(self._channel)
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._taken_slots: set[Slot] = set()
        self._peak = 0  # most slots since the last Stats
        self._others = 0  # requests of other gateways, never over-estimated
        self._heard = self._loop.time()
        self._live = False  # its Stats stream is up and not silent
        self._suspect = False  # it failed a call, and was not heard from since
        self._refusals = 0  # RESOURCE_EXHAUSTED in a row
        self._full = False
        self._refused_because = ""  # the last refusal of its Stats stream, logged once
        self._idle = asyncio.Event()

    @property
    def reachable(self) -> bool:
        """Whether it is heard and this gateway would route to it, were it ready."""
        return self._live and not self._suspect

    @property
    def ready(self) -> bool:
        """Whether this gateway would route to it, slots aside."""
        return (
            self.routable
            and self.reachable
            and self.stats is not None
            and self.stats.state == worker_pb2.WORKER_STATE_READY
            and self.stats.model == self.model
        )

    @property
    def draining(self) -> bool:
        """Whether it said that it drains."""
        return self.stats is not None and self.stats.state == worker_pb2.WORKER_STATE_DRAINING

    @property
    def model_digest(self) -> str:
        """Of the model it holds; empty until known."""
        return self.stats.model_digest if self.stats else ""

    @property
    def free_slots(self) -> int:
        """Requests it would take now; 0 when it is not ready."""
        if not self.ready or self._full or self.stats is None:
            return 0
        return max(0, self.stats.slots - self.outstanding)

    @property
    def outstanding(self) -> int:
        """Requests it has, as far as is known."""
        return len(self._taken_slots) + self._others

    @property
    def running(self) -> int:
        """Requests of this gateway."""
        return len(self._taken_slots)

    def take_slot(self) -> Slot:
        """Takes a slot."""
        slot = Slot(self)
        self._taken_slots.add(slot)
        self._peak = max(self._peak, len(self._taken_slots))
        return slot

    def release_slot(self, slot: Slot) -> None:
        """Frees a slot; use `Slot.release`."""
        if slot in self._taken_slots:
            self._taken_slots.remove(slot)
            if slot.accepted:  # one that was refused has freed nothing
                self._full = False
            self._idle.set()
            self._on_change()

    def on_accepted(self) -> None:
        """It took a request: it is not full after all."""
        self._refusals = 0

    def mark_suspect(self) -> None:
        """Routes nothing here until its next Stats."""
        self._suspect = True

    def mark_full(self) -> None:
        """Routes nothing here until its next Stats, a free slot of ours, or a growing pause."""
        self._full = True
        pause = min(FIRST_PAUSE * 2**self._refusals, LONGEST_PAUSE)
        self._refusals += 1
        self._loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._full = False
        self._on_change()

    async def idle(self) -> None:
        """Returns when this gateway has nothing running there."""
        while self._taken_slots:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Closes the channel; what still runs there ends."""
        self._live = False
        await self._channel.close()

    async def watch(self) -> None:
        """Holds the Stats stream, for ever."""
        pause = FIRST_PAUSE
        while True:
            try:
                call = self.stub.WatchStats(worker_pb2.StatsRequest(), metadata=METADATA)
                while True:
                    async with asyncio.timeout(SILENCE):
                        stats = await call.read()
                    if not isinstance(stats, worker_pb2.Stats):  # the end of the stream
                        reason = "it ended its Stats stream"
                        break
                    pause = FIRST_PAUSE
                    self.on_stats(stats)
            except TimeoutError:
                reason = f"silent for {SILENCE:.0f} s"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self._refused(reason)
            self._lost(reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def on_stats(self, stats: worker_pb2.Stats) -> None:
        """Takes what the worker says of itself; call it for each Stats.

        Stats lag behind our own count. They cannot hold more requests of ours than we had at once
        since the last Stats, so what is above that peak belongs to other gateways.
        """
        self._others = max(0, stats.running + stats.waiting - self._peak)
        self._peak = len(self._taken_slots)
        before = self.stats.state if self.stats else None
        self.stats = stats
        self._heard = self._loop.time()
        self._live, self._suspect, self._full = True, False, False
        if stats.state != before:
            name = worker_pb2.WorkerState.Name(stats.state).removeprefix("WORKER_STATE_")
            log.info(
                "worker", model=self.model, worker=self.worker_id, state=name, why=stats.message
            )
        if stats.state not in WORKING:
            self._abort_calls()
        self._on_change()

    def _refused(self, reason: str) -> None:
        """It is there, but will not talk to this gateway: another version, or no worker at all."""
        if reason != self._refused_because:
            self._refused_because = reason
            log.error("worker refuses us", model=self.model, worker=self.worker_id, reason=reason)

    def _lost(self, reason: str) -> None:
        if self._live:
            log.warning("worker not heard", model=self.model, worker=self.worker_id, reason=reason)
            self._live = False
            self._on_change()
        if self._loop.time() - self._heard >= SILENCE:
            self._abort_calls()

    def _abort_calls(self) -> None:
        for slot in self._taken_slots:
            slot.abort()


def choose_worker(workers: Iterable[Worker], *, digest: str = "", avoid: str = "") -> Worker | None:
    """The least loaded worker of those with a free slot; ties go to the first.

    `digest`: only a worker of this model_digest may resume a stream. `avoid`: id of the worker that
    failed the request last; chosen only when there is no other.
    """
    able = [
        worker
        for worker in workers
        if worker.free_slots > 0 and (not digest or worker.model_digest == digest)
    ]
    return min(able, key=lambda w: (w.worker_id == avoid, w.outstanding), default=None)

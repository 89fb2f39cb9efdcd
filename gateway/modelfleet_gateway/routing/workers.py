"""The workers of the view: their Stats streams, their slots and their calls.

The words for a worker's life, as a gateway sees it. Three sources say them:

| word | source | meaning, and what this gateway does |
|---|---|---|
| in the view | view | it exists: its Stats are watched |
| routable | view | new requests may go there; not routable: none, running calls continue |
| standby, loading | Stats | it has no model yet: no requests; a call still running is aborted |
| draining | Stats | it takes no new requests and finishes or hands over the running ones |
| failed | Stats | its load or its engine failed: no requests; running calls are aborted |
| connected | stream | its Stats stream is up; disconnected for STATS_TIMEOUT: calls are aborted |
| suspect | our calls | a call failed since its last Stats: no requests until the next Stats |
| full | our calls | it had no slot for a request: none until Stats, a free slot or a pause |
| reachable | | connected and not suspect; this goes to the operator |
| ready | | routable, reachable, and its Stats say READY with this model: it gets requests |
| removed | view | it left the view: no requests; closed once its last call has ended |

The usual order: in the view, loading, ready, not routable, draining, removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2, worker_pb2_grpc

from .channels import METADATA, open_channel
from .send_gate import SendGate
from .view import WorkerRoute

STATS_TIMEOUT: Final = 5.0  # seconds without Stats after which a worker counts as disconnected
FIRST_PAUSE: Final = 0.05  # seconds of a back-off, doubled up to the longest
LONGEST_PAUSE: Final = 1.0
# In these states running calls continue: a draining worker hands them over itself.
RUNNING_STATES: Final = (worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING)

log = structlog.get_logger()

GENERATE: Final = "/modelfleet.v1alpha1.Worker/Generate"

Serialize = Callable[[], bytes]
GenerateCall = grpc.aio.UnaryStreamCall[Serialize, worker_pb2.GenerateResponse]


class Slot:
    """One slot of a worker, taken by one choice until released."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.was_aborted = False  # we cancelled the call: its worker disconnected or failed
        self.accepted = False
        self._call: GenerateCall | None = None
        self._leave_gate: Callable[[], None] | None = None

    async def start_call(self, request: Serialize, size: int, gate: SendGate) -> GenerateCall:
        """Starts the Generate call that this slot is for, when `size` bytes may be sent."""
        self._leave_gate = await gate.enter(size)
        self._call = self.worker.generate(request, metadata=METADATA)
        if self.was_aborted:
            self._call.cancel()
        return self._call

    def mark_accepted(self) -> None:
        """The worker has the request in its engine."""
        self.accepted = True
        self._leave()
        self.worker.on_accepted()

    def abort(self) -> None:
        """Ends the call: its reader gets asyncio.CancelledError and sees `was_aborted`."""
        self.was_aborted = True
        if self._call is not None:
            self._call.cancel()

    def release(self) -> None:
        """Gives the slot back and cancels its call if it still runs; no-op the second time."""
        if self._call is not None and not self._call.done():
            self._call.cancel()
        self._leave()
        self.worker.release_slot(self)

    def _leave(self) -> None:
        leave, self._leave_gate = self._leave_gate, None
        if leave is not None:
            leave()


class Worker:
    """One worker of the view. Run `watch` for as long as it is in the view or has calls."""

    def __init__(self, route: WorkerRoute, model: str, on_change: Callable[[], None]) -> None:
        self.worker_id = route.worker_id
        self.address = route.address
        self.revision = route.revision
        self.model = model
        self.routable = route.routable  # as the view says
        self.stats: worker_pb2.Stats | None = None
        self._channel = open_channel(route.address)
        self.stub = worker_pb2_grpc.WorkerStub(self._channel)
        # A call keeps what it was made with to its end: not the request, only how to make it.
        self.generate = self._channel.unary_stream(
            GENERATE,
            request_serializer=_serialized,
            response_deserializer=worker_pb2.GenerateResponse.FromString,
        )
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._taken_slots: set[Slot] = set()
        self._peak = 0  # most slots taken at once since the last Stats
        self._others = 0  # requests of other gateways, never over-estimated
        self._last_stats_at = self._loop.time()
        self._connected = False  # its Stats stream is up
        self._suspect = False  # a call failed since its last Stats
        self._times_full = 0  # RESOURCE_EXHAUSTED in a row
        self._full = False
        self._logged_error = ""  # of its Stats stream, to log each one once
        self._idle = asyncio.Event()

    @property
    def reachable(self) -> bool:
        """Whether it is connected and not suspect: its Stats count."""
        return self._connected and not self._suspect

    @property
    def ready(self) -> bool:
        """Whether it gets requests when it has a free slot."""
        return (
            self.routable
            and self.reachable
            and self.stats is not None
            and self.stats.state == worker_pb2.WORKER_STATE_READY
            and self.stats.model == self.model
        )

    @property
    def draining(self) -> bool:
        """Whether its Stats say that it drains."""
        return self.stats is not None and self.stats.state == worker_pb2.WORKER_STATE_DRAINING

    @property
    def model_digest(self) -> str:
        """Of the model it holds; empty until known."""
        return self.stats.model_digest if self.stats else ""

    @property
    def free_slots(self) -> int:
        """Requests that it would accept now; 0 when it is not ready."""
        if not self.ready or self._full or self.stats is None:
            return 0
        return max(0, self.stats.slots - self.outstanding)

    @property
    def outstanding(self) -> int:
        """Requests that it has from all gateways, as far as is known."""
        return len(self._taken_slots) + self._others

    @property
    def running(self) -> int:
        """Requests that it has from this gateway."""
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
            if slot.accepted:  # a refused request had no slot in the worker
                self._full = False
            self._idle.set()
            self._on_change()

    def on_accepted(self) -> None:
        """It accepted a request, so it is not full: the back-off starts anew."""
        self._times_full = 0

    def mark_suspect(self) -> None:
        """A call failed: no requests until its next Stats."""
        self._suspect = True

    def mark_full(self) -> None:
        """It had no slot: no requests until Stats come, a slot of ours is free or a pause ends."""
        self._full = True
        pause = min(FIRST_PAUSE * 2**self._times_full, LONGEST_PAUSE)
        self._times_full += 1
        self._loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._full = False
        self._on_change()

    async def wait_until_idle(self) -> None:
        """Returns when this gateway has no calls there."""
        while self._taken_slots:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Closes the channel, which ends all calls."""
        self._connected = False
        await self._channel.close()

    async def watch(self) -> None:
        """Reads the Stats stream and reconnects it, until it is cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                call = self.stub.WatchStats(worker_pb2.StatsRequest(), metadata=METADATA)
                while True:
                    async with asyncio.timeout(STATS_TIMEOUT):
                        stats = await call.read()
                    if not isinstance(stats, worker_pb2.Stats):  # the end of the stream
                        reason = "it ended its Stats stream"
                        break
                    pause = FIRST_PAUSE
                    self.on_stats(stats)
            except TimeoutError:
                reason = f"no Stats for {STATS_TIMEOUT:.0f} s"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    self._log_refusal(reason)
            self._on_disconnect(reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def on_stats(self, stats: worker_pb2.Stats) -> None:
        """Takes the worker's own state and load; call it for each Stats.

        Stats lag behind our own count. They cannot hold more requests of ours than we had at once
        since the last Stats, so what is above that peak belongs to other gateways.
        """
        self._others = max(0, stats.running + stats.waiting - self._peak)
        self._peak = len(self._taken_slots)
        before = self.stats.state if self.stats else None
        self.stats = stats
        self._last_stats_at = self._loop.time()
        self._connected, self._suspect, self._full = True, False, False
        if stats.state != before:
            name = worker_pb2.WorkerState.Name(stats.state).removeprefix("WORKER_STATE_")
            log.info(
                "worker", model=self.model, worker=self.worker_id, state=name, why=stats.message
            )
        if stats.state not in RUNNING_STATES:
            self._abort_calls()
        self._on_change()

    def _log_refusal(self, reason: str) -> None:
        """The address answers, but refuses the stream: another version, or not a worker."""
        if reason != self._logged_error:
            self._logged_error = reason
            log.error(
                "worker refuses this gateway",
                model=self.model,
                worker=self.worker_id,
                reason=reason,
            )

    def _on_disconnect(self, reason: str) -> None:
        if self._connected:
            log.warning(
                "worker disconnected", model=self.model, worker=self.worker_id, reason=reason
            )
            self._connected = False
            self._on_change()
        if self._loop.time() - self._last_stats_at >= STATS_TIMEOUT:
            self._abort_calls()

    def _abort_calls(self) -> None:
        for slot in self._taken_slots:
            slot.abort()


def _serialized(request: Serialize) -> bytes:
    return request()


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

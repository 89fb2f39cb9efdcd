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
| changed | Stats | it says READY with another model_digest than the first time: no requests |
| reachable | | connected and not suspect; this goes to the operator |
| ready | | routable, reachable, not changed, and READY with this model: it gets requests |
| removed | view | it left the view: no requests; closed once its last call has ended |

The usual order: in the view, loading, ready, not routable, draining, removed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from modelfleet_proto import worker_pb2, worker_pb2_grpc

from .calls import MOVED, YIELDED, Call, CountUnread, Serialize, SharedStream
from .channels import METADATA, open_channel
from .embed_call import EmbedCall
from .failover import LostCall, may_be_cause
from .single_call import SingleCall
from .tasks import Task
from .view import WorkerRoute

if TYPE_CHECKING:
    from .queued_choice import QueuedChoice

STATS_TIMEOUT: Final = 5.0  # seconds without Stats after which a worker counts as disconnected
FIRST_PAUSE: Final = 0.05  # seconds of a back-off, doubled up to the longest
LONGEST_PAUSE: Final = 1.0
SMOOTHING: Final = 1 / 16  # weight of the latest request in the mean time that one takes
# In these states running calls continue: a draining worker hands them over itself.
RUNNING_STATES: Final = (worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING)

log = structlog.get_logger()


StatsCall = grpc.aio.UnaryStreamCall[worker_pb2.StatsRequest, worker_pb2.Stats]


class Slot:
    """One slot of a worker, taken by one choice until released."""

    def __init__(self, worker: Worker, losses: int = 0, batch: QueuedChoice | None = None) -> None:
        self.worker = worker
        self.batch = batch  # who has it, if that is a batch request
        self.losses = losses  # workers that its request was lost with before (failover.LostCall)
        self.was_aborted = False  # we cancelled the call: its worker disconnected or failed
        self.was_moved = False  # the same, since its worker is about to go
        self.was_yielded = False  # the same, since an interactive request waits
        self.accepted = False
        self.served = False  # it had a token of this worker, so it is not what breaks it
        self.is_excused = False  # another call is why the worker is lost, if it is
        self._late = True  # not sent yet, or when the worker had been silent for a while
        self._sent_at = 0.0  # seconds on the loop's clock
        self._call: Call | EmbedCall | None = None

    @property
    def is_on_trial(self) -> bool:
        """Its request was lost with a worker before, and has no token of this one yet."""
        return self.losses > 0 and not self.served

    def start_call(self, request: Serialize, count_unread: CountUnread) -> Call:
        """Sends the request that this slot is for."""
        self._sent_at, self._late = self.worker.note_call()
        call = self._call = self.worker.call(request, count_unread)
        self._end_if_lost()
        return call

    def start_embedding(self, request: bytes) -> EmbedCall:
        """Sends the EmbedRequest, serialized, that this slot is for."""
        self._sent_at, self._late = self.worker.note_call()
        call = self._call = self.worker.embed(request)
        self._end_if_lost()
        return call

    def _end_if_lost(self) -> None:
        if self._call is not None and self.was_moved:
            self._call.cancel(YIELDED if self.was_yielded else MOVED)
        elif self._call is not None and self.was_aborted:
            self._call.cancel()

    def mark_accepted(self) -> None:
        """The worker has the request in its engine."""
        self.accepted = True
        self.worker.on_accepted()

    def as_lost(self) -> LostCall:
        """What decides whether its request may be why the worker was lost."""
        return LostCall(served=self.served, late=self._late, losses=self.losses)

    def seconds(self, now: float) -> float:
        """Since the call was sent; `now` is on the loop's clock."""
        return now - self._sent_at

    def abort(self) -> None:
        """Ends the call, since its worker is lost; `was_aborted` says so to its reader."""
        self.was_aborted = True
        if self._call is not None:
            self._call.cancel()

    def move(self) -> None:
        """Ends the call, so that its request goes on elsewhere."""
        self.was_moved = True
        if self._call is not None:
            self._call.cancel(MOVED)

    def make_room(self) -> None:
        """Ends the call of a batch request, which goes on when there is a slot for it again."""
        if self.batch is not None and not self.served:
            self.batch.yielded_unserved = True
        self.was_moved = self.was_yielded = True
        if self._call is not None:
            self._call.cancel(YIELDED)

    def release(self) -> None:
        """Gives the slot back and ends its call if it still runs; no-op the second time."""
        if self._call is not None:
            self._call.close()
            self._call = None
        self.worker.release_slot(self)


class Worker:
    """One worker of the view: watched for as long as it is there or has calls."""

    def __init__(self, route: WorkerRoute, model: str, on_change: Callable[[], None]) -> None:
        self.worker_id = route.worker_id
        self.address = route.address
        self.revision = route.revision
        self.model = model
        self.routable = route.routable  # as the view says
        self.hands_over = route.hand_over  # as the view says
        self.stats: worker_pb2.Stats | None = None
        self.first_digest = ""  # the model_digest that this process was READY with first
        self._instance_id = ""  # of the process
        self._channel = open_channel(route.address)
        self.stub = worker_pb2_grpc.WorkerStub(self._channel)
        self._shared_stream: SharedStream | None = None  # of all requests; made with the first
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
        self._logged_digest = ""  # to log each change once
        self._idle = asyncio.Event()
        self.service_seconds = 0.0  # that a request has a slot, a moving mean; 0: not known

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
            and self.stats.model_digest == self.first_digest
        )

    def has(self, needs: frozenset[str]) -> bool:
        """Whether its version can do what a request needs."""
        return not needs or (self.stats is not None and needs <= set(self.stats.features))

    @property
    def draining(self) -> bool:
        """Whether its Stats say that it drains."""
        return self.stats is not None and self.stats.state == worker_pb2.WORKER_STATE_DRAINING

    @property
    def model_digest(self) -> str:
        """Of the model it holds; empty until known."""
        return self.stats.model_digest if self.stats else ""

    @property
    def weights_digest(self) -> str:
        """Of the same, whatever computes it; empty: only like workers continue its streams."""
        return self.stats.weights_digest if self.stats else ""

    @property
    def task(self) -> str:
        """What its model is for; older versions say nothing, and generate."""
        return (self.stats.task if self.stats else "") or Task.GENERATE

    @property
    def takes_requests(self) -> bool:
        """Whether it gets requests, now or with its next Stats: full or suspect does not matter."""
        return (
            self.routable
            and self._connected
            and self.stats is not None
            and self.stats.state == worker_pb2.WORKER_STATE_READY
        )

    @property
    def slots(self) -> int:
        """Requests that it takes at once; 0 until its Stats say it."""
        return self.stats.slots if self.stats else 0

    @property
    def free_slots(self) -> int:
        """Requests that it would accept now; 0 when it is not ready."""
        if not self.ready or self._full:
            return 0
        return max(0, self.slots - self.outstanding)

    @property
    def outstanding(self) -> int:
        """Requests that it has from all gateways, as far as is known."""
        return len(self._taken_slots) + self._others

    @property
    def others(self) -> int:
        """Requests that it has from other gateways, never over-estimated."""
        return self._others

    @property
    def running(self) -> int:
        """Requests that it has from this gateway."""
        return len(self._taken_slots)

    def move_calls(self, room: int) -> None:
        """Has its calls go on elsewhere, as many as have room there; those under way count."""
        for slot in self._taken_slots:
            if room <= 0:
                return
            room -= 1
            if not slot.was_moved:
                slot.move()

    @property
    def batch_slots(self) -> list[Slot]:
        """Those that batch requests have."""
        return [slot for slot in self._taken_slots if slot.batch is not None]

    def take_slot(self, losses: int = 0, batch: QueuedChoice | None = None) -> Slot:
        """Takes a slot for a request that was lost with so many workers before."""
        slot = Slot(self, losses, batch)
        self._taken_slots.add(slot)
        self._peak = max(self._peak, len(self._taken_slots))
        return slot

    def release_slot(self, slot: Slot) -> None:
        """Frees a slot; use `Slot.release`."""
        if slot in self._taken_slots:
            self._taken_slots.remove(slot)
            if slot.accepted:  # a refused request had no slot in the worker
                self._full = False
                if not slot.was_moved:
                    self._note_service(slot.seconds(self._loop.time()))
            self._idle.set()
            self._on_change()

    def _note_service(self, seconds: float) -> None:
        mean = self.service_seconds
        self.service_seconds = mean + SMOOTHING * (seconds - mean) if mean else seconds

    def on_accepted(self) -> None:
        """It accepted a request, so it is not full: the back-off starts anew."""
        self._times_full = 0

    def call(self, request: Serialize, count_unread: CountUnread) -> Call:
        """Sends a request there; use `Slot.start_call`."""
        if self.stats is None or not self.stats.takes_many:
            return SingleCall(self._channel, request, count_unread)
        if self._shared_stream is None or self._shared_stream.has_ended:
            self._shared_stream = SharedStream(self._channel)
        return self._shared_stream.start(request, count_unread)

    def embed(self, request: bytes) -> EmbedCall:
        """Sends an EmbedRequest there; use `Slot.start_embedding`."""
        return EmbedCall(self._channel, request)

    @property
    def has_trial(self) -> bool:
        """Whether a request that may have broken another worker has no token here yet."""
        return any(slot.is_on_trial for slot in self._taken_slots)

    def note_call(self) -> tuple[float, bool]:
        """When a call is sent, and whether the worker has said nothing for a while by then."""
        now = self._loop.time()
        return now, now - self._last_stats_at > STATS_TIMEOUT / 2

    def may_be_lost_by(self, slot: Slot) -> bool:
        """Whether this call may be why the worker is lost. Call it while its slot is taken."""
        if slot.is_excused:
            return False
        others = self._taken_slots - {slot}
        if not may_be_cause(slot.as_lost(), (other.as_lost() for other in others)):
            return False
        if slot.losses:
            for other in others:
                other.is_excused = True
        return True

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
        if self._shared_stream is not None:
            self._shared_stream.close()
        await self._channel.close()

    def watch_stats(self) -> StatsCall:
        """Begins to read its Stats; use `stats_watch.watch`."""
        return self.stub.WatchStats(worker_pb2.StatsRequest(), metadata=METADATA)

    def on_stats(self, stats: worker_pb2.Stats) -> None:
        """Takes the worker's own state and load; call it for each Stats.

        Stats lag behind our own count. They cannot hold more requests of ours than we had at once
        since the last Stats, so what is above that peak belongs to other gateways.
        """
        self._others = max(0, stats.running + stats.waiting - self._peak)
        self._peak = len(self._taken_slots)
        before = self.stats.state if self.stats else None
        self.stats = stats
        if stats.instance_id != self._instance_id:
            self._instance_id, self.first_digest = stats.instance_id, ""
        if stats.state == worker_pb2.WORKER_STATE_READY and stats.model_digest != self.first_digest:
            self._note_digest(stats.model_digest)
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

    def _note_digest(self, digest: str) -> None:
        if not self.first_digest:
            self.first_digest = digest
        elif digest != self._logged_digest:
            self._logged_digest = digest
            log.error(
                "worker changed its model and gets nothing more",
                model=self.model,
                worker=self.worker_id,
                digest=digest[:12],
                before=self.first_digest[:12],
            )

    def on_disconnect(self, reason: str) -> None:
        """Its Stats stream ended, or brought nothing for a while."""
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
        if self._shared_stream is not None:
            self._shared_stream.close()
            self._shared_stream = None

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
| ejected | our calls, Stats | calls failed in a row, or its steps are slow: others are preferred |
| changed | Stats | it says READY with another model_digest than the first time: no requests |
| reachable | | connected and not suspect; this goes to the operator |
| ready | | routable, reachable, not changed, and READY with this model: it gets requests |
| removed | view | it left the view: no requests; closed once its last call has ended |

The usual order: in the view, loading, ready, not routable, draining, removed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import grpc
import structlog

from modelfleet_proto import worker_pb2, worker_pb2_grpc
from modelfleet_proto.mtls.credentials import Credentials

from .balance import Candidate, share_of
from .calls import Call, CountUnread, Serialize, SharedStream
from .channels import METADATA, open_channel
from .embed_call import EmbedCall
from .health import HEALTHY, after_answer, after_failure, after_stats
from .prefixes import CachedPrefixes, PromptKeys
from .single_call import SingleCall
from .slots import Slot, TakenSlots
from .tasks import Task
from .view import WorkerRoute

if TYPE_CHECKING:
    from .queued_choice import QueuedChoice

STATS_TIMEOUT: Final = 5.0  # seconds without Stats after which a worker counts as disconnected
FIRST_PAUSE: Final = 0.05  # seconds of a back-off, doubled up to the longest
LONGEST_PAUSE: Final = 1.0
# Streams that move here, whose tokens it computes at once: what runs here waits for each step.
PREPARED_AT_ONCE: Final = 2
# In these states running calls continue: a draining worker hands them over itself.
RUNNING_STATES: Final = (worker_pb2.WORKER_STATE_READY, worker_pb2.WORKER_STATE_DRAINING)

log = structlog.get_logger()


StatsCall = grpc.aio.UnaryStreamCall[worker_pb2.StatsRequest, worker_pb2.Stats]


class Worker:
    """One worker of the view: watched for as long as it is there or has calls."""

    def __init__(
        self,
        route: WorkerRoute,
        model: str,
        on_change: Callable[[], None],
        credentials: Credentials | None = None,
    ) -> None:
        """`credentials` of this gateway, for a worker that speaks TLS."""
        self.worker_id = route.worker_id
        self.address = route.address
        self.revision = route.revision
        self.model = model
        self.routable = route.routable  # as the view says
        self.hands_over = route.hand_over  # as the view says
        self.place = 0  # in the view
        self.stats: worker_pb2.Stats | None = None
        self.first_digest = ""  # the model_digest that this process was READY with first
        self._instance_id = ""  # of the process
        self._route = route
        self._credentials = credentials if route.tls_name else None
        self._version = 0  # of the credentials that the channel was opened with
        self._channel = self._open_channel()
        self._old_channel: grpc.aio.Channel | None = None  # what runs on it goes on
        self.tls_problem = ""  # why no certificate was agreed upon
        self._shared_stream: SharedStream | None = None  # of all requests; made with the first
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self.taken = TakenSlots()
        self.preparing = 0  # slots of streams that still run elsewhere
        self.preparations = asyncio.Semaphore(PREPARED_AT_ONCE)
        self.prefixes = CachedPrefixes()
        self.health = HEALTHY
        self._waiting = 0  # requests in its engine that wait there
        self._cache_use = 0.0  # of the blocks of its KV cache, by requests
        self._ready_since = self._loop.time()  # READY with this model, of this process
        self._last_stats_at = self._loop.time()
        self._connected = False  # its Stats stream is up
        self._suspect = False  # a call failed since its last Stats
        self._times_full = 0  # RESOURCE_EXHAUSTED in a row
        self._full = False
        self._logged_digest = ""  # to log each change once

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
        return self.taken.outstanding

    @property
    def others(self) -> int:
        """Requests that it has from other gateways, never over-estimated."""
        return self.taken.others

    @property
    def running(self) -> int:
        """Requests that it has from this gateway."""
        return len(self.taken)

    @property
    def service_seconds(self) -> float:
        """That a request has a slot, a moving mean; 0: not known."""
        return self.taken.service_seconds

    def seen_for(self, keys: PromptKeys, now: float) -> Candidate:
        """As it is now, for a request with these keys. `now`: seconds on the loop's clock."""
        taken = self.taken
        return Candidate(
            id=self.worker_id,
            place=self.place,
            load=taken.outstanding + self._waiting,
            unread=taken.unread,
            cached=self.prefixes.matched(keys),
            share=share_of(now - self._ready_since),
            cache_use=self._cache_use,
        )

    def move_calls(self, room: int) -> None:
        """Has its calls go on elsewhere, as many as have room there; those under way count."""
        self.taken.move(room)

    @property
    def batch_slots(self) -> list[Slot]:
        """Those that batch requests have."""
        return self.taken.of_batches()

    def take_slot(
        self, losses: int = 0, keys: PromptKeys | None = None, batch: QueuedChoice | None = None
    ) -> Slot:
        """Takes a slot for a request that was lost with so many workers before.

        `batch`: who asks, if that is a batch request.
        """
        unread = 0
        if keys is not None:
            unread = keys.size - self.prefixes.matched(keys)
            self.prefixes.note(keys)
        slot = Slot(self, losses, unread, batch)
        self.taken.take(slot)
        return slot

    def release_slot(self, slot: Slot) -> None:
        """Frees a slot; use `Slot.release`."""
        if self.taken.free(slot, self._loop.time()):
            if slot.accepted:
                self._full = False
            self._on_change()

    def on_served(self, slot: Slot) -> None:
        """A request has its first token; use `Slot.mark_served`."""
        self.taken.note_served(slot)
        if self.health.failures:
            self.health = after_answer(self.health)

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
        return self.taken.has_trial

    def note_call(self) -> tuple[float, bool]:
        """When a call is sent, and whether the worker has said nothing for a while by then."""
        now = self._loop.time()
        return now, now - self._last_stats_at > STATS_TIMEOUT / 2

    def may_be_lost_by(self, slot: Slot) -> bool:
        """Whether this call may be why the worker is lost. Call it while its slot is taken."""
        return self.taken.may_be_lost_by(slot)

    def count_failure(self) -> None:
        """A call failed there, and that may be its fault."""
        self.health = after_failure(self.health, self._loop.time())
        if self.health.is_ejected(self._loop.time()):
            log.warning(
                "worker fails and gets nothing for a while",
                model=self.model,
                worker=self.worker_id,
                failures=self.health.failures,
            )

    def mark_suspect(self) -> None:
        """A call failed: no requests until its next Stats."""
        self._suspect = True

    def mark_full(self) -> None:
        """It had no slot: no requests until Stats come, a slot of ours is free or a pause ends."""
        self._full = True
        pause = min(FIRST_PAUSE * 2 ** min(self._times_full, 10), LONGEST_PAUSE)
        self._times_full += 1
        self._loop.call_later(pause, self._try_again)

    def _try_again(self) -> None:
        self._full = False
        self._on_change()

    async def wait_until_idle(self) -> None:
        """Returns when this gateway has no calls there."""
        await self.taken.wait_until_idle()

    async def close(self) -> None:
        """Closes the channel, which ends all calls."""
        self._connected = False
        if self._shared_stream is not None:
            self._shared_stream.close()
        await self._channel.close()
        if self._old_channel is not None:
            await self._old_channel.close()

    def is_at(self, route: WorkerRoute) -> bool:
        """Whether the view still has it where it is; else it is another process."""
        here = self._route
        return (route.address, route.tls_name) == (here.address, here.tls_name)

    async def renew_channel(self) -> None:
        """Opens another channel if the certificate was renewed since: call it when this one failed.

        A channel keeps the certificate that it was opened with, and would try with an expired one
        for ever. Calls that still run go on where they are.
        """
        if self._credentials is None or self._credentials.version == self._version:
            return
        if self._old_channel is not None:
            await self._old_channel.close()
        self._old_channel, self._channel = self._channel, self._open_channel()

    @property
    def own_problem(self) -> str:
        """What is wrong with this gateway's own certificate; empty: nothing."""
        ours = self._credentials
        if ours is None or ours.expires_at > time.time():
            return ""
        return "the gateway's certificate has expired"

    def _open_channel(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return open_channel(self._route.address)
        self._version = self._credentials.version
        return open_channel(self._route.tls_address, self._credentials, self._route.tls_name)

    def watch_stats(self) -> StatsCall:
        """Begins to read its Stats; use `stats_watch.watch`."""
        stub = worker_pb2_grpc.WorkerStub(self._channel)
        return stub.WatchStats(worker_pb2.StatsRequest(), metadata=METADATA)

    @property
    def stub(self) -> worker_pb2_grpc.WorkerAsyncStub:
        """For its other calls."""
        return worker_pb2_grpc.WorkerStub(self._channel)

    def on_stats(self, stats: worker_pb2.Stats) -> None:
        """Takes the worker's own state and load; call it for each Stats."""
        self.taken.on_stats(stats.running + stats.waiting)
        # What comes waits for a moment, too: only what two Stats in a row say is a queue.
        self._waiting = min(stats.waiting, self.stats.waiting if self.stats else 0)
        self._cache_use = stats.kv_blocks_used / max(stats.kv_blocks, 1)
        before = self.stats.state if self.stats else None
        self.stats = stats
        if stats.instance_id != self._instance_id:
            self._instance_id, self.first_digest = stats.instance_id, ""
            self.health = HEALTHY
            self.prefixes.clear()
        if stats.state == worker_pb2.WORKER_STATE_READY and stats.model_digest != self.first_digest:
            self._note_digest(stats.model_digest)
        now = self._last_stats_at = self._loop.time()
        self._connected, self._suspect, self._full = True, False, False
        if stats.running:
            self.health = after_stats(self.health, stats.step_seconds, now)
        self.tls_problem = ""
        if stats.state != before:
            self._ready_since = now
            if stats.state not in RUNNING_STATES:
                self.prefixes.clear()
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
        self.taken.abort()
        if self._shared_stream is not None:
            self._shared_stream.close()
            self._shared_stream = None

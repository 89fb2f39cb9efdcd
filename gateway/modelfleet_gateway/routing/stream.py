"""A request's choices as streams of tokens, which continue on other workers after failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2
from modelfleet_proto.refusals import FORMAT_FAILED

from ..errors import WorkerProtocolError
from ..metrics import ModelMeter
from ..tracing import RequestTrace
from .calls import Call, CallEndedError, CountUnread, Event
from .claim import SlotClaim
from .continuation import Continued, Exactness, exactness
from .failover import NO_FAILURES, Blame, Failure
from .fairness import COMPLETION_WEIGHT
from .hand_over import SHORT, Preparation
from .merge import interleave
from .retries import judge
from .slots import Slot
from .workers import Worker

# What came of one choice since the last time, with its index.
Events = AsyncGenerator[tuple[int, list[Event | Continued]], None]

KNOWN_REASONS: Final = frozenset(worker_pb2.FinishReason.values()) - {
    worker_pb2.FINISH_REASON_UNSPECIFIED
}
LARGE: Final = 64 * 1024  # bytes of a request; its choices are sent one after the other

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequest:
    """One choice's GenerateRequest, which is serialized only when it is sent."""

    model: str  # full name
    request_id: str
    choice: int
    shared: bytes  # serialized: all that choices of one prompt have in common
    traceparent: str = ""  # the client's
    cache_salt: str = ""

    def serialize(
        self,
        received: Sequence[int] = (),
        digest: str = "",
        weights: str = "",
        traceparent: str = "",
        *,
        prepares: bool = False,
    ) -> list[bytes]:
        """For the wire, in pieces; with a digest it resumes after the `received` token ids.

        `traceparent`: of a span of ours, instead of the client's. With `prepares` it asks for one
        token more, which is not used: when it comes, the worker has all before it in its cache.
        Serialized messages that follow each other are one message with the fields of both
        (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
        """
        own = worker_pb2.GenerateRequest(
            model=self.model,
            request_id=self.request_id,
            choice=self.choice,
            traceparent=traceparent or self.traceparent,
            cache_salt=self.cache_salt,
        )
        if digest:
            own.resume.token_ids.extend(received)
            own.resume.model_digest, own.resume.weights_digest = digest, weights
        if prepares:
            own.resume.prepares = True
            own.stop.max_tokens = len(received) + 1
        return [self.shared, own.SerializeToString()]


def choice_requests(
    prompts: Sequence[bytes],
    choices_per_prompt: int,
    *,
    model: str,
    request_id: str,
    traceparent: str = "",
    cache_salt: str = "",
) -> list[ChoiceRequest]:
    """All choices of the first prompt, then all of the second, ...; `model` is its full name.

    With the id "r" theirs are "r.0", "r.1", ...
    """
    each = (prompt for prompt in prompts for _ in range(choices_per_prompt))
    return [
        ChoiceRequest(
            model=model,
            request_id=f"{request_id}.{number}",
            choice=number % choices_per_prompt,
            shared=prompt,
            traceparent=traceparent,
            cache_salt=cache_salt,
        )
        for number, prompt in enumerate(each)
    ]


def answer_events(
    requests: Sequence[ChoiceRequest],
    claim: SlotClaim,
    meter: ModelMeter,
    count_unread: CountUnread,
    trace: RequestTrace | None = None,
) -> Events:
    """The events of all choices of one request as they come; close it when done."""
    sending = asyncio.Lock()
    streams = [
        Choice(request, index, claim, meter, sending, count_unread, trace).events()
        for index, request in enumerate(requests)
    ]
    return streams[0] if len(streams) == 1 else interleave(streams)


class Choice:
    """One choice: its request, and the token ids received so far."""

    def __init__(
        self,
        request: ChoiceRequest,
        index: int,
        claim: SlotClaim,
        meter: ModelMeter,
        sending: asyncio.Lock,
        count_unread: CountUnread,
        trace: RequestTrace | None = None,
    ) -> None:
        self._trace = trace.choice(index) if trace is not None else None
        self.request = request
        self.index = index
        self._claim = claim
        self._meter = meter
        self._sending = sending
        self._count_unread = count_unread
        self._stats: worker_pb2.Stats | None = None  # of the worker that it was on last
        self._digest = ""  # its model_digest; empty until one has accepted
        self._weights = ""  # its weights_digest
        self._revision = ""  # its revision
        self._received: list[int] = []
        self._account = claim.account(index)
        claim.received.append(self._received)
        self._attempts = NO_FAILURES
        self._next: Preparation | None = None  # of the worker that it moves to
        self._prompt_tokens = 0

    async def events(self) -> Events:
        """First Accepted, then Tokens, then Finished, each id exactly once; close it when done.

        Raises the GatewayError that the client gets. Cancelling the reader cancels the
        generation. Little is read ahead, so a slow reader slows the worker down, not this process.
        """
        while True:
            slot = await self._claim.slot(self.index)
            if self._trace is not None:
                self._trace.on_slot(slot.worker.worker_id)
            try:
                call = await self._start_call(slot)
                while True:
                    events, error = self._receive_all(await call.read(), slot)
                    has_ended = bool(events) and isinstance(events[-1], worker_pb2.Finished)
                    if has_ended:
                        slot.release()  # a client that reads slowly holds no slot any more
                    if events:
                        yield self.index, events
                    if has_ended:
                        return
                    if error is not None:
                        raise error
            except WorkerProtocolError as error:
                self._retry(slot, Failure(grpc.StatusCode.INTERNAL, str(error)))
            except CallEndedError as ended:
                self._retry(slot, ended.failure)
            finally:
                slot.release()
                if self._next is not None:
                    self._next.note_release(slot)

    async def _start_call(self, slot: Slot) -> Call:
        """Of a large request one choice after the other: each is copied while it is sent."""
        if len(self.request.shared) <= LARGE:
            return slot.start_call(self._serialize, self._count_unread)
        async with self._sending:
            call = slot.start_call(self._serialize, self._count_unread)
            await call.sent.wait()
        return call

    def _receive_all(
        self, received: Sequence[Event], slot: Slot
    ) -> tuple[list[Event | Continued], WorkerProtocolError | None]:
        """What the client gets of events that came together, and the error that follows them."""
        events: list[Event | Continued] = []
        try:
            for event in received:
                if (told := self._receive(event, slot)) is not None:
                    events.append(told)  # noqa: PERF401 - those before an error count
        except WorkerProtocolError as error:
            return events, error
        return events, None

    def _receive(self, event: Event, slot: Slot) -> Event | Continued | None:
        """Checks an event and keeps what a resume needs; returns what is passed on."""
        if isinstance(event, worker_pb2.Accepted) == slot.accepted:
            raise WorkerProtocolError(f"{type(event).__name__} came out of order")
        if isinstance(event, worker_pb2.Tokens):
            if ids := event.ids:
                self._received.extend(ids)
                if not slot.served:
                    self._on_first_token(slot)
                self._meter.count_completion(len(ids))
                self._account.served += COMPLETION_WEIGHT * len(ids)
            return event
        if isinstance(event, worker_pb2.Finished):
            if event.reason not in KNOWN_REASONS:
                raise WorkerProtocolError("it finished for no known reason")
            self._on_first_token(slot)
            if self._trace is not None:
                self._trace.on_finished(event.completion_tokens)
            self._account.served -= event.cached_tokens
            return event
        if not event.model_digest:
            raise WorkerProtocolError("it accepted without a model_digest")
        if slot.worker.first_digest not in ("", event.model_digest):
            raise WorkerProtocolError("it holds another model than it became ready with")
        slot.mark_accepted()
        return self._on_accepted(event, slot.worker)

    def _on_accepted(
        self, event: worker_pb2.Accepted, worker: Worker
    ) -> worker_pb2.Accepted | Continued:
        before, self._stats = self._stats, worker.stats
        self._digest, self._weights = event.model_digest, worker.weights_digest
        self._revision, self._prompt_tokens = worker.revision, event.prompt_tokens
        if before is None or worker.stats is None:
            self._claim.on_accepted()
            self._claim.count_prompt(self.index, event.prompt_tokens)
            return event
        # An answer that has no token yet is all this worker's.
        exact = exactness(before, worker.stats) if self._received else Exactness.EXACT
        continued = Continued(worker.worker_id, self._digest, exact)
        self._meter.count_continued(continued.exactness)
        if self._trace is not None:
            self._trace.on_continued(worker.worker_id, exact, len(self._received))
        log.info(
            "a stream goes on",
            model=self.request.model,
            request=self.request.request_id,
            worker=worker.worker_id,
            tokens=len(self._received),
            exactness=continued.exactness,
        )
        return continued

    def _on_first_token(self, slot: Slot) -> None:
        """The first of this worker, or its answer had none: the request does not break it."""
        slot.mark_served()
        slot.prepare = self._prepare_move
        if self._next is not None:
            self._next.note_token(slot)
        self._attempts = NO_FAILURES
        self._claim.on_served(self.index)

    def _prepare_move(self, slot: Slot) -> bool:
        """Has another worker compute what there is, while the stream goes on; False: none can.

        False also for a short stream.
        """
        if self._prompt_tokens + len(self._received) < SHORT:
            return False
        following = self._claim.take_next_slot(
            self.index, digest=self._digest, weights=self._weights, avoid=slot.worker.worker_id
        )
        if following is None:
            return False
        request = partial(
            self.request.serialize, self._received, self._digest, self._weights, prepares=True
        )
        self._next = Preparation(slot, following, request, self._count_unread)
        return True

    def _serialize(self) -> list[bytes]:
        traceparent = self._trace.traceparent if self._trace is not None else ""
        return self.request.serialize(self._received, self._digest, self._weights, traceparent)

    def _retry(self, slot: Slot, failure: Failure) -> None:
        """Queues the choice again, or raises the error that the client gets."""
        worker = slot.worker
        if self._trace is not None:
            kind, tokens = failure.mark or failure.code.name, len(self._received)
            self._trace.on_failure(worker.worker_id, kind, tokens)
        if failure.moved:
            log.info(
                "a batch stream makes room"
                if failure.yielded
                else "a stream is moved off a worker that is about to go",
                model=self.request.model,
                request=self.request.request_id,
                worker=worker.worker_id,
                tokens=len(self._received),
            )
        if failure.mark == FORMAT_FAILED:
            self._meter.count_format_failure()
        verdict = judge(slot, failure, self._attempts, self._claim, self.index)
        if verdict.blame is not Blame.FULL and not failure.moved:
            log.warning(
                "a worker failed a request, which continues on another",
                model=self.request.model,
                request=self.request.request_id,
                worker=worker.worker_id,
                tokens=len(self._received),
                reason=f"{failure.code.name}: {failure.details}",
            )
        if slot.accepted and not failure.yielded:
            self._meter.count_resumed()
        if not failure.moved:  # else it takes its new slot first, so that no other one moves for it
            slot.release()
        self._attempts = verdict.attempts
        if self._next is not None:
            if (following := self._next.finish()) is not None:
                self._claim.go_on(self.index, following)
                return
            self._next = None
        if self._trace is not None:
            self._trace.on_queued()
        self._claim.requeue(
            self.index,
            digest=self._digest,
            weights=self._weights,
            revision=self._revision,
            # One that made room goes back to its blocks in the worker's cache, if it can.
            avoid="" if failure.yielded or verdict.blame is Blame.FULL else worker.worker_id,
        )

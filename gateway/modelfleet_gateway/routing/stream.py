"""A request's choices as streams of tokens, which continue on other workers after failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

import grpc
import structlog

from modelfleet_proto import worker_pb2

from ..errors import WorkerProtocolError
from ..metrics import ModelMeter
from .failover import NO_FAILURES, Blame, End, Failure, after_failure
from .merge import interleave
from .queue import ModelQueue, QueuedChoice
from .request import ChoiceRequest
from .send_gate import SendGate
from .view import not_ready
from .workers import GenerateCall, Slot

Event = worker_pb2.Accepted | worker_pb2.Tokens | worker_pb2.Finished
Events = AsyncGenerator[tuple[int, Event], None]  # each with its choice's index

KNOWN_REASONS: Final = frozenset(worker_pb2.FinishReason.values()) - {
    worker_pb2.FINISH_REASON_UNSPECIFIED
}
END_TIMEOUT: Final = 1.0  # seconds that a call may take to end after its last message

log = structlog.get_logger()


def answer_events(requests: Sequence[ChoiceRequest], claim: SlotClaim, meter: ModelMeter) -> Events:
    """The events of all choices of one request as they come; close it when done."""
    gate = SendGate()
    streams = [
        Choice(request, index, claim, meter, gate).events()
        for index, request in enumerate(requests)
    ]
    return streams[0] if len(streams) == 1 else interleave(streams)


class SlotClaim:
    """One request's claim on a slot for each of its choices.

    Making it queues all choices, or raises QueueFullError. Leaving its block takes them out of the
    queue and releases their slots.
    """

    def __init__(self, queue: ModelQueue, choices: int) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._choices = queue.requests.add_request(
            choices, limit=queue.view.max_queue, now=self._since
        )
        self._timer = self._loop.call_later(queue.view.hold_timeout, self._on_hold_timeout)
        self._timed_out = False
        queue.assign_slots()
        queue.signal_if_unserved()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        for choice in self._choices:
            self._queue.requests.remove(choice)
            future = choice.slot_future
            if future.done() and not future.cancelled() and not future.exception():
                future.result().release()
            future.cancel()
        self._queue.assign_slots()

    async def slot(self, index: int) -> Slot:
        """Waits for the slot of the choice with this index. NotReadyError after hold_timeout."""
        return await self._choices[index].slot_future

    def requeue(self, index: int, *, digest: str, revision: str, avoid: str) -> None:
        """Queues a choice again: at its old place, or ahead of new ones with a `digest` to resume.

        `revision`: of the worker that accepted it; empty while none has.
        """
        choice = self._choices[index]
        choice.slot_future = self._loop.create_future()
        if digest:
            choice.queued_at = self._loop.time()
        choice.digest, choice.revision, choice.avoid = digest, revision, avoid
        self._queue.requeue(choice)
        if self._timed_out:
            self._reject(choice)

    def on_accepted(self) -> None:
        """A worker accepted a choice: from here on hold_timeout does not end the request."""
        self._timer.cancel()

    def _on_hold_timeout(self) -> None:
        self._timed_out = True
        for choice in self._choices:
            self._reject(choice)

    def _reject(self, choice: QueuedChoice) -> None:
        if not choice.slot_future.done():
            queue, waited = self._queue, self._loop.time() - self._since
            error = not_ready(queue.view, waited, queue.ready_workers, time.time())
            queue.requests.reject(choice, error)


class Choice:
    """One choice: its request, and the token ids received so far."""

    def __init__(
        self,
        request: ChoiceRequest,
        index: int,
        claim: SlotClaim,
        meter: ModelMeter,
        gate: SendGate,
    ) -> None:
        self.request = request
        self.index = index
        self._claim = claim
        self._meter = meter
        self._gate = gate
        self._digest = ""  # of the worker that began; empty until one has
        self._revision = ""  # of the worker that it was on last
        self._received: list[int] = []
        self._attempts = NO_FAILURES

    async def events(self) -> Events:
        """First Accepted, then Tokens, then Finished, each id exactly once; close it when done.

        Raises the GatewayError that the client gets. Cancelling the reader cancels the
        generation. Nothing is read ahead, so a slow reader slows the worker down, not this process.
        """
        while True:
            slot = await self._claim.slot(self.index)
            try:
                size = len(self.request.shared)
                call = await slot.start_call(self._serialize, size, self._gate)
                while isinstance(message := await call.read(), worker_pb2.GenerateResponse):
                    event = self._receive(message, slot)
                    if isinstance(event, worker_pb2.Finished):
                        await wait_for_end(call)
                        slot.release()  # a client that reads slowly holds no slot any more
                        yield self.index, event
                        return
                    if event is not None:
                        yield self.index, event
                raise WorkerProtocolError("its stream ended without Finished")
            except WorkerProtocolError as error:
                self._retry(slot, Failure(grpc.StatusCode.INTERNAL, str(error)))
            except grpc.aio.AioRpcError as error:
                self._retry(slot, Failure(error.code(), error.details() or "no details"))
            except asyncio.CancelledError:
                if not slot.was_aborted or is_being_cancelled():
                    raise
                self._retry(slot, Failure(grpc.StatusCode.UNAVAILABLE, "disconnected or failed"))
            finally:
                slot.release()

    def _receive(self, message: worker_pb2.GenerateResponse, slot: Slot) -> Event | None:
        """Checks a message and keeps what a resume needs; None if the client has it already."""
        kind = message.WhichOneof("event")
        if (kind == "accepted") == slot.accepted:
            raise WorkerProtocolError(f"{kind} came out of order")
        if kind == "tokens":
            if message.tokens.ids:
                self._received.extend(message.tokens.ids)
                self._attempts = NO_FAILURES
                self._meter.count_completion(len(message.tokens.ids))
            return message.tokens
        if kind == "finished":
            if message.finished.reason not in KNOWN_REASONS:
                raise WorkerProtocolError("it finished for no known reason")
            return message.finished
        if kind != "accepted" or not message.accepted.model_digest:
            raise WorkerProtocolError("it accepted without a model_digest")
        slot.mark_accepted()
        self._revision = slot.worker.revision
        if self._digest:
            return None
        self._digest = message.accepted.model_digest
        self._claim.on_accepted()
        return message.accepted

    def _serialize(self) -> bytes:
        return self.request.serialize(self._received, self._digest)

    def _retry(self, slot: Slot, failure: Failure) -> None:
        """Queues the choice again, or raises the error that the client gets."""
        worker = slot.worker
        verdict = after_failure(
            replace(failure, accepted=slot.accepted, draining=worker.draining), self._attempts
        )
        if isinstance(verdict, End):
            slot.release()
            raise verdict.error
        if verdict.blame is Blame.FULL:
            worker.mark_full()
        else:
            log.warning(
                "a worker failed a request, which continues on another",
                model=self.request.model,
                request=self.request.request_id,
                worker=worker.worker_id,
                tokens=len(self._received),
                reason=f"{failure.code.name}: {failure.details}",
            )
        if verdict.blame is Blame.SUSPECT:
            worker.mark_suspect()
        if slot.accepted:
            self._meter.count_resumed()
        slot.release()
        self._attempts = verdict.attempts
        self._claim.requeue(
            self.index,
            digest=self._digest,
            revision=self._revision,
            avoid="" if verdict.blame is Blame.FULL else worker.worker_id,
        )


async def wait_for_end(call: GenerateCall) -> None:
    """Waits for the status of a call that has sent Finished: the worker's slot is free then."""
    try:
        async with asyncio.timeout(END_TIMEOUT):
            await call.read()
    except (TimeoutError, grpc.aio.AioRpcError):
        pass  # the answer is complete anyway
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise


def is_being_cancelled() -> bool:
    """Whether this task was cancelled, rather than the call that it reads."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

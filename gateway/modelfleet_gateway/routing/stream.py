"""One choice as one stream of tokens, whatever happens to the workers that generate it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2

from ..errors import WorkerProtocolError
from ..metrics import ModelMeter
from .dispatch import SlotClaim
from .failover import Attempts, Blame, End, Failure, after_failure
from .workers import GenerateCall, Slot

Event = worker_pb2.Accepted | worker_pb2.Tokens | worker_pb2.Finished

KNOWN_REASONS: Final = frozenset(worker_pb2.FinishReason.values()) - {
    worker_pb2.FINISH_REASON_UNSPECIFIED
}
# The slot is free when the call has ended, a moment after its last message; seconds.
GRACE: Final = 1.0

log = structlog.get_logger()


class Choice:
    """A request for one choice, and all that came of it so far."""

    def __init__(
        self,
        request: worker_pb2.GenerateRequest,
        index: int,
        claim: SlotClaim,
        meter: ModelMeter,
    ) -> None:
        self.request = request
        self.index = index
        self._claim = claim
        self._meter = meter
        self._digest = ""  # of the worker that began; empty until one has
        self._revision = ""  # of the worker that it was on last
        self._received: list[int] = []
        self._attempts = Attempts()

    async def events(self) -> AsyncGenerator[Event, None]:
        """First Accepted, then Tokens, then Finished, each id exactly once; close it when done.

        Raises the GatewayError that the client is to see. Cancelling the reader cancels the
        generation. Nothing is read ahead, so a slow reader slows the worker down, not this process.
        """
        while True:
            slot = await self._claim.slot(self.index)
            try:
                call = slot.start_call(self._request())
                while isinstance(message := await call.read(), worker_pb2.GenerateResponse):
                    event = self._take(message, slot)
                    if isinstance(event, worker_pb2.Finished):
                        await ended(call)
                        yield event
                        return
                    if event is not None:
                        yield event
                raise WorkerProtocolError("its stream ended without Finished")
            except WorkerProtocolError as error:
                self._retry(slot, Failure(grpc.StatusCode.INTERNAL, str(error)))
            except grpc.aio.AioRpcError as error:
                self._retry(slot, Failure(error.code(), error.details() or "no details"))
            except asyncio.CancelledError:
                if not slot.was_aborted or is_being_cancelled():
                    raise
                self._retry(slot, Failure(grpc.StatusCode.UNAVAILABLE, "silent or failed"))
            finally:
                slot.release()

    def _take(self, message: worker_pb2.GenerateResponse, slot: Slot) -> Event | None:
        """Notes what came; None for what the client knows already. Raises WorkerProtocolError."""
        kind = message.WhichOneof("event")
        if (kind == "accepted") == slot.accepted:
            raise WorkerProtocolError(f"{kind} came before or after its time")
        if kind == "tokens":
            if message.tokens.ids:
                self._received.extend(message.tokens.ids)
                self._attempts = Attempts()
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

    def _request(self) -> worker_pb2.GenerateRequest:
        if not self._digest:
            return self.request
        resumed = worker_pb2.GenerateRequest()
        resumed.CopyFrom(self.request)
        resumed.resume.token_ids.extend(self._received)
        resumed.resume.model_digest = self._digest
        return resumed

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
                "a worker failed a request: it goes on elsewhere",
                model=self.request.model,
                request=self.request.request_id,
                worker=worker.worker_id,
                tokens=len(self._received),
                reason=f"{failure.code.name}: {failure.details}",
            )
        if verdict.blame is Blame.SUSPECT:
            worker.mark_suspect()
        if slot.accepted:
            self._meter.resume()
        slot.release()
        self._attempts = verdict.attempts
        self._claim.requeue(
            self.index,
            digest=self._digest,
            revision=self._revision,
            avoid="" if verdict.blame is Blame.FULL else worker.worker_id,
        )


async def ended(call: GenerateCall) -> None:
    """Waits for the call's status, which says that its slot is free; the answer is complete."""
    try:
        async with asyncio.timeout(GRACE):
            await call.read()
    except (TimeoutError, grpc.aio.AioRpcError):
        pass  # it has given all that it had to give
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise


def is_being_cancelled() -> bool:
    """Whether somebody cancelled this task, rather than the call that it reads."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

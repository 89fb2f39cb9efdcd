"""A request for embeddings as calls to workers, each sent again elsewhere after a failure.

An Embed call has no state: what was lost is computed anew, and nobody can tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import grpc
import structlog

from modelfleet_proto import worker_pb2

from ..errors import NotReadyError, WorkerProtocolError
from ..metrics import ModelMeter
from .calls import CallEndedError
from .claim import SlotClaim
from .embed_request import EmbedPart
from .failover import NO_FAILURES, Attempts, Blame, Failure
from .retries import judge
from .slots import Slot

TRIES: Final = 3  # of all calls, while the model is replaced under way

OnResponse = Callable[[EmbedPart, worker_pb2.EmbedResponse], None]

log = structlog.get_logger()


class Embedding:
    """The calls of one request, each with a choice of the claim."""

    def __init__(
        self,
        parts: Sequence[EmbedPart],
        claim: SlotClaim,
        meter: ModelMeter,
        *,
        model: str,
        request_id: str,
    ) -> None:
        self._parts = parts
        self._claim = claim
        self._meter = meter
        self._context = {"model": model, "request": request_id}

    async def run(self, on_response: OnResponse) -> None:
        """Calls back for each call once, in any order; again for all if the model was replaced.

        Raises the GatewayError that the client gets. Vectors of one answer are of one model.
        """
        for attempt in range(TRIES):
            tasks = [
                asyncio.create_task(self._embed(i, on_response)) for i in range(len(self._parts))
            ]
            try:
                digests = set(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            if len(digests) == 1:
                return
            log.info("the model was replaced under way", attempt=attempt, **self._context)
            for index in range(len(self._parts)):
                self._claim.requeue(index, digest="", weights="", revision="", avoid="")
        raise NotReadyError(
            "The model is being replaced, and its workers make vectors that cannot be compared."
            " Try again later.",
            retry_after=5,
        )

    async def _embed(self, index: int, on_response: OnResponse) -> str:
        """One call, until a worker answers it; returns the digest of the weights."""
        part, attempts = self._parts[index], NO_FAILURES
        while True:
            slot = await self._claim.slot(index)
            try:
                response = await slot.start_embedding(part.request).response()
                if len(response.embeddings) != part.count:
                    raise WorkerProtocolError("it sent more vectors than inputs, or fewer")
                slot.mark_accepted()
                slot.mark_served()
                self._claim.on_accepted()
                self._claim.on_served(index)
                on_response(part, response)
                return response.weights_digest
            except WorkerProtocolError as error:
                failure = Failure(grpc.StatusCode.INTERNAL, str(error))
                attempts = self._retry(index, slot, failure, attempts)
            except CallEndedError as ended:
                attempts = self._retry(index, slot, ended.failure, attempts)
            finally:
                slot.release()

    def _retry(self, index: int, slot: Slot, failure: Failure, attempts: Attempts) -> Attempts:
        """Queues the call again, or raises the error that the client gets."""
        worker = slot.worker
        if failure.code is grpc.StatusCode.UNIMPLEMENTED:
            # A worker of an earlier version: it generates, if it serves anything.
            failure = replace(failure, code=grpc.StatusCode.NOT_FOUND)
        verdict = judge(slot, failure, attempts, self._claim, index)
        if verdict.blame is not Blame.FULL and not failure.moved:
            self._meter.count_resumed()
            log.warning(
                "a worker failed a request, which continues on another",
                worker=worker.worker_id,
                reason=f"{failure.code.name}: {failure.details}",
                **self._context,
            )
        slot.release()
        self._claim.requeue(
            index,
            digest="",
            weights="",
            revision="",
            avoid="" if verdict.blame is Blame.FULL else worker.worker_id,
        )
        return verdict.attempts

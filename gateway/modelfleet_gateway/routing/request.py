"""A request as workers get it: choices of one prompt share its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet_proto import worker_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceRequest:
    """One choice's GenerateRequest, which is serialized only when it is sent."""

    model: str  # full name
    request_id: str
    choice: int
    shared: bytes  # serialized: all that choices of one prompt have in common

    def serialize(self, received: Sequence[int] = (), digest: str = "") -> bytes:
        """For the wire; with a digest it resumes after the `received` token ids.

        Serialized messages that follow each other are one message with the fields of both
        (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
        """
        own = worker_pb2.GenerateRequest(
            model=self.model, request_id=self.request_id, choice=self.choice
        )
        if digest:
            own.resume.token_ids.extend(received)
            own.resume.model_digest = digest
        return self.shared + own.SerializeToString()

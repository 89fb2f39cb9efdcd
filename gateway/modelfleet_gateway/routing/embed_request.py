"""What is asked of workers for one request for embeddings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modelfleet_proto import worker_pb2
from modelfleet_proto.wire import nested

CALL_INPUTS: Final = 64  # of one call; a worker takes 256
CALL_BYTES: Final = 256 * 1024  # beyond which a call gets no more inputs


@dataclass(frozen=True, slots=True)
class EmbedPart:
    """Some of a request's inputs, for one call."""

    request: bytes  # a serialized EmbedRequest
    first: int  # the number of its first input in the whole request
    count: int  # of its inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedQuestion:
    """What is asked of workers, whoever asks; inputs are serialized EmbedInputs."""

    inputs: Sequence[bytes]
    dimensions: int = 0  # 0: all
    truncate: bool = False

    def parts(self, model: str, request_id: str) -> list[EmbedPart]:
        """A call for each; `model` is its full name.

        With the id "r" theirs are "r.0", "r.1", ...
        """
        parts: list[EmbedPart] = []
        first = 0
        for number, some in enumerate(self._cut()):
            common = worker_pb2.EmbedRequest(
                request_id=f"{request_id}.{number}",
                model=model,
                dimensions=self.dimensions,
                truncate=self.truncate,
                first_input=first,
            )
            pieces = [common.SerializeToString()]
            for one in some:
                pieces += nested(worker_pb2.EmbedRequest.INPUTS_FIELD_NUMBER, [one])
            parts.append(EmbedPart(b"".join(pieces), first, len(some)))
            first += len(some)
        return parts

    def _cut(self) -> Iterator[list[bytes]]:
        some: list[bytes] = []
        size = 0
        for one in self.inputs:
            if some and (len(some) == CALL_INPUTS or size + len(one) > CALL_BYTES):
                yield some
                some, size = [], 0
            some.append(one)
            size += len(one)
        yield some

"""`/v1/embeddings`: its requests and its answers; other APIs read theirs with the same."""

from __future__ import annotations

import base64
import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from typing_extensions import override

from modelfleet_proto import worker_pb2
from modelfleet_proto.wire import nested

from ..errors import InvalidRequestError
from ..routing.embed_request import EmbedQuestion
from .bulk import Bulk
from .checks import utf8_of
from .fields import UINT32
from .translated import STRICT, expanded, read_fields

MAX_INPUTS: Final = 2048  # as OpenAI
INPUT_FORMS: Final = (
    "Expected a string, a list of strings, a list of token ids, or a list of lists of token ids"
)


class EmbedFields(BaseModel, ABC):
    """A request for embeddings, of any API."""

    model_config = STRICT

    model: str

    @abstractmethod
    def question(self, bulk: Bulk | None) -> EmbedQuestion:
        """What is asked of workers."""

    @abstractmethod
    def one(self, index: int, vector: bytes) -> str:
        """The JSON of one input's vector."""

    @abstractmethod
    def whole(self, model: str, ones: Sequence[str], tokens: int, seconds: float) -> str:
        """The answer's JSON; `seconds` that it took, `model` as the client named it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedEmbeddings:
    """A request that is valid, as far as can be said without its model."""

    model: str  # as the client named it
    question: EmbedQuestion
    fields: EmbedFields

    @property
    def size(self) -> int:
        """Bytes of all inputs."""
        return sum(map(len, self.question.inputs))


def read_embeddings(
    kind: type[EmbedFields], body: bytearray, created: float, bulk: Bulk | None = None
) -> AskedEmbeddings:
    """A request from its JSON; InvalidRequestError names the field and what was expected."""
    fields = read_fields(kind, body, created, bulk)
    return AskedEmbeddings(
        model=expanded(fields.model, bulk), question=fields.question(bulk), fields=fields
    )


class EmbeddingsRequest(EmbedFields):
    """The body of OpenAI's."""

    input: Any  # any of INPUT_FORMS
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=UINT32)] | None = None
    user: str | None = None

    @override
    def question(self, bulk: Bulk | None) -> EmbedQuestion:
        return EmbedQuestion(
            inputs=read_inputs(self.input, "input", bulk), dimensions=self.dimensions or 0
        )

    @override
    def one(self, index: int, vector: bytes) -> str:
        if self.encoding_format == "base64":
            written = f'"{base64.b64encode(vector).decode()}"'
        else:
            written = numbers(vector)
        return f'{{"object":"embedding","index":{index},"embedding":{written}}}'

    @override
    def whole(self, model: str, ones: Sequence[str], tokens: int, seconds: float) -> str:
        usage = f'{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
        data = ",".join(ones)
        return f'{{"object":"list","data":[{data}],"model":{json.dumps(model)},"usage":{usage}}}'


def numbers(vector: bytes) -> str:
    """A JSON list of float32 numbers, with as many digits as tell one from the next."""
    return f"[{','.join(map('{:.9g}'.format, struct.unpack(f'<{len(vector) // 4}f', vector)))}]"


def read_inputs(found: Any, where: str, bulk: Bulk | None) -> list[bytes]:
    """Serialized EmbedInputs. InvalidRequestError: they have none of the forms, or are too many."""
    several = found if isinstance(found, list) and not _is_ids(found) else [found]
    if not several:
        raise _wrong(where)
    if len(several) > MAX_INPUTS:
        raise InvalidRequestError(
            f"Invalid {where!r}: At most {MAX_INPUTS} inputs are supported, not {len(several)}.",
            param=where,
        )
    return [
        _input(one, where if several is not found else f"{where}.{index}", bulk)
        for index, one in enumerate(several)
    ]


def _input(found: Any, where: str, bulk: Bulk | None) -> bytes:
    text, ids = (
        worker_pb2.EmbedInput.TEXT_FIELD_NUMBER,
        worker_pb2.EmbedInput.TOKEN_IDS_FIELD_NUMBER,
    )
    if _is_ids(found):
        return b"".join(nested(ids, [worker_pb2.TokenIds(ids=found).SerializeToString()]))
    if not isinstance(found, str):
        raise _wrong(where)
    if bulk is not None and bulk.holds_ids(found):
        return b"".join(nested(ids, [bulk.token_ids(found)]))
    content = found.encode() if bulk is None else utf8_of(found, bulk, where)
    if not content:
        raise InvalidRequestError(
            f"Invalid {where!r}: Expected some text, found none.", param=where
        )
    return b"".join(nested(text, [content]))


def _is_ids(found: Any) -> bool:
    # bool is an int in Python, not in JSON
    return (
        isinstance(found, list)
        and bool(found)
        and all(type(one) is int and 0 <= one <= UINT32 for one in found)
    )


def _wrong(where: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid {where!r}: {INPUT_FORMS}.", param=where)

"""Requests of other APIs, which become a chat or a plain completion before workers see them."""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, TypeVar

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError

from ..errors import InvalidRequestError, UnsupportedFieldError
from .answer import BaseAnswer, Json
from .bulk import Bulk
from .chat import ChatRequest
from .checks import explain, text_of
from .fields import (
    Asked,
    GenerationFields,
    Neutral,
    parse,
    refuse_unsupported,
    session_of,
)

STRICT: Final = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())
Model = TypeVar("Model", bound=BaseModel)
Fields = TypeVar("Fields", bound=BaseModel)


def _is_text(value: str, info: ValidationInfo) -> str:
    bulk: Bulk | None = info.context
    if bulk is not None and bulk.holds_ids(value):
        raise PydanticCustomError("string_type", "Input should be a valid string")
    return value


# A string inside of a list or object; fields that are strings are checked without it.
Text = Annotated[str, AfterValidator(_is_text)]


class TranslatedRequest(BaseModel):
    """A request of another API. Fields that it does not know are ignored, but for `unsupported`."""

    model_config = STRICT

    unsupported: ClassVar[Neutral] = {}
    # Where the chat that it becomes has another name for a field: that one, and the client's.
    names: ClassVar[Mapping[str, str]] = {}
    model: str

    @property
    def target(self) -> type[GenerationFields]:
        """The kind of request that it becomes."""
        return ChatRequest

    @abstractmethod
    def translate(self, bulk: Bulk | None) -> Json:
        """The body of that request, which asks for the same."""


class AnsweredRequest(TranslatedRequest):
    """One that is answered."""

    stream: bool | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer is streamed."""
        return bool(self.stream)

    @abstractmethod
    def new_answer(self, created: float, bulk: Bulk | None) -> BaseAnswer:
        """An empty answer in the shape of this API."""


Translated = TypeVar("Translated", bound=TranslatedRequest)


def read_translated(
    kind: type[AnsweredRequest], body: bytearray, created: float, bulk: Bulk | None = None
) -> Asked:
    """A request from its JSON; InvalidRequestError names the field and what was expected."""
    return ask(read_fields(kind, body, created, bulk), created, bulk)


def read_fields(
    kind: type[Fields], body: bytearray, created: float, bulk: Bulk | None = None
) -> Fields:
    """The fields of a body, checked; `created` makes no difference to them."""
    try:
        request = kind.model_validate_json(body, context=bulk)
    except pydantic.ValidationError as error:
        raise explain(error, bulk) from None
    _check_texts(request, bulk)
    if isinstance(request, TranslatedRequest):
        refuse_unsupported(request.model_extra or {}, request.unsupported)
    return request


def read_prompt(
    kind: type[Translated], body: bytearray, created: float, bulk: Bulk | None = None
) -> tuple[Translated, str, bytes]:
    """A request about a prompt from its JSON, its model as the client named it, and the prompt."""
    request = read_fields(kind, body, created, bulk)
    (prompt,) = prompts_of(request, created, bulk)
    return request, expanded(request.model, bulk), prompt


def ask(request: AnsweredRequest, created: float, bulk: Bulk | None) -> Asked:
    """What it asks of workers, and its empty answer."""
    with named_as(request.names):
        target = _target(request, bulk)
        prompts, needs = target.prompts(created, bulk), target.needs
        most_tokens = target.most_tokens
    return Asked(
        model=expanded(request.model, bulk),
        stream=request.streams,
        answer=request.new_answer(created, bulk),
        choices_per_prompt=1,
        prompts=prompts,
        needs=needs,
        session=session_of(request.model_extra, bulk),
        service_tier=(request.model_extra or {}).get("service_tier"),
        max_tokens=most_tokens,
    )


def prompts_of(request: TranslatedRequest, created: float, bulk: Bulk | None) -> list[bytes]:
    """What workers are sent (GenerationFields.prompts)."""
    with named_as(request.names):
        return _target(request, bulk).prompts(created, bulk)


def _target(request: TranslatedRequest, bulk: Bulk | None) -> GenerationFields:
    translated = request.translate(bulk) | {"model": request.model}
    return parse(request.target, bytearray(json.dumps(translated).encode()), bulk)


@contextlib.contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """Errors about the translated request get the client's names for its fields."""
    try:
        yield
    except InvalidRequestError as error:
        raise renamed(error, names) from None


def renamed(error: InvalidRequestError, names: Mapping[str, str]) -> InvalidRequestError:
    """The same error, with the client's name for the field.

    Of the names that fit the longest counts: with `{"format": "text", "format.json": "text"}`
    "format.json.schema" is "text.schema".
    """
    param = error.param or ""
    fitting = [name for name in names if param == name or param.startswith(f"{name}.")]
    if not fitting:
        return error
    name = max(fitting, key=len)
    theirs = names[name] + param.removeprefix(name)
    message = error.message.replace(repr(param), repr(theirs))
    return type(error)(message, param=theirs)


def unsupported_value(where: str, value: object, expected: str) -> UnsupportedFieldError:
    """For a value (a `type`, most often) of which this API has more than are served."""
    return UnsupportedFieldError(
        f"{where!r} {str(value)[:40]!r} is not supported here: expected {expected}.", param=where
    )


class Part(BaseModel):
    """One object inside of a body, read by `read_part`: its types as JSON has them."""

    model_config = ConfigDict(strict=True)


def read_part(kind: type[Model], value: Any, where: str, bulk: Bulk | None) -> Model:
    """One part of a body, by a model of its own: errors name the field in it."""
    try:
        part = kind.model_validate(value, context=bulk)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join([where, *map(str, first["loc"])])
        if first["type"] == "missing":
            message = f"Missing required parameter: {path!r}."
        elif first["type"] == "model_type":
            message = f"Invalid {path!r}: Input should be an object."
        else:
            message = f"Invalid {path!r}: {first['msg']}."
        raise InvalidRequestError(message, param=path) from None
    _check_texts(part, bulk, f"{where}.")
    return part


def _check_texts(fields: BaseModel, bulk: Bulk | None, prefix: str = "") -> None:
    """InvalidRequestError for a text that stands for what was cut out as a list of ids."""
    if bulk is None:
        return
    for name in type(fields).model_fields:
        value = getattr(fields, name)
        if isinstance(value, str) and bulk.holds_ids(value):
            text_of(value, bulk, prefix + name)


def text_parts(
    content: Any, where: str, texts: Mapping[str, str], refused: str = "text"
) -> str | list[Json]:
    """Content as chats have it: a string, or a list of text parts.

    `texts`: the types of parts that are text, and the field that holds it.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequestError(
            f"Invalid {where!r}: Expected a string or a list of parts.", param=where
        )
    return [text_part(part, f"{where}.{i}", texts, refused) for i, part in enumerate(content)]


def text_part(part: Any, where: str, texts: Mapping[str, str], expected: str) -> Json:
    """One part, which must be text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str) or kind not in texts:
        raise unsupported_value(f"{where}.type", kind, expected)
    text = part.get(texts[kind])
    if not isinstance(text, str):
        name = f"{where}.{texts[kind]}"
        raise InvalidRequestError(f"Invalid {name!r}: Expected a string.", param=name)
    return {"type": "text", "text": text}


def joined(content: str | Sequence[Json], separator: str = "\n") -> str:
    """Content as one string."""
    if isinstance(content, str):
        return content
    return separator.join(part["text"] for part in content)


def expanded(value: Any, bulk: Bulk | None) -> Any:
    """A JSON value without placeholders: for what is JSON inside of a string."""
    if bulk is None:
        return value
    if isinstance(value, str):
        text = bulk.utf8(value).decode()
        return _numbers(text) if bulk.holds_ids(value) else text
    if isinstance(value, list):
        return [expanded(one, bulk) for one in value]
    if isinstance(value, dict):
        return {expanded(key, bulk): expanded(one, bulk) for key, one in value.items()}
    return value


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:  # thousands of digits
        raise InvalidRequestError("The body has a number that is too large.") from None


def dumped(value: Any, bulk: Bulk | None) -> str:
    """A JSON value as JSON inside of a string."""
    return json.dumps(expanded(value, bulk), ensure_ascii=False)

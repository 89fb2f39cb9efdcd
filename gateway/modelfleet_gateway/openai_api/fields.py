"""The fields that chat and plain completions share, and the worker's request made of them."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationInfo
from pydantic_core import PydanticCustomError

from modelfleet_proto import worker_pb2

from ..errors import InvalidRequestError, UnsupportedFieldError
from .answer import Answer, BaseAnswer
from .bulk import Bulk
from .checks import explain, text_of
from .output_format import (
    NEEDED,
    only_one,
    read_constraint,
    read_format,
    read_structured_outputs,
)

MAX_N: Final = 16
MAX_CHOICES: Final = 128  # n times the prompts of one request
MAX_STOPS: Final = 16
MAX_STOP_LENGTH: Final = 4096  # characters
MAX_STOP_TOKENS: Final = 1024
MAX_TOP_LOGPROBS: Final = 20
MAX_BIASED_TOKENS: Final = 300
UINT32: Final = 2**32 - 1

# For each field that would change the answer and is not served: the values that change nothing.
Neutral = Mapping[str, tuple[Any, ...]]
# Fields that would change the answer and are not implemented, each with the values that change
# nothing. All other unknown fields are ignored, as OpenAI's and vLLM's servers do.
UNSUPPORTED: Final[Neutral] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (None, []),
    "audio": (None,),
    "bad_words": (None, []),
    "best_of": (None, 1),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "continue_final_message": (None, False),
    "documents": (None, []),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "min_tokens": (None, 0),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "prompt_logprobs": (None,),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "use_beam_search": (None, False),
    "web_search_options": (None,),
}

# Those that say what a request belongs to, the narrowest first.
SESSION_FIELDS: Final = ("prompt_cache_key", "user", "safety_identifier")

# Those that say what the answer is held to.
FORMAT_FIELDS: Final = (
    *("response_format", "structured_outputs"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)

TokenId = Annotated[int, Field(ge=0, le=UINT32)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]


class StreamOptions(BaseModel):
    """How a stream is written."""

    include_usage: StrictBool = False


class GenerationFields(BaseModel):
    """What both kinds of request say about how to generate."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )

    answer_type: ClassVar[type[Answer]]

    # The order of fields is the order of checks: of several errors, the client gets the first.
    # How tokens are drawn: OpenAI's fields, and vLLM's. Absent or null is the model's own default,
    # where its checkpoint and its deployment have one; else off, and temperature 1.
    # Workers check token ids: only they know the vocabulary.
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=UINT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    # vLLM takes any above 0; a tiny one would make logits infinite, and drawing impossible.
    repetition_penalty: Annotated[float, Field(ge=1 / 16, le=16)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None

    model: str
    max_tokens: Annotated[int, Field(ge=1, le=UINT32)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    stop: list[Stop] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    ignore_eos: bool = False
    # What the answer is held to: OpenAI's field, and vLLM's, of which the guided ones are older.
    response_format: Any = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Not before: keys are read as numbers only straight from JSON.
    @pydantic.field_validator("logit_bias")
    @classmethod
    def _few_biased_tokens(cls, bias: dict[int, float] | None) -> dict[int, float] | None:
        if bias is not None and len(bias) > MAX_BIASED_TOKENS:
            raise PydanticCustomError(
                "logit_bias", "At most {limit} tokens are supported", {"limit": MAX_BIASED_TOKENS}
            )
        return bias

    @pydantic.field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        stops = [value] if isinstance(value, str) else value
        if isinstance(stops, list) and len(stops) > MAX_STOPS:
            raise PydanticCustomError(
                "stop", "At most {limit} stop strings are supported", {"limit": MAX_STOPS}
            )
        return stops

    @pydantic.field_validator("stop_token_ids", mode="before")
    @classmethod
    def _few_stop_tokens(cls, ids: Any, info: ValidationInfo) -> Any:
        bulk: Bulk | None = info.context
        if isinstance(ids, str) and bulk is not None and bulk.holds_ids(ids):
            raise PydanticCustomError(
                "too_long", "At most {limit} tokens are supported", {"limit": MAX_STOP_TOKENS}
            )
        return ids

    @property
    def choices_per_prompt(self) -> int:
        """OpenAI's n."""
        return self.n or 1

    @property
    def most_tokens(self) -> int | None:
        """Of each choice; None: not said."""
        return self.max_tokens

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check_supported(self) -> None:
        """Refuses what would change the answer and is not implemented."""
        refuse_unsupported(self.model_extra or {}, UNSUPPORTED)
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )

    @property
    def needs(self) -> frozenset[str]:
        """What a worker's Stats must have among their features to serve it."""
        # Read without what was cut out of the body: whether there is one shows in what is left.
        return frozenset() if self._output_format(None) is None else frozenset({NEEDED})

    @abstractmethod
    def prompts(self, created: float, bulk: Bulk | None) -> list[bytes]:
        """For each prompt the serialized GenerateRequest, without what differs by choice.

        The input stands first in it: routing reads there what the prompt begins with.

        `created`: seconds since the epoch; `bulk`: what placeholders in texts stand for.
        """

    def new_answer(self, created: float) -> Answer:
        """An empty answer in the shape of this kind of request."""
        return self.answer_type(
            model=self.model,
            created=created,
            choices_per_prompt=self.choices_per_prompt,
            include_usage=self.include_usage,
        )

    def base_request(
        self, created: float, *, max_tokens: int, bulk: Bulk | None
    ) -> worker_pb2.GenerateRequest:
        """The worker's request but for its input, logprobs and choice. Always with a seed."""
        seed = random.getrandbits(63) if self.seed is None else self.seed
        return worker_pb2.GenerateRequest(
            sampling=self._sampling(),
            stop=worker_pb2.StopConditions(
                max_tokens=max_tokens,
                strings=self._stops(bulk),
                token_ids=self.stop_token_ids or (),
                ignore_eos=self.ignore_eos,
            ),
            seed=seed % 2**64,
            created=created,
            output_format=self._output_format(bulk),
        )

    def _output_format(self, bulk: Bulk | None) -> worker_pb2.OutputFormat | None:
        if self.model_fields_set.isdisjoint(FORMAT_FIELDS):
            return None
        formats = {"response_format": read_format(self.response_format, "response_format", bulk)}
        if (asked := self.structured_outputs) is not None:
            formats["structured_outputs"] = read_structured_outputs(
                asked, "structured_outputs", bulk
            )
        for name in ("json", "regex", "choice", "grammar"):
            if (guided := getattr(self, f"guided_{name}")) is not None:
                field = f"guided_{name}"
                formats[field] = read_constraint(name, guided, field, bulk)
        return only_one(formats)

    def _stops(self, bulk: Bulk | None) -> list[str]:
        stops = self.stop or []
        if bulk is None:
            return stops
        stops = [text_of(stop, bulk, f"stop.{index}") for index, stop in enumerate(stops)]
        for index, stop in enumerate(stops):
            if len(stop) > MAX_STOP_LENGTH:
                raise InvalidRequestError(
                    f"Invalid 'stop.{index}': String should have at most {MAX_STOP_LENGTH} "
                    "characters.",
                    param=f"stop.{index}",
                )
        return stops

    def _sampling(self) -> worker_pb2.Sampling:
        return worker_pb2.Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            logit_bias=self.logit_bias or {},
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            unstated=worker_pb2.Unstated(
                temperature=self.temperature is None,
                top_k=self.top_k is None,
                top_p=self.top_p is None,
                min_p=self.min_p is None,
                repetition_penalty=self.repetition_penalty is None,
            ),
        )


Fields = TypeVar("Fields", bound=GenerationFields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that is valid, as far as can be said without its model."""

    model: str  # as the client named it
    stream: bool
    answer: BaseAnswer  # still empty
    choices_per_prompt: int
    prompts: list[bytes]  # serialized, without what differs by choice
    needs: frozenset[str] = frozenset()  # of the worker that serves it: see Stats.features
    session: str = ""  # what it belongs to, as the client says: requests of one go to one worker
    service_tier: Any = None  # as the client named it, whatever that is
    max_tokens: int | None = None  # of each choice; None: not said

    @property
    def size(self) -> int:
        """Bytes of all prompts."""
        return sum(map(len, self.prompts))


def read_request(
    kind: type[GenerationFields], body: bytearray, created: float, bulk: Bulk | None = None
) -> Asked:
    """A request from its JSON; InvalidRequestError names the field and what was expected.

    `created`: seconds since the epoch. `bulk`: what was cut out of the body before.
    """
    fields = parse(kind, body, bulk)
    return Asked(
        model=fields.model if bulk is None else text_of(fields.model, bulk, "model"),
        stream=bool(fields.stream),
        answer=fields.new_answer(created),
        choices_per_prompt=fields.choices_per_prompt,
        prompts=fields.prompts(created, bulk),
        needs=fields.needs,
        session=session_of(fields.model_extra, bulk),
        service_tier=(fields.model_extra or {}).get("service_tier"),
        max_tokens=fields.most_tokens,
    )


def session_of(fields: Mapping[str, Any] | None, bulk: Bulk | None) -> str:
    """What the client says that a request belongs to, among the fields that change no answer."""
    if not fields:
        return ""
    metadata = fields.get("metadata")
    values = [fields.get(name) for name in SESSION_FIELDS]
    if isinstance(metadata, dict):
        values.append(metadata.get("user_id"))  # Anthropic's
    for value in values:
        if isinstance(value, str) and value and (bulk is None or not bulk.is_in(value)):
            return value
    return ""


def refuse_unsupported(fields: Mapping[str, Any], unsupported: Neutral, prefix: str = "") -> None:
    """UnsupportedFieldError for the first that would change the answer."""
    for name, value in fields.items():
        if name in unsupported and value not in unsupported[name]:
            neutral = [v for v in unsupported[name] if v is not None]
            hint = f" Leave it out or send {neutral[0]!r}." if neutral else " Leave it out."
            where = prefix + name
            raise UnsupportedFieldError(f"{where!r} is not supported here.{hint}", param=where)


def parse(kind: type[Fields], body: bytearray, bulk: Bulk | None = None) -> Fields:
    """The fields of a body; InvalidRequestError names the field and what was expected."""
    try:
        request = kind.model_validate_json(body, context=bulk)
    except pydantic.ValidationError as error:
        raise explain(error, bulk) from None
    request.check_supported()
    return request

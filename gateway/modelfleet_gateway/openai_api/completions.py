"""`/v1/completions`: its requests and its answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import pydantic
from pydantic import Field, ValidationInfo
from pydantic_core import PydanticCustomError

from modelfleet_proto import worker_pb2
from modelfleet_proto.wire import nested

from .answer import Answer, Json, json_logprob, printable
from .bulk import Bulk
from .fields import MAX_CHOICES, MAX_TOP_LOGPROBS, UINT32, GenerationFields

PROMPT_FORMS: Final = (
    "Expected a string, a list of strings, a list of token ids, or a list of lists of token ids"
)


@dataclass(kw_only=True, eq=False)
class CompletionAnswer(Answer):
    """`text_completion`, whole and in chunks."""

    id_prefix = "cmpl-"
    whole_object = "text_completion"
    chunk_object = "text_completion"

    # Characters of the tokens so far, by choice.
    offsets: dict[int, int] = field(default_factory=lambda: defaultdict(int), init=False)

    def opening(self, index: int) -> Json | None:
        """Text needs no opening."""
        return None

    def part(self, index: int, text: str, logprobs: Json | None) -> Json:
        """New text."""
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": None}

    def closing(self, index: int, finish_reason: str) -> Json:
        """The last chunk of a choice."""
        return {"index": index, "text": "", "logprobs": None, "finish_reason": finish_reason}

    def choice(self, index: int, text: str, logprobs: Json | None, finish_reason: str) -> Json:
        """A finished choice."""
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def logprobs(self, index: int, tokens: Sequence[worker_pb2.TokenLogprobs]) -> Json:
        """OpenAI's four parallel lists."""
        texts = [printable(entry.chosen.token) for entry in tokens]
        offsets: list[int] = []
        for text in texts:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [json_logprob(entry.chosen.logprob) for entry in tokens],
            "top_logprobs": [
                {printable(t.token): json_logprob(t.logprob) for t in (*entry.top, entry.chosen)}
                for entry in tokens
            ],
            "text_offset": offsets,
        }


class CompletionRequest(GenerationFields):
    """The body of a plain completion."""

    answer_type = CompletionAnswer

    prompt: Any  # any of PROMPT_FORMS; a list of prompts once it is checked
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    @pydantic.field_validator("prompt")
    @classmethod
    def _known_form(cls, prompt: Any, info: ValidationInfo) -> list[str] | list[list[int]]:
        prompts: Any = prompt
        if isinstance(prompt, str) or _is_ids(prompt):
            prompts = [prompt]
        if not isinstance(prompts, list) or not prompts:
            raise PydanticCustomError("prompt", PROMPT_FORMS)
        ids = {_stands_for_ids(one, info.context) for one in prompts}
        if len(ids) > 1 or not all(isinstance(one, str) or _is_ids(one) for one in prompts):
            raise PydanticCustomError("prompt", PROMPT_FORMS)
        return prompts

    @pydantic.model_validator(mode="after")
    def _bounded(self) -> CompletionRequest:
        choices = len(self.prompt) * self.choices_per_prompt
        if choices > MAX_CHOICES:
            raise PydanticCustomError(
                "prompt",
                "At most {limit} choices (prompts times n) are supported, not {choices}",
                {"limit": MAX_CHOICES, "choices": choices},
            )
        return self

    def prompts(self, created: float, bulk: Bulk | None) -> list[bytes]:
        """Each of them."""
        base = self.base_request(created, max_tokens=self.max_tokens or 0, bulk=bulk)
        base.logprobs.enabled = self.logprobs is not None
        base.logprobs.top = self.logprobs or 0
        common = base.SerializeToString()
        inputs = (_input(prompt, bulk) for prompt in self.prompt)
        return [b"".join([*nested(field, [data]), common]) for field, data in inputs]


def _input(prompt: str | list[int], bulk: Bulk | None) -> tuple[int, bytes]:
    """The field of a GenerateRequest that holds this prompt, and its serialized value."""
    field = worker_pb2.GenerateRequest.PROMPT_TOKEN_IDS_FIELD_NUMBER
    if isinstance(prompt, list):
        return field, worker_pb2.TokenIds(ids=prompt).SerializeToString()
    if bulk is not None and bulk.holds_ids(prompt):
        return field, bulk.token_ids(prompt)
    text = prompt.encode() if bulk is None else bulk.utf8(prompt)
    return worker_pb2.GenerateRequest.PROMPT_FIELD_NUMBER, text


def _stands_for_ids(prompt: Any, bulk: Bulk | None) -> bool:
    if isinstance(prompt, str):
        return bulk is not None and bulk.holds_ids(prompt)
    return True


def _is_ids(value: Any) -> bool:
    # bool is an int in Python, not in JSON
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(one) is int and 0 <= one <= UINT32 for one in value)
    )

"""`/tokenize` and `/detokenize`, as vLLM has them: their requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

import pydantic
from pydantic import BaseModel, Field, ValidationInfo
from pydantic_core import PydanticCustomError
from typing_extensions import override

from modelfleet_proto import worker_pb2

from .answer import Json, printable
from .bulk import MAX_IDS, Bulk
from .completions import CompletionRequest
from .fields import GenerationFields, Neutral
from .translated import STRICT, TranslatedRequest

# Chats have these by the same names.
SAME: Final = ("messages", "tools", "tool_choice", "chat_template_kwargs", "reasoning_effort")
ID_SIZE: Final = 2**32


class TokenizeRequest(TranslatedRequest):
    """The body of a request for the ids of a prompt or of a chat."""

    unsupported: ClassVar[Neutral] = {
        "add_generation_prompt": (None, True),
        "chat_template": (None,),
        "continue_final_message": (None, False),
        "mm_processor_kwargs": (None, {}),
    }

    prompt: str | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @pydantic.model_validator(mode="after")
    def _has_one_input(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("prompt", "Expected either 'prompt' or 'messages'")
        if self.messages is not None and self.add_special_tokens:
            raise PydanticCustomError(
                "add_special_tokens", "A chat template writes the special tokens itself"
            )
        return self

    @property
    @override
    def target(self) -> type[GenerationFields]:
        return CompletionRequest if self.messages is None else super().target

    @override
    def translate(self, bulk: Bulk | None) -> Json:
        if self.messages is None:
            return {"prompt": self.prompt}
        fields = {"messages": self.messages} | (self.model_extra or {})
        return {name: fields[name] for name in SAME if name in fields}

    def written(self, response: worker_pb2.TokenizeResponse) -> Json:
        """The answer."""
        texts = [printable(text) for text in response.texts] if self.return_token_strs else None
        return {
            "count": len(response.ids),
            "max_model_len": response.context_length,
            "tokens": list(response.ids),
            "token_strs": texts,
        }


class DetokenizeRequest(BaseModel):
    """The body of a request for the text of ids."""

    model_config = STRICT

    model: str
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=ID_SIZE)]], Field(max_length=MAX_IDS)]

    @pydantic.field_validator("tokens", mode="before")
    @classmethod
    def _read_cut_out(cls, value: Any, info: ValidationInfo) -> Any:
        """A long list was cut out of a large body."""
        bulk: Bulk | None = info.context
        if isinstance(value, str) and bulk is not None and bulk.holds_ids(value):
            return [int(part) for part in bulk.utf8(value).split(b",")]
        return value

"""The fields that say how tokens are drawn: OpenAI's, and vLLM's beside them."""

from __future__ import annotations

from typing import Annotated, Final

import pydantic
from pydantic import BaseModel, Field
from pydantic_core import PydanticCustomError

from modelfleet_proto import worker_pb2

MAX_BIASED_TOKENS: Final = 300
UINT32: Final = 2**32 - 1

TokenId = Annotated[int, Field(ge=0, le=UINT32)]
Bias = Annotated[float, Field(ge=-100, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class SamplingFields(BaseModel):
    """Absent or null is off, and the temperature 1. Only workers know the vocabulary."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=UINT32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    # vLLM takes any above 0; a tiny one would make logits infinite, and drawing impossible.
    repetition_penalty: Annotated[float, Field(ge=1 / 16, le=16)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None

    # Not before: keys are read as numbers only straight from JSON.
    @pydantic.field_validator("logit_bias")
    @classmethod
    def _few_biased_tokens(cls, bias: dict[int, float] | None) -> dict[int, float] | None:
        if bias is not None and len(bias) > MAX_BIASED_TOKENS:
            raise PydanticCustomError(
                "logit_bias", "At most {limit} tokens are supported", {"limit": MAX_BIASED_TOKENS}
            )
        return bias

    def sampling(self) -> worker_pb2.Sampling:
        """As a worker takes it."""
        return worker_pb2.Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            logit_bias=self.logit_bias or {},
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
        )

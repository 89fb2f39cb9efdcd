"""`/api/embed`, and `/api/embeddings` from before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field
from typing_extensions import override

from ..openai_api.bulk import Bulk
from ..openai_api.embeddings import EmbedFields, numbers, read_inputs
from ..openai_api.fields import UINT32
from ..routing.embed_request import EmbedQuestion
from .models import without_tag

NANOSECONDS: Final = 1_000_000_000


class OllamaEmbedFields(EmbedFields):
    """What both have in common. How Ollama runs a model (`options`, `keep_alive`) is ignored."""

    model: Annotated[str, AfterValidator(without_tag)]

    @override
    def one(self, index: int, vector: bytes) -> str:
        return numbers(vector)


class EmbedRequest(OllamaEmbedFields):
    """The body of `/api/embed`."""

    input: Any  # a string, or a list of them
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=UINT32)] | None = None

    @override
    def question(self, bulk: Bulk | None) -> EmbedQuestion:
        return EmbedQuestion(
            inputs=read_inputs(self.input, "input", bulk),
            truncate=self.truncate is not False,
            dimensions=self.dimensions or 0,
        )

    @override
    def whole(self, model: str, ones: Sequence[str], tokens: int, seconds: float) -> str:
        return (
            f'{{"model":{json.dumps(model)},"embeddings":[{",".join(ones)}],'
            f'"total_duration":{int(seconds * NANOSECONDS)},"load_duration":0,'
            f'"prompt_eval_count":{tokens}}}'
        )


class OldEmbeddingsRequest(OllamaEmbedFields):
    """The body of `/api/embeddings`."""

    prompt: str

    @override
    def question(self, bulk: Bulk | None) -> EmbedQuestion:
        return EmbedQuestion(inputs=read_inputs(self.prompt, "prompt", bulk), truncate=True)

    @override
    def whole(self, model: str, ones: Sequence[str], tokens: int, seconds: float) -> str:
        return f'{{"embedding":{ones[0]}}}'

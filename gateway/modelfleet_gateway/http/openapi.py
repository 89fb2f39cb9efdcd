"""The OpenAPI document of what clients may call, made of the models that read their bodies."""

from __future__ import annotations

import functools
from typing import Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema
from typing_extensions import override

from modelfleet_proto.handshake import VERSION

from ..anthropic_api.request import CountTokensRequest, MessagesRequest
from ..batches.request import BatchRequest
from ..ollama_api.embed import EmbedRequest, OldEmbeddingsRequest
from ..ollama_api.request import ChatRequest as OllamaChat
from ..ollama_api.request import GenerateRequest as OllamaGenerate
from ..openai_api.answer import Json
from ..openai_api.chat import ChatRequest
from ..openai_api.completions import CompletionRequest
from ..openai_api.embeddings import EmbeddingsRequest
from ..openai_api.tokenize import DetokenizeRequest, TokenizeRequest
from ..responses_api.request import InputFields, ResponsesRequest
from .dialects import ANTHROPIC, OLLAMA, dialect_of
from .ollama import Named

POSTS: Final[dict[str, tuple[str, type[BaseModel]]]] = {
    "/v1/chat/completions": ("OpenAI: a chat completion", ChatRequest),
    "/v1/completions": ("OpenAI: a completion", CompletionRequest),
    "/v1/embeddings": ("OpenAI: embeddings", EmbeddingsRequest),
    "/v1/responses": ("OpenAI: a response", ResponsesRequest),
    "/v1/responses/input_tokens": ("OpenAI: the number of its tokens", InputFields),
    "/v1/messages": ("Anthropic: a message", MessagesRequest),
    "/v1/messages/count_tokens": ("Anthropic: the number of its tokens", CountTokensRequest),
    "/api/chat": ("Ollama: a chat", OllamaChat),
    "/api/generate": ("Ollama: a completion", OllamaGenerate),
    "/api/embed": ("Ollama: embeddings", EmbedRequest),
    "/api/embeddings": ("Ollama: one embedding", OldEmbeddingsRequest),
    "/api/show": ("Ollama: a model", Named),
    "/tokenize": ("vLLM: the tokens of a text or a chat", TokenizeRequest),
    "/detokenize": ("vLLM: the text of tokens", DetokenizeRequest),
}
GETS: Final = {
    "/v1/models": "OpenAI: every name that answers",
    "/v1/models/{model}": "OpenAI: one of them",
    "/api/tags": "Ollama: every name that answers",
    "/api/ps": "Ollama: those that workers serve now",
    "/api/version": "Ollama: the version of its API that this one is like",
}
# Where the gateway keeps batches. Only one of them has a body of JSON.
BATCHES: Final = {
    "/v1/files": {"get": "OpenAI: all files", "post": "OpenAI: a file (multipart/form-data)"},
    "/v1/files/{id}": {"get": "OpenAI: one of them", "delete": "OpenAI: deletes it"},
    "/v1/files/{id}/content": {"get": "OpenAI: what it contains"},
    "/v1/batches": {"get": "OpenAI: all batches", "post": "OpenAI: a batch"},
    "/v1/batches/{id}": {"get": "OpenAI: one of them"},
    "/v1/batches/{id}/cancel": {"post": "OpenAI: ends it, and keeps what is done"},
}
TEXT: Final = {"type": "string"}
OR_NULL: Final = {"type": ["string", "null"]}


class Schemas(GenerateJsonSchema):
    """Where a validator sees a value before its type does, it takes more than the type says."""

    @override
    def function_before_schema(
        self, schema: core_schema.BeforeValidatorFunctionSchema
    ) -> JsonSchemaValue:
        return {}


@functools.cache
def document(*, batches: bool = False) -> Json:
    """All paths, with the schemas of their bodies and of their errors."""
    bodies: list[type[BaseModel]] = [*(model for _, model in POSTS.values()), BatchRequest]
    models = list(dict.fromkeys(bodies))
    refs, schemas = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
        schema_generator=Schemas,
    )
    paths: Json = {path: {"get": _get(path, summary)} for path, summary in GETS.items()}
    for path, (summary, model) in POSTS.items():
        schema = refs[model, "validation"]
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": _operation(path, summary) | {"requestBody": body}}
    if batches:
        paths |= _batch_paths(refs[BatchRequest, "validation"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "Modelfleet", "version": VERSION},
        "paths": paths,
        "components": {"schemas": schemas.get("$defs", {}) | _errors()},
    }


def _batch_paths(schema: JsonSchemaValue) -> Json:
    paths: Json = {
        path: {method: _get(path, summary) for method, summary in methods.items()}
        for path, methods in BATCHES.items()
    }
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    paths["/v1/batches"]["post"]["requestBody"] = body
    return paths


def _get(path: str, summary: str) -> Json:
    operation = _operation(path, summary)
    for name in ("model", "id"):
        if f"{{{name}}}" in path:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": TEXT}
            ]
    return operation


def _operation(path: str, summary: str) -> Json:
    names = {ANTHROPIC: "AnthropicError", OLLAMA: "OllamaError"}
    error = {"$ref": f"#/components/schemas/{names.get(dialect_of(path), 'OpenAIError')}"}
    answer = {"application/json": {"schema": {"type": "object"}}}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "The answer; a stream if the body says so.", "content": answer},
            "default": {
                "description": "What is wrong.",
                "content": {"application/json": {"schema": error}},
            },
        },
    }


def _errors() -> Json:
    openai = {"message": TEXT, "type": TEXT, "param": OR_NULL, "code": OR_NULL}
    anthropic = {"type": TEXT, "message": TEXT}
    return {
        "OpenAIError": _object({"error": _object(openai)}),
        "AnthropicError": _object({"type": {"const": "error"}, "error": _object(anthropic)}),
        "OllamaError": _object({"error": TEXT}),
    }


def _object(properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}

"""What Ollama's clients are told about models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from modelfleet_proto import worker_pb2

from ..openai_api.answer import Json
from ..routing.view import ModelView

# The version of Ollama's API that this one is like: clients ask for a least one.
API_VERSION: Final = "0.12.6"


def without_tag(name: str) -> str:
    """Clients of Ollama may add its default one; models have none here."""
    return name.removesuffix(":latest")


def tag(name: str, model: ModelView, stats: worker_pb2.Stats | None) -> Json:
    """A model in `/api/tags`. A digest is known while a worker serves it."""
    return {
        "name": name,
        "model": name,
        "modified_at": datetime.fromtimestamp(model.created, UTC).isoformat(),
        "size": 0,
        "digest": stats.model_digest if stats is not None else "",
        "details": details(stats),
    }


def running(name: str, stats: worker_pb2.Stats) -> Json:
    """A model in `/api/ps`: one that a worker serves now."""
    return {
        "name": name,
        "model": name,
        "size": 0,
        "digest": stats.model_digest,
        "details": details(stats),
        "context_length": stats.context_length,
        "size_vram": 0,
    }


def shown(model: ModelView, stats: worker_pb2.Stats | None) -> Json:
    """`/api/show`."""
    has_tools = stats is None or "tools" in stats.features
    info: Json = {"general.architecture": "modelfleet", "general.name": model.model}
    if stats is not None:
        info["modelfleet.context_length"] = stats.context_length
    return {
        "modelfile": "",
        "parameters": "",
        "template": "",
        "modified_at": datetime.fromtimestamp(model.created, UTC).isoformat(),
        "details": details(stats),
        "model_info": info,
        "capabilities": ["completion", *(["tools"] if has_tools else [])],
    }


def details(stats: worker_pb2.Stats | None) -> Json:
    """What is known of it; Ollama's clients expect each of these fields."""
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": "",
        "families": [],
        "parameter_size": "",
        "quantization_level": stats.computation.dtype if stats is not None else "",
    }

"""`/v1/models`."""

from __future__ import annotations

from ..routing.view import ModelView, View
from .answer import Json


def model_list(view: View) -> Json:
    """Every name that answers."""
    return {"object": "list", "data": [model_card(name, view.resolve(name)) for name in view.names]}


def model_card(name: str, model: ModelView) -> Json:
    """One model; `root` is the deployment that answers."""
    return {
        "id": name,
        "object": "model",
        "created": int(model.created),
        "owned_by": model.namespace,
        "root": model.model,
    }

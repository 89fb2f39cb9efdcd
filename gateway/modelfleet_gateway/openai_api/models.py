"""`/v1/models`."""

from __future__ import annotations

from ..access.caller import Caller
from ..routing.view import ModelView, View
from .answer import Json


def model_list(view: View, caller: Caller) -> Json:
    """Every name that answers this caller."""
    names = view.names_for(caller)
    return {"object": "list", "data": [model_card(name, view.resolve(name)) for name in names]}


def model_card(name: str, model: ModelView) -> Json:
    """One model; `root` is the deployment that answers."""
    return {
        "id": name,
        "object": "model",
        "created": int(model.created),
        "owned_by": model.namespace,
        "root": model.model,
    }

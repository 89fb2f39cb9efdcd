"""`/v1/models`."""

from __future__ import annotations

from ..routing.view import Route, View
from .shapes import Json


def model_list(view: View) -> Json:
    """Every name that answers."""
    return {"object": "list", "data": [model_card(name, view.resolve(name)) for name in view.names]}


def model_card(name: str, route: Route) -> Json:
    """One model; `root` is the deployment that answers."""
    return {
        "id": name,
        "object": "model",
        "created": int(route.created),
        "owned_by": route.namespace,
        "root": route.model,
    }

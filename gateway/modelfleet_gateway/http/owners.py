"""Whose files and batches a request is about."""

from __future__ import annotations

from starlette.requests import Request

from ..access.caller import caller_of
from ..errors import CrossOriginError


def owner_of(request: Request) -> str:
    """The tenant of its key; empty where there are no keys: then all share."""
    return caller_of(request.scope).tenant


def key_id_of(request: Request) -> str:
    """The id of its key; empty where there are no keys."""
    return caller_of(request.scope).key_id


def refuse_pages(request: Request, origins: frozenset[str]) -> None:
    """CrossOriginError for pages of other origins: browsers send forms without asking first."""
    origin = request.headers.get("origin")
    if origin is not None and "*" not in origins and origin.lower() not in origins:
        raise CrossOriginError("Pages of this origin may not call this gateway (--cors-origin).")

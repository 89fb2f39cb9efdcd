"""Texts of a body that may have been cut out of it, and what is said of a field that is wrong."""

from __future__ import annotations

import pydantic

from ..errors import MAX_QUOTED, InvalidRequestError
from .bulk import Bulk


def text_of(text: str, bulk: Bulk, where: str) -> str:
    """A string that may have been cut out."""
    return utf8_of(text, bulk, where).decode()


def utf8_of(text: str, bulk: Bulk, where: str) -> bytes:
    """A string that may have been cut out, in UTF-8; InvalidRequestError if it was none."""
    if bulk.holds_ids(text):
        raise InvalidRequestError(
            f"Invalid {where!r}: Input should be a valid string.", param=where
        )
    return bulk.utf8(text)


def explain(error: pydantic.ValidationError, bulk: Bulk | None) -> InvalidRequestError:
    """The first error of a body, as its client gets it."""
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return InvalidRequestError(f"The body is not valid JSON: {first['msg']}.")
    path = [str(part) for part in first["loc"]]
    if first["type"] == "model_type" and not path:
        return InvalidRequestError("The body must be a JSON object.")
    if not path:  # a rule about several fields; its type names the one to change
        return InvalidRequestError(f"{first['msg']}.", param=first["type"])
    of_key = path[-1] == "[key]"  # then the one before it is the key, which `found` shows
    where = ".".join(path[:-2] if of_key else path)
    if len(where) > MAX_QUOTED:  # a key that the client made up
        where = path[0]
    if first["type"] == "missing":
        return InvalidRequestError(f"Missing required parameter: {where!r}.", param=where)
    found = first["input"]
    shown = f" (found {found!r})" if isinstance(found, int | float | str | None) else ""
    if len(shown) > MAX_QUOTED or (bulk is not None and bulk.is_in(shown)):
        shown = ""
    what = f"key of {where!r}" if of_key else repr(where)
    return InvalidRequestError(f"Invalid {what}: {first['msg']}{shown}.", param=where)

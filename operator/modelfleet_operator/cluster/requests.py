"""One request to the Kubernetes API: its answer as text, its errors translated into ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Iterator
from typing import Any

import aiohttp
from kubernetes.aio import client

from ..errors import PassingError, RejectedError

# The same request may succeed later; after other refusals a person must correct something.
_PASSING = frozenset({401, 408, 409, 429})


async def answer(request: Awaitable[Any]) -> str:
    """The body, unparsed: a write that succeeded must not fail because of its answer's type.

    What we wrote comes back through the watch.
    """
    response: aiohttp.ClientResponse = await request
    async with response:
        text = await response.text()
    if response.status >= 400:
        raise client.ApiException(status=response.status, reason=response.reason, body=text)
    return text


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """PassingError for what may pass by itself, RejectedError for what a person must fix."""
    try:
        yield
    except client.ApiException as error:
        message = f"{doing}: {error.status} {error.reason}: {_message(error)}"
        status = error.status or 0
        if status in _PASSING or status >= 500:
            raise PassingError(message) from error
        raise RejectedError(message) from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PassingError(f"{doing}: {str(error) or type(error).__name__}") from error


def status_of(error: Exception) -> int | None:
    """The HTTP status behind one of these errors; None if there was no answer."""
    cause = error.__cause__
    return cause.status if isinstance(cause, client.ApiException) else None


def _message(error: client.ApiException) -> str:
    """The sentence in the API server's Status object, or the body as it is."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body)

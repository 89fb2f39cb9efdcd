"""One request to the Kubernetes API: its answer as text, its errors translated into ours."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client

from ..errors import PassingError, RejectedError
from .observing import Object, owned_by

TIMEOUT = 15.0  # seconds a request may take
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"

# The same request may succeed later; after other refusals a person must correct something.
_PASSING = frozenset({401, 408, 409, 429})


async def send(
    api_client: client.ApiClient,
    method: str,
    path: str,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, str] | None = None,
    content_type: str = "application/json",
) -> str:
    """The answer's body, unparsed. `body` is sent as it is: JSON's types.

    The client's own method for each kind makes objects of its classes first, which takes longer
    than all the rest of a request and leaves out, without a word, what these do not know.
    """
    headers = {"Accept": "application/json", "Content-Type": content_type}
    _, url, headers, _, _ = await api_client.param_serialize(
        method,
        path,
        query_params=list((query or {}).items()),
        header_params=headers,
        auth_settings=["BearerToken"],
    )
    sent = api_client.call_api(method, url, headers, body, _request_timeout=TIMEOUT)
    return await _text((await sent).response)


async def answer(request: Awaitable[Any]) -> str:
    """The body, unparsed: a write that succeeded must not fail because of its answer's type.

    What we wrote comes back through the watch.
    """
    return await _text(await request)


async def _text(response: aiohttp.ClientResponse) -> str:
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


def path_of(api: str, namespace: str, plural: str) -> str:
    """Of the objects of a kind in a namespace; `api`: `api/v1`, `apis/apps/v1`, ..."""
    return f"/{api}/namespaces/{namespace}/{plural}"


def owned(kind: str, found: Object, owner_uid: str) -> Object:
    """What was found, if it is ours; RejectedError if it is another's."""
    if not owned_by(found, owner_uid):
        name = f"{found['metadata']['namespace']}/{found['metadata']['name']}"
        raise RejectedError(f"{kind} {name} exists and has another owner: delete or rename it")
    return found


class _Outcome:
    found = True


@contextlib.contextmanager
def gone_is_success() -> Iterator[_Outcome]:
    """404: it is gone. 409 with a uid: another object has its name now, so it is gone, too."""
    outcome = _Outcome()
    try:
        yield outcome
    except client.ApiException as error:
        if error.status not in {404, 409}:
            raise
        outcome.found = False


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

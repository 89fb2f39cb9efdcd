"""Sends botocore's requests by our own HTTP client, which keeps to http.py's rules."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2

from .http import answers_up_to, guard

_CHUNK = 1 << 20
_LARGEST_LIST = 16 << 20  # bytes of a page of 1,000 names


class BucketSender:
    """For botocore's event `before-send`: what it returns takes the place of botocore's sending."""

    def __init__(self, bundle: str | None) -> None:
        self._client = guard(
            httpx2.Client(
                timeout=httpx2.Timeout(60.0, connect=10.0),
                verify=ssl.create_default_context(cafile=bundle) if bundle else True,
            )
        )

    def __call__(self, request: Any, event_name: str, **_: Any) -> Any:
        """Raises botocore's HTTPClientError, which it tries again, and ModelError."""
        from botocore.awsrequest import AWSResponse
        from botocore.exceptions import HTTPClientError

        url = urlsplit(request.url)
        # As it was signed: httpx would write some characters of a key in another way.
        target = url.path + (f"?{url.query}" if url.query else "")
        ours = self._client.build_request(
            request.method,
            f"{url.scheme}://{url.netloc}/",
            headers={name: _text(value) for name, value in request.headers.items()},
            content=request.body or None,
            extensions={"target": target.encode()},
        )
        is_object = event_name.endswith(".GetObject")
        try:
            with answers_up_to(None if is_object else _LARGEST_LIST):
                answer = self._client.send(ours, stream=True)
            if not is_object or not answer.is_success:
                # Here, where its errors are caught; read, it is streamed from memory.
                with contextlib.closing(answer):
                    content = b"".join(answer.iter_raw())
                return AWSResponse(request.url, answer.status_code, answer.headers, _Read(content))
        except httpx2.TransportError as error:
            raise HTTPClientError(error=error) from error
        return AWSResponse(request.url, answer.status_code, answer.headers, _Streamed(answer))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class _Read:
    """A body in memory, as botocore reads it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self) -> Iterator[bytes]:
        yield self._content


class _Streamed:
    """A body that is still on its way."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._answer = answer
        self._chunks = answer.iter_raw(_CHUNK)

    def read(self, size: int) -> bytes:
        """The next bytes, at most a chunk; `size` is at least that. Empty at the end."""
        del size
        return next(self._chunks, b"")

    def close(self) -> None:
        self._answer.close()

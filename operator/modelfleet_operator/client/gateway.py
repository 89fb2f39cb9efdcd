"""A gateway's OpenAI API over HTTP, as far as the command line needs it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from ..errors import EndpointError

CONNECT_TIMEOUT: Final = 10.0  # seconds
# A waking model sends comments every few seconds; without any the gateway is gone.
READ_TIMEOUT: Final = 120.0
_KEEP_ALIVE: Final = "keep-alive"  # a comment for proxies, not for people


@dataclass(frozen=True, slots=True)
class Token:
    """Some text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """What the request waits for, in the gateway's words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer's last word: `stop`, or `length` where it was cut."""

    reason: str


Event = Token | Waiting | Finished


def normalize(endpoint: str) -> str:
    """`HOST:PORT` and `http://HOST/v1/` become `http://HOST…`. EndpointError: it is no URL."""
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise EndpointError(
            f"--endpoint: expected a URL such as http://127.0.0.1:8080, found {endpoint[:200]!r}"
        )
    return url.rstrip("/").removesuffix("/v1")


def connect(endpoint: str, key: str = "") -> httpx.Client:
    """A client for it; a proxy of the environment is for other machines only."""
    return httpx.Client(
        base_url=endpoint,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT),
        trust_env=not _is_here(urlsplit(endpoint).hostname or ""),
    )


def list_models(gateway: httpx.Client) -> list[dict[str, Any]]:
    """As `/v1/models` says. EndpointError."""
    with _translated(gateway):
        answer = gateway.get("/v1/models")
    if answer.status_code != httpx.codes.OK:
        raise EndpointError(_message(answer.status_code, answer.text))
    try:
        return list(answer.json()["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise EndpointError(f"{gateway.base_url} is no gateway: /v1/models is no list") from error


def stream_chat(
    gateway: httpx.Client, model: str, messages: Sequence[Mapping[str, str]], **options: Any
) -> Generator[Event, None, None]:
    """One answer as it comes; closing the generator ends the request. EndpointError."""
    body = {"model": model, "messages": list(messages), "stream": True, **options}
    headers = {"x-modelfleet-progress": "true"}
    with (
        _translated(gateway),
        gateway.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        if answer.status_code != httpx.codes.OK:
            answer.read()
            raise EndpointError(_message(answer.status_code, answer.text))
        yield from read_events(_lines(answer.iter_bytes()))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    # Not httpx's iter_lines: it also ends lines at U+2028 and U+0085, which JSON may hold as such.
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").removesuffix("\r")
    yield rest.decode(errors="replace")


def read_events(lines: Iterator[str]) -> Iterator[Event]:
    """Server-sent events of a streamed chat. EndpointError for one that ends in an error.

    `: waiting for a worker; 1 queued` -> Waiting, `data: {"choices": [...]}` -> Token.
    """
    is_over = False
    for line in lines:
        if line.startswith(":"):
            if (reason := line[1:].strip()) != _KEEP_ALIVE:
                yield Waiting(reason)
        elif line.startswith("data:"):
            data = line[5:].strip()
            if data == "[DONE]":
                return
            for event in _read_chunk(data):
                is_over = is_over or isinstance(event, Finished)
                yield event
    if not is_over:
        raise EndpointError("the gateway ended the answer before it was whole")


def _read_chunk(data: str) -> Iterator[Event]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise EndpointError(f"expected JSON in the stream, found {data[:80]!r}") from error
    if not isinstance(chunk, dict):
        return
    if "error" in chunk:
        raise EndpointError(_error_text(chunk) or "the gateway ended the answer with an error")
    for choice in chunk.get("choices") or ():
        if not isinstance(choice, dict):
            continue
        if text := (choice.get("delta") or {}).get("content"):
            yield Token(str(text))
        if reason := choice.get("finish_reason"):
            yield Finished(str(reason))


def _message(status: int, text: str) -> str:
    """The API's own sentence, or what the answer begins with."""
    with contextlib.suppress(ValueError):
        if said := _error_text(json.loads(text)):
            return said
    return f"the gateway answered {status}: {' '.join(text.split())[:200]}"


def _error_text(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


@contextlib.contextmanager
def _translated(gateway: httpx.Client) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        what = str(error) or type(error).__name__
        raise EndpointError(f"no gateway answers at {gateway.base_url}: {what}") from error


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""HTTP clients for servers of this machine, which share the certificates that none of them needs.

Reading them takes 47 ms of a processor in each client; `httpx.get` makes a client for a call.
"""

from __future__ import annotations

import functools
import ssl
from typing import Any

import httpx
import openai


@functools.cache
def tls() -> ssl.SSLContext:
    """What httpx would make for each client: `verify=tls()`."""
    return httpx.create_ssl_context()


def openai_client(url: str, **options: Any) -> openai.AsyncOpenAI:
    """The official client of http://HOST:PORT; never retries by itself: it would hide a refusal."""
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key="none",
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(verify=tls()),
        **options,
    )

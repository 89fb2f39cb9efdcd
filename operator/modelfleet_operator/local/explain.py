"""`modelfleet explain` on this machine: asks the `modelfleet up` that runs here."""

from __future__ import annotations

import httpx

from ..errors import ExplainError
from ..explain.snapshot import Snapshot, load_snapshot
from .state import StateDirectory

TIMEOUT = 5.0  # seconds


def fetch_snapshot(directory: StateDirectory, key: str) -> Snapshot:
    """Of `namespace/name`. ExplainError with what to do instead."""
    url = f"http://{directory.explain_address()}/explain/{key}"
    try:
        answer = httpx.get(url, timeout=TIMEOUT, trust_env=False)
    except httpx.HTTPError as error:
        raise ExplainError(f"`modelfleet up` did not answer at {url}: {error}") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise ExplainError(directory.has_no(key))
    if answer.status_code != httpx.codes.OK:
        raise ExplainError(answer.text.strip())
    return load_snapshot(answer.content)

"""The Secrets of API keys, as `modelfleet key` makes, lists, changes and deletes them."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from ..api.key_secret import LABEL, is_key_secret
from ..errors import ApiKeyError, PassingError, RejectedError
from .api_keys import KeySecret, read_secret
from .connection import Client, load_configuration
from .observing import Object
from .requests import MERGE, path_of, send, status_of, translated

CONFLICT, NOT_FOUND = 409, 404


class KeyStore:
    """Those of one namespace, with the rights of the kubeconfig's user. Raises ApiKeyError."""

    def __init__(self, api: Client, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    async def all(self) -> list[KeySecret]:
        """All of them, by name."""
        with translated(f"listing the secrets labelled {LABEL} in {self._namespace}"):
            text = await send(self._api, "GET", self._path(), query={"labelSelector": LABEL})
        found = map(read_secret, json.loads(text)["items"])
        return sorted(found, key=lambda secret: secret.id)

    async def create(self, secret: Mapping[str, Any]) -> None:
        """ApiKeyError, too, if there is one of this name."""
        name = secret["metadata"]["name"]
        try:
            with translated(f"creating secret {self._namespace}/{name}"):
                await send(self._api, "POST", self._path(), secret)
        except PassingError as error:
            if status_of(error) != CONFLICT:
                raise
            raise ApiKeyError(
                f"there is a Secret {self._namespace}/{name} already: choose another name, or give "
                "it a second key with --add"
            ) from error

    async def read(self, name: str) -> KeySecret:
        """The one of this name; ApiKeyError: there is none, or it is no key."""
        try:
            with translated(f"reading secret {self._namespace}/{name}"):
                found: Object = json.loads(await send(self._api, "GET", self._path(name)))
        except RejectedError as error:
            if status_of(error) != NOT_FOUND:
                raise
            raise ApiKeyError(f"there is no API key {self._namespace}/{name}") from error
        if not is_key_secret({"kind": "Secret", **found}):
            raise ApiKeyError(
                f"the Secret {self._namespace}/{name} is no key: not labelled {LABEL}"
            )
        return read_secret(found)

    async def set_hashes(self, secret: KeySecret, hashes: list[str]) -> None:
        """From now on these keys are valid, as hashes only."""
        name = secret.metadata["name"]
        text = base64.b64encode("\n".join(hashes).encode()).decode()
        patch = {
            "metadata": {"uid": secret.metadata["uid"]},
            "data": {"hash": text, "key": None},
        }
        with translated(f"changing secret {self._namespace}/{name}"):
            await send(self._api, "PATCH", self._path(name), patch, content_type=MERGE)

    async def delete(self, secret: KeySecret) -> None:
        """Exactly this one."""
        name = secret.metadata["name"]
        options = {"preconditions": {"uid": secret.metadata["uid"]}}
        with translated(f"deleting secret {self._namespace}/{name}"):
            await send(self._api, "DELETE", self._path(name), options)

    def _path(self, name: str = "") -> str:
        path = path_of("api/v1", self._namespace, "secrets")
        return f"{path}/{name}" if name else path


@contextlib.asynccontextmanager
async def key_store(
    namespace: str, kubeconfig: Path | None, context: str | None
) -> AsyncIterator[KeyStore]:
    """Of the cluster of a kubeconfig."""
    configuration = await load_configuration(kubeconfig, context)
    async with Client(configuration, may_write=lambda: None, answered=lambda *_: None) as api:
        try:
            yield KeyStore(api, namespace)
        except (PassingError, RejectedError) as error:
            raise ApiKeyError(str(error)) from error

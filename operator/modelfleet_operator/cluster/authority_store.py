"""Keeps the certificate authorities in a Secret, and what is trusted in a ConfigMap beside it.

Every replica reads them; the one that leads makes and replaces them. Both objects are there from
the start (the chart creates them empty): so the operator needs no right to create Secrets, with
which it could make itself the token of any ServiceAccount of its namespace.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Callable
from typing import Any, NoReturn

import structlog
from kubernetes.aio import client

from modelfleet_proto.mtls.names import Identity

from ..decisions.authorities import Lifetimes
from ..errors import PassingError, RejectedError
from ..fleet.authority import Authorities, read_authorities
from ..fleet.issuing import Issuing
from .requests import path_of, send, status_of, translated

AUTHORITIES = "authorities.json"  # in the Secret
BUNDLE = "ca.crt"  # in the ConfigMap
FIRST_PAUSE = 0.5  # seconds between looks while there is none
PAUSE = 30.0  # and afterwards

log = structlog.get_logger()


class AuthorityStore:
    """One replica's. `run` tells `issuing` what there is."""

    def __init__(
        self,
        api_client: client.ApiClient,
        issuing: Issuing,
        lifetimes: Lifetimes,
        *,
        namespace: str,
        name: str,
        itself: Identity,
        leads: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`name`: of the Secret and of the ConfigMap."""
        self._send = functools.partial(send, api_client)
        self._issuing = issuing
        self._lifetimes = lifetimes
        self._secrets = path_of("api/v1", namespace, "secrets") + f"/{name}"
        self._config_maps = path_of("api/v1", namespace, "configmaps") + f"/{name}"
        self._where = f"{namespace}/{name}"
        self._itself = itself
        self._leads = leads
        self._clock = clock
        self._logged = ""

    async def run(self) -> NoReturn:
        """Looks again and again; what fails is tried again, and logged once."""
        pause = min(PAUSE, self._lifetimes.leaf / 20)
        while True:
            try:
                await self.look()
                self._logged = ""
            except (PassingError, RejectedError, ValueError) as error:
                if str(error) != self._logged:
                    self._logged = str(error)
                    log.warning("the certificate authorities", error=str(error))
            await asyncio.sleep(pause if self._issuing.bundle else FIRST_PAUSE)

    async def look(self) -> None:
        """Reads them, and if this replica leads, keeps them up."""
        secret = await self._read("secret", self._secrets)
        authorities = self._parse(secret)
        if self._leads():
            kept = authorities.kept_up(self._clock(), self._lifetimes)
            if kept != authorities:
                secret["data"] = {
                    **(secret.get("data") or {}),
                    AUTHORITIES: base64.b64encode(kept.to_json().encode()).decode(),
                }
                await self._write("secret", self._secrets, secret)
                log.info("certificate authorities", trusted=len(kept.each))
                authorities = kept
            await self._publish(authorities)
        if authorities.each:
            self._issuing.know(authorities, self._itself)

    def _parse(self, secret: dict[str, Any]) -> Authorities:
        data = (secret.get("data") or {}).get(AUTHORITIES)
        if not data:
            return Authorities(())
        try:
            return read_authorities(base64.b64decode(data).decode())
        except ValueError as error:
            raise ValueError(
                f"secret {self._where} has no authorities that can be read ({error}): remove its "
                f"key {AUTHORITIES} to have new ones made, which all workers and gateways need anew"
            ) from error

    async def _publish(self, authorities: Authorities) -> None:
        found = await self._read("configmap", self._config_maps)
        bundle = authorities.bundle.decode()
        if (found.get("data") or {}).get(BUNDLE) != bundle:
            found["data"] = {**(found.get("data") or {}), BUNDLE: bundle}
            await self._write("configmap", self._config_maps, found)

    async def _read(self, kind: str, path: str) -> dict[str, Any]:
        try:
            with translated(f"reading {kind} {self._where}"):
                found: dict[str, Any] = json.loads(await self._send("GET", path))
                return found
        except RejectedError as error:
            if status_of(error) != 404:
                raise
            raise RejectedError(
                f"there is no {kind} {self._where}: the chart creates it, empty, where TLS is on"
            ) from error

    async def _write(self, kind: str, path: str, body: dict[str, Any]) -> None:
        """With the version that was read: of two leaders' writes one fails (409, passing)."""
        with translated(f"writing {kind} {self._where}"):
            await self._send("PUT", path, body)

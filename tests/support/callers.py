"""Requests of callers with limits, as if a key had said who asks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers

from modelfleet_gateway.access.caller import Caller
from modelfleet_gateway.http.server import Gateway


@dataclass
class Callers:
    """By what they send as their bearer token."""

    by_token: Mapping[str, Caller]
    arrivals: list[float] = field(default_factory=list)  # of requests, seconds

    def ask(self, gateway: Gateway) -> None:
        """This gateway's requests come of them from now on."""
        direct = gateway.app.direct
        for path, app in list(direct.items()):
            direct[path] = self._knowing(app)

    def _knowing(self, app):
        async def run(scope, receive, send):
            token = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
            self.arrivals.append(time.monotonic())
            if token in self.by_token:
                scope["modelfleet.caller"] = self.by_token[token]
            await app(scope, receive, send)

        return run

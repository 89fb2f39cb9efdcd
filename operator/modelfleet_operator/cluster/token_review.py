"""Whose a pod's token is, as the API server says."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection
from typing import Any

from kubernetes.aio import client

from modelfleet_proto.mtls.names import Identity, Role

from ..errors import RejectedError
from .pod_tls import AUDIENCE
from .requests import send, translated

_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_ACCOUNT = re.compile(r"system:serviceaccount:([a-z0-9-]+):([a-z0-9.-]+)")


class TokenReviews:
    """Asks the API server: it knows whether the pod still exists, too."""

    def __init__(
        self, api_client: client.ApiClient, gateway_account: str, namespaces: Collection[str]
    ) -> None:
        """`gateway_account`: NAMESPACE/NAME of the gateways' ServiceAccount, which no other has.

        `namespaces`: of this installation's workers; empty: all.
        """
        self._send = functools.partial(send, api_client)
        self._gateway_account = gateway_account
        self._namespaces = frozenset(namespaces)

    async def whose(self, token: str) -> Identity:
        """The pod that has it. RejectedError: it is no pod's of ours. PassingError: not known."""
        if not token:
            raise RejectedError("expected the token of a pod's ServiceAccount")
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        with translated("reviewing a token"):
            status: dict[str, Any] = json.loads(await self._send("POST", path, review))["status"]
        if not status.get("authenticated") or AUDIENCE not in (status.get("audiences") or ()):
            raise RejectedError(
                f"expected a token of this cluster for the audience {AUDIENCE}, and the API server "
                f"says no: {status.get('error') or 'it is another'}"
            )
        return self._identity(status.get("user") or {})

    def _identity(self, user: dict[str, Any]) -> Identity:
        extra = user.get("extra") or {}
        account = _ACCOUNT.fullmatch(user.get("username", ""))
        names, uids = extra.get(_POD_NAME) or [], extra.get(_POD_UID) or []
        if account is None or len(names) != 1 or len(uids) != 1:
            raise RejectedError("expected a token that is bound to a pod")
        namespace = account[1]
        role = Role.WORKER
        if f"{namespace}/{account[2]}" == self._gateway_account:
            role = Role.GATEWAY
        elif self._namespaces and namespace not in self._namespaces:
            raise RejectedError(f"namespace {namespace} is none of this installation's")
        return Identity(role=role, namespace=namespace, pod=names[0], uid=uids[0])

"""API keys on a cluster: watches their Secrets, in the few namespaces that may have them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from kubernetes.aio import client

from ..api.key_secret import LABEL, read_key_secret
from ..decisions.api_keys import ApiKey, KeyProblem, keys_in_force
from ..errors import PassingError, RejectedError
from .api import ClusterApi
from .observing import Object
from .requests import path_of, send, translated

# Seconds that one watch lasts; then all are listed anew, so that what it missed lasts no longer.
WATCH: Final = 60
PAUSE: Final = 0.2  # seconds between a change and the list of what changed, so that many share it
RETRY: Final = 2.0  # seconds after an error
REFUSED_RETRY: Final = 30.0  # after a refusal, which somebody has to do something about

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySecret:
    """What is kept of a Secret: no key."""

    metadata: Mapping[str, str]  # namespace, name and uid
    problems: tuple[str, ...]
    key: ApiKey | None

    @property
    def id(self) -> str:
        """As ApiKey has it."""
        return f"{self.metadata['namespace']}/{self.metadata['name']}"


class KeyWatch:
    """Tells `publish` the keys in force, whenever they change.

    Not kopf's: it would watch the Secrets of every namespace that it watches for deployments.
    """

    def __init__(
        self,
        api_client: client.ApiClient,
        api: ClusterApi,
        namespaces: Sequence[str],
        publish: Callable[[tuple[ApiKey, ...]], None],
    ) -> None:
        self._api_client = api_client
        self._api = api
        self._namespaces = tuple(dict.fromkeys(namespaces))
        self._publish = publish
        self._found: dict[str, list[KeySecret]] = {}  # by namespace
        self._pending = set(self._namespaces)  # neither listed nor refused yet
        self._told: set[KeyProblem] = set()  # in the log
        self._posted: set[KeyProblem] = set()  # as an Event
        self.is_known = asyncio.Event()  # all namespaces were listed, or refused

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for namespace in self._namespaces:
                tasks.create_task(self._follow(namespace))

    async def _follow(self, namespace: str) -> None:
        while True:
            try:
                version = await self._list(namespace)
                await self._until_changed(namespace, version)
                await asyncio.sleep(PAUSE)
            except PassingError as error:
                log.warning("the API keys cannot be read now; the last ones hold", error=str(error))
                await asyncio.sleep(RETRY)
            except RejectedError as error:
                log.warning(
                    "no right to read API keys: give the operator get, list and watch on secrets",
                    namespace=namespace,
                    error=str(error),
                )
                self._pending.discard(namespace)
                await self._take()
                await asyncio.sleep(REFUSED_RETRY)

    async def _list(self, namespace: str) -> str:
        """Publishes what is there now; the version of that."""
        path, query = path_of("api/v1", namespace, "secrets"), {"labelSelector": LABEL}
        with translated(f"listing the secrets labelled {LABEL} in {namespace}"):
            found = json.loads(await send(self._api_client, "GET", path, query=query))
        self._found[namespace] = [read_secret(secret) for secret in found["items"]]
        self._pending.discard(namespace)
        await self._take()
        return str(found["metadata"]["resourceVersion"])

    async def _until_changed(self, namespace: str, version: str) -> None:
        """Returns with the first event, or when the watch is over: all are listed then."""
        query = {
            "labelSelector": LABEL,
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH),
        }
        with translated(f"watching the secrets labelled {LABEL} in {namespace}"):
            _, url, headers, _, _ = await self._api_client.param_serialize(
                "GET",
                path_of("api/v1", namespace, "secrets"),
                query_params=list(query.items()),
                header_params={"Accept": "application/json"},
                auth_settings=["BearerToken"],
            )
            called = self._api_client.call_api(
                "GET", url, headers, None, _request_timeout=WATCH + 10
            )
            async with (await called).response as answer:
                if answer.status >= 400:
                    raise client.ApiException(status=answer.status, reason=answer.reason)
                async for _ in answer.content.iter_any():
                    return

    async def _take(self) -> None:
        if self._pending:
            return
        secrets = [secret for found in self._found.values() for secret in found]
        keys, conflicts = keys_in_force(secret.key for secret in secrets if secret.key)
        if self._found:  # else all were refused, so which keys there are is not known
            self._publish(keys)
        self.is_known.set()
        problems = {KeyProblem(s.id, "; ".join(s.problems)): s for s in secrets if s.problems}
        by_id = {secret.id: secret for secret in secrets}
        problems |= {conflict: by_id[conflict.id] for conflict in conflicts}
        self._told &= problems.keys()
        self._posted &= problems.keys()
        for problem, secret in problems.items():
            if problem not in self._told:
                self._told.add(problem)
                log.warning("an API key is not in force", key=problem.id, reason=problem.message)
            if problem not in self._posted:
                await self._post(problem, secret)

    async def _post(self, problem: KeyProblem, secret: KeySecret) -> None:
        """Best effort; by the replica that leads."""
        try:
            await self._api.post_event(
                {"metadata": secret.metadata},
                kind="Warning",
                reason="ApiKeyNotInForce",
                note=problem.message,
                object_kind="Secret",
                api_version="v1",
            )
        except (PassingError, RejectedError) as error:
            log.debug("no event on an API key", key=problem.id, error=str(error))
            return
        self._posted.add(problem)


def read_secret(secret: Object) -> KeySecret:
    """An item of a list, which does not say what it is."""
    problems, key = read_key_secret({"apiVersion": "v1", "kind": "Secret", **secret})
    metadata = {name: secret["metadata"][name] for name in ("namespace", "name", "uid")}
    return KeySecret(metadata=metadata, problems=tuple(problems), key=key)

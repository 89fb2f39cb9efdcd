"""API keys on a Kubernetes API: Secrets come, change and go, and gateways hear of hashes only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from kube_cluster import ApiServer, Gateway, eventually
from modelfleet_operator.api.key_secret import LABEL, hash_of, key_secret

StartOperator = Callable[..., Any]
KEY, OTHER = "mf-a-secret-of-some-length", "mf-another-of-some-length"


def told(gateway: Gateway) -> dict[str, list[bytes]]:
    """The keys of the gateway's view."""
    return {key.id: list(key.hashes) for key in gateway.view.keys.keys}


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def test_gateways_hear_of_keys_as_their_secrets_come_and_go(
    api: ApiServer, start_operator: StartOperator, capfd
):
    async with start_operator() as cluster:
        plain = key_secret("default", "plain", [], {"models": "smol"})
        plain["stringData"] = {"key": KEY}
        await cluster.apply_secret(plain)
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await eventually(lambda: told(gateway) == {"default/plain": [digest(KEY)]})
            (key,) = gateway.view.keys.keys
            assert (list(key.models), key.any_model, key.tenant) == (["smol"], False, key.id)
            hashed = key_secret("default", "hashed", [hash_of(OTHER)], {})
            await cluster.apply_secret(hashed)
            await eventually(lambda: len(told(gateway)) == 2)
            elsewhere = key_secret("elsewhere", "foreign", [hash_of("mf-a-third-one-long")], {})
            await cluster.apply_secret(elsewhere)
            await cluster.delete_secret("plain")
            await eventually(lambda: told(gateway) == {"default/hashed": [digest(OTHER)]})
    asked = api.asked("GET", "secrets")
    assert asked
    assert {request.namespace for request in asked} == {"default"}
    assert all(request.params.get("labelSelector") == LABEL for request in asked)
    assert KEY not in "".join(capfd.readouterr())


async def test_a_bad_secret_is_an_event_and_no_key(
    api: ApiServer, start_operator: StartOperator, capfd
):
    async with start_operator() as cluster:
        bad = key_secret("default", "bad", [], {"model": "smol"})
        bad["stringData"] = {"key": KEY}
        await cluster.apply_secret(bad)
        await cluster.apply_secret(key_secret("default", "good", [hash_of(OTHER)], {}))
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await eventually(lambda: told(gateway) == {"default/good": [digest(OTHER)]})
            event = json.loads((await eventually(lambda: api.asked("POST", "events")))[0].body)
    assert (event["reason"], event["regarding"]["name"]) == ("ApiKeyNotInForce", "bad")
    assert event["regarding"]["kind"] == "Secret"
    assert "did you mean models?" in event["note"]
    assert KEY not in json.dumps(event) + "".join(capfd.readouterr())


async def test_without_the_right_to_read_secrets_models_are_served(
    api: ApiServer, start_operator: StartOperator
):
    api.refuse_watching = frozenset({"secrets"})
    async with start_operator() as cluster:
        await cluster.apply()
        async with Gateway(cluster.fleet_address).connected() as gateway:
            await eventually(gateway.route)
            assert not gateway.view.HasField("keys")

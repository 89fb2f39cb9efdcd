"""API keys as gateways are told of them."""

from __future__ import annotations

from collections.abc import Iterable

from modelfleet_proto import fleet_pb2

from ..decisions.api_keys import ApiKey


def keys_message(keys: Iterable[ApiKey], *, required: bool) -> fleet_pb2.ApiKeys:
    """All of them, as hashes."""
    return fleet_pb2.ApiKeys(keys=map(_message, keys), required=required)


def _message(key: ApiKey) -> fleet_pb2.ApiKey:
    limits = key.limits
    return fleet_pb2.ApiKey(
        id=key.id,
        hashes=key.hashes,
        name=key.name,
        tenant=key.tenant or key.id,
        tags=key.tags,
        any_model=key.models is None,
        models=key.models or (),
        expires=key.expires,
        priority=key.priority,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
        max_concurrent=limits.max_concurrent,
        queue_share=limits.queue_share,
    )

"""Whose request a key makes it, and which models a caller may use."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from modelfleet_gateway.access.caller import ANONYMOUS, Caller
from modelfleet_gateway.access.keys import KeyRing, sent_key
from modelfleet_gateway.errors import NotReadyError, UnauthorizedError, UnknownModelError
from modelfleet_gateway.routing.view import ModelView, View, make_view
from modelfleet_proto import fleet_pb2

KEY, OTHER = "mf-one-of-some-length", "mf-another-of-some-length"


def key(*keys: str, **more: object) -> fleet_pb2.ApiKey:
    hashes = [hashlib.sha256(k.encode()).digest() for k in keys]
    grants = {"any_model": True, **more}
    return fleet_pb2.ApiKey(id="team-a/alice", hashes=hashes, **grants)


def ring(*keys: fleet_pb2.ApiKey, required: bool = True) -> KeyRing:
    made = KeyRing(required=required)
    made.take(fleet_pb2.ApiKeys(keys=keys))
    return made


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"Bearer {key}".encode())]


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer k"}, "k"),
        ({"authorization": "bearer  k "}, "k"),
        ({"x-api-key": "k"}, "k"),
        ({"api-key": "k"}, "k"),
        ({"x-api-key": "second", "authorization": "Bearer first"}, "first"),
        ({"x-api-key": "k", "authorization": "Basic dTpw"}, "k"),
        ({"authorization": "k"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({"cookie": "k"}, ""),
        ({}, ""),
    ],
)
def test_a_key_is_where_clients_of_the_apis_put_it(headers: dict[str, str], key: str):
    assert sent_key([(n.encode(), v.encode()) for n, v in headers.items()]) == key.encode()


def test_a_key_says_whose_request_it_is_and_any_other_is_refused():
    keys = ring(key(KEY, name="Alice", models=["tiny"], any_model=False, max_concurrent=2))
    caller = keys.admit(bearer(KEY), 0)
    assert (caller.key_id, caller.tenant, caller.name) == ("team-a/alice", "team-a/alice", "Alice")
    assert (caller.models, caller.limits.max_concurrent) == (("tiny",), 2)
    assert caller.limits.tokens_per_minute is None
    assert KEY not in repr(caller)
    wrong = []
    for headers in (bearer(OTHER), bearer(KEY[:-1]), bearer("")):
        with pytest.raises(UnauthorizedError) as refused:
            keys.admit(headers, 0)
        wrong.append(refused.value.message)
        assert refused.value.headers()["www-authenticate"] == "Bearer"
    assert wrong[0] == wrong[1] != wrong[2]


def test_an_expired_key_is_as_one_that_never_was():
    keys = ring(key(KEY, expires=100))
    assert keys.admit(bearer(KEY), 99.9).key_id
    said = set()
    for sent in (KEY, OTHER):
        with pytest.raises(UnauthorizedError) as refused:
            keys.admit(bearer(sent), 100)
        said.add(refused.value.message)
    assert len(said) == 1
    assert keys.by_id("team-a/alice", 99) is not None
    assert keys.by_id("team-a/alice", 100) is None


def test_two_keys_of_one_secret_are_one_caller_while_one_is_replaced():
    keys = ring(key(KEY, OTHER))
    assert keys.admit(bearer(KEY), 0) is keys.admit(bearer(OTHER), 0)
    keys.take(fleet_pb2.ApiKeys(keys=[key(OTHER)]))
    assert keys.admit(bearer(OTHER), 0).key_id == "team-a/alice"
    with pytest.raises(UnauthorizedError):
        keys.admit(bearer(KEY), 0)


def test_where_none_is_required_a_key_still_says_who_asks():
    keys = ring(key(KEY), required=False)
    assert keys.admit(bearer(KEY), 0).key_id == "team-a/alice"
    assert keys.admit(bearer("none"), 0) is keys.admit([], 0) is ANONYMOUS
    assert keys.by_id("", 0) is ANONYMOUS


def test_what_an_operator_asked_for_once_stays_asked_for():
    keys = KeyRing()
    keys.take(fleet_pb2.ApiKeys(required=True))
    keys.take(fleet_pb2.ApiKeys())
    with pytest.raises(UnauthorizedError):
        keys.admit([], 0)
    assert keys.by_id("", 0) is None


def test_keys_that_are_not_known_yet_are_waited_for():
    with pytest.raises(NotReadyError, match="does not know its keys yet"):
        KeyRing(required=True).admit(bearer(KEY), 0)


@pytest.mark.parametrize(
    ("models", "usable"),
    [
        (None, ["team-a/big", "team-a/tiny", "team-b/tiny"]),
        (("team-a/*",), ["team-a/big", "team-a/tiny"]),
        (("tiny",), ["team-a/tiny"]),
        (("team-b/tiny", "big"), ["team-b/tiny"]),
        (("team-a",), []),
        ((), []),
    ],
)
def test_models_are_allowed_by_any_of_their_names(
    models: tuple[str, ...] | None, usable: list[str]
):
    caller = Caller(key_id="x", models=models)
    view = three_models()
    assert sorted(n for n in view.names_for(caller) if "/" in n) == usable


def test_a_foreign_model_is_as_unknown_as_one_that_is_not_there():
    caller = Caller(key_id="x", models=("team-a/*",))
    view = three_models()
    said = []
    for name in ("team-b/tiny", "team-b/none"):
        with pytest.raises(UnknownModelError) as unknown:
            view.resolve(name, caller)
        said.append(unknown.value.message.replace(name, "NAME"))
    assert said[0] == said[1]
    assert "Models: tiny, team-a/big" in said[0]
    assert view.resolve("team-b/tiny", replace(caller, models=None))


def three_models() -> View:
    return make_view(
        [
            ModelView(model="team-a/big"),
            ModelView(model="team-a/tiny", served_names=("tiny",)),
            ModelView(model="team-b/tiny"),
        ]
    )

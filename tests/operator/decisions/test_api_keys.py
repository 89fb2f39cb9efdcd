"""Which of the keys that Secrets hold are in force."""

from __future__ import annotations

from typing import Any

from modelfleet_operator.decisions.api_keys import ApiKey, keys_in_force


def key(name: str, *hashes: bytes, created: float = 0.0, **more: Any) -> ApiKey:
    return ApiKey(id=f"default/{name}", hashes=hashes, created=created, **more)


def test_keys_come_in_the_order_of_their_ids():
    keys, problems = keys_in_force([key("b", b"2"), key("a", b"1")])
    assert [k.id for k in keys] == ["default/a", "default/b"]
    assert problems == ()


def test_of_two_secrets_with_one_key_the_older_has_it():
    older, newer = key("bob", b"1", created=1), key("alice", b"1", created=2)
    for found in ([older, newer], [newer, older]):
        keys, (problem,) = keys_in_force(found)
        assert keys == (older,)
        assert (problem.id, problem.message) == (
            "default/alice",
            "default/bob is older and has the same key",
        )


def test_a_secret_keeps_those_of_its_keys_that_are_its_own():
    keys, problems = keys_in_force([key("a", b"1", created=1), key("b", b"1", b"2", created=2)])
    assert [k.hashes for k in keys] == [(b"1",), (b"2",)]
    assert [problem.id for problem in problems] == ["default/b"]


def test_one_key_twice_in_a_secret_is_one():
    keys, problems = keys_in_force([key("a", b"1")])
    assert (len(keys), problems) == (1, ())

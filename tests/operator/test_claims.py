"""Who has a short name while caches and memories of the objects cannot say it."""

from __future__ import annotations

import json

import pytest

from modelfleet_operator.claims import HELD, MOST_DUMPED, Claims


def settled(claims: Claims, owner: str, now: float = 0) -> str:
    """Who has `chat`, when the caches say that it is `owner`."""
    return claims.settled({"chat": owner}, ("chat",), now)["chat"]


def test_who_has_a_name_keeps_it_whatever_the_caches_say():
    claims = Claims()
    assert settled(claims, "b/m") == "b/m"
    claims.note_owned("a/m", ("chat",))
    assert settled(claims, "b/m") == "a/m"
    assert settled(claims, "a/n") == "a/n", "within a namespace the caches decide"


def test_a_deleted_deployments_names_stay_its_namespaces_for_a_while():
    claims = Claims()
    claims.note_owned("a/m", ("chat",))
    claims.note_deleted("a/m", 100)
    assert settled(claims, "b/m", 101) == "a/m"
    claims.note_owned("a/m", ("chat",))
    claims.note_deleted("a/m", 200)
    assert settled(claims, "b/m", 200 + HELD - 1) == "a/m"
    assert settled(claims, "b/m", 200 + HELD) == "b/m"


def test_who_asks_for_a_name_no_longer_gave_it_up():
    claims = Claims()
    claims.note_owned("a/m", ("chat", "code"))
    claims.note_owned("a/m", ("code",))
    assert settled(claims, "b/m") == "b/m"


def test_the_next_leader_knows_the_names_of_the_deleted():
    before = Claims()
    assert before.dump_deleted(0) == ""
    before.note_owned("a/m", ("chat",))
    before.note_owned("a/n", ("code",))
    before.note_deleted("a/m", 100)

    after = Claims()
    assert after.load_deleted(before.dump_deleted(110), 110)
    assert settled(after, "b/m", 100 + HELD - 1) == "a/m"
    assert settled(after, "b/m", 100 + HELD) == "b/m"
    assert after.dump_deleted(110) == before.dump_deleted(110)
    assert after.dump_deleted(100 + HELD) == ""


def test_what_the_next_leader_is_told_is_bounded_and_the_latest():
    claims = Claims()
    for number in range(3 * MOST_DUMPED):
        claims.note_owned(f"a/m{number}", (f"{number:0128}",))
        claims.note_deleted(f"a/m{number}", number)
    dumped = claims.dump_deleted(3 * MOST_DUMPED)
    assert len(dumped) < 256 * 1024  # what all annotations of an object may have together
    assert set(json.loads(dumped)) == {
        f"{number:0128}" for number in range(2 * MOST_DUMPED, 3 * MOST_DUMPED)
    }


@pytest.mark.parametrize(
    "dumped", ["{chat", "[]", "3", '{"chat": 3}', '{"chat": ["a/m", "x"]}', "[" * 100_000]
)
def test_what_it_cannot_read_is_nothing(dumped: str):
    claims = Claims()
    assert not claims.load_deleted(dumped, 0)
    assert settled(claims, "b/m") == "b/m"


def test_a_time_that_cannot_be_holds_no_name_for_ever():
    claims = Claims()
    assert claims.load_deleted('{"chat": ["a/m", NaN], "code": ["a/m", 1e300]}', 100)
    assert settled(claims, "b/m", 100) == "a/m"
    assert settled(claims, "b/m", 100 + HELD) == "b/m"
    assert claims.dump_deleted(100 + HELD) == ""


def test_names_of_the_deleted_leave_no_memory():
    claims = Claims()
    for number in range(100):
        claims.note_owned(f"a/m{number}", (f"m{number}",))
        claims.note_deleted(f"a/m{number}", number)
    claims.note_deleted("a/x", 200 + HELD)
    assert not claims._holders
    assert not claims._held

"""Who has a short name while caches and memories of the objects cannot say it."""

from __future__ import annotations

from modelfleet_operator.claims import HELD, Claims


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


def test_names_of_the_deleted_leave_no_memory():
    claims = Claims()
    for number in range(100):
        claims.note_owned(f"a/m{number}", (f"m{number}",))
        claims.note_deleted(f"a/m{number}", number)
    claims.note_deleted("a/x", 200 + HELD)
    assert not claims._holders
    assert not claims._held

from __future__ import annotations

from modelfleet_operator.decisions.authorities import (
    AuthorityAge,
    Lifetimes,
    decide_authorities,
)

DAY = 86400.0
LIFETIMES = Lifetimes()  # a year and a day


def made(at: float) -> AuthorityAge:
    return AuthorityAge(made_at=at, expires_at=at + LIFETIMES.authority)


def test_the_first_one_signs_at_once():
    first = decide_authorities([], 0.0, LIFETIMES)
    assert (first.makes_new, first.signer) == (True, None)
    then = decide_authorities([made(0.0)], 0.0, LIFETIMES)
    assert (then.makes_new, then.signer, then.keep) == (False, 0, (0,))


def test_a_year_goes_by_and_every_certificate_is_trusted_by_everybody():
    """Each hour: all that was signed and has not expired is trusted by who renewed last."""
    authorities: list[AuthorityAge] = []
    signed: list[tuple[float, AuthorityAge]] = []  # when, by which
    heard: list[tuple[float, frozenset[AuthorityAge]]] = []  # when, what was trusted then
    signers = set()
    for hour in range(int(2.5 * 365 * 24)):
        now = hour * 3600.0
        decision = decide_authorities(authorities, now, LIFETIMES)
        kept = [authorities[place] for place in decision.keep]
        authorities = [*kept, made(now)] if decision.makes_new else kept
        signer = decide_authorities(authorities, now, LIFETIMES).signer
        assert signer is not None
        signers.add(authorities[signer])
        signed = [s for s in signed if now - s[0] < LIFETIMES.leaf] + [(now, authorities[signer])]
        heard = [h for h in heard if now - h[0] < LIFETIMES.settle]
        heard.append((now, frozenset(authorities)))
        for _, trusted in heard:
            assert all(by in trusted for _, by in signed), hour
        assert all(by.expires_at >= when + LIFETIMES.leaf for when, by in signed)
        assert len(authorities) <= 2
    assert len(signers) == 3


def test_an_expired_one_is_no_authority():
    decision = decide_authorities([made(0.0)], LIFETIMES.authority + 1, LIFETIMES)
    assert (decision.signer, decision.keep, decision.makes_new) == (None, (), True)

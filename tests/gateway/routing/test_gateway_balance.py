"""Where a prompt is sent: tables, and what holds for all fleets."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_gateway.routing.balance import (
    CLOSE,
    FULL_CACHE,
    NEVER_HOT,
    Candidate,
    RoutedBy,
    choose,
    load_bounds,
    share_of,
)
from modelfleet_gateway.routing.prefixes import PromptKeys

PREFIX, SESSION, HASH = RoutedBy.PREFIX, RoutedBy.SESSION, RoutedBy.HASH
LOAD, OVERFLOW = RoutedBy.LOAD, RoutedBy.OVERFLOW


def keys(number: int = 1, *, size: int = 4096, session: bytes = b"") -> PromptKeys:
    return PromptKeys(size, (), number.to_bytes(8), session)


def idle(count: int) -> list[Candidate]:
    return [Candidate(id=f"w-{number}", place=number) for number in range(count)]


def fleet(**seen: dict[str, float]) -> list[Candidate]:
    """Workers a, b, ... as they were seen."""
    return [
        Candidate(id=name, place=place, **fields)
        for place, (name, fields) in enumerate(seen.items())
    ]


@pytest.mark.parametrize(
    ("workers", "chosen", "by"),
    [
        pytest.param(fleet(a={}), "a", LOAD, id="the only one"),
        pytest.param(fleet(a={}, b={"cached": 3072}), "b", PREFIX, id="where it was read"),
        pytest.param(
            fleet(a={}, b={"cached": 3072, "unread": 2048}), "b", PREFIX, id="though it reads more"
        ),
        pytest.param(
            fleet(a={}, b={"cached": 3072, "unread": 6144}), "a", OVERFLOW, id="but not too much"
        ),
        pytest.param(
            fleet(a={}, b={"cached": 3072, "load": NEVER_HOT - 1}),
            "b",
            PREFIX,
            id="a few requests are no reason to go elsewhere",
        ),
        pytest.param(
            fleet(a={"load": 4}, b={"cached": 3072, "load": 9}),
            "a",
            OVERFLOW,
            id="more than its share of the load is",
        ),
        pytest.param(
            fleet(a={}, b={"cached": 3072, "cache_use": FULL_CACHE}),
            "a",
            OVERFLOW,
            id="and so is a cache without room",
        ),
        pytest.param(
            fleet(a={"cache_use": 1.0}, b={"cached": 3072, "cache_use": 1.0}),
            "b",
            PREFIX,
            id="unless no cache has",
        ),
    ],
)
def test_sends_a_prompt(workers, chosen, by):
    choice = choose(workers, keys())
    assert (choice.worker.id, choice.by) == (chosen, by)


def test_without_keys_the_least_loaded_gets_it():
    choice = choose(fleet(a={"load": 2}, b={"load": 1}, c={"load": 1}), PromptKeys(0))
    assert (choice.worker.id, choice.by) == ("b", LOAD)


def test_a_session_goes_to_one_worker_whatever_it_asks():
    first = choose(idle(5), keys(1, session=b"s" * 8))
    assert first.by is SESSION
    for number in range(20):
        again = choose(idle(5), keys(number, session=b"s" * 8))
        assert again == first


def test_packs_what_few_workers_can_serve_and_spreads_the_rest():
    def used(load: int) -> set[str]:
        workers = [replace(w, load=load if w.place == 0 else 0) for w in idle(4)]
        return {choose(workers, keys(number), pack=4).worker.id for number in range(60)}

    assert used(0) == used(3) == {"w-0"}
    assert used(4) == {"w-1"}, "two are in use, and the first has its share"
    everywhere = {choose(idle(4), keys(number)).worker.id for number in range(60)}
    assert everywhere == {"w-0", "w-1", "w-2", "w-3"}


def test_packing_makes_no_one_wait():
    busy = [replace(w, unread=4096 if w.place == 0 else 0) for w in idle(2)]
    choice = choose(busy, keys(), pack=8)
    assert (choice.worker.id, choice.by) == ("w-1", OVERFLOW)


def test_a_new_worker_begins_with_little():
    assert (share_of(0), share_of(15), share_of(1000)) == (0.1, 0.5, 1.0)
    workers = [Candidate(id=f"w-{n}", load=20, share=1.0 if n else share_of(0)) for n in range(4)]
    new, *old = load_bounds(workers)
    assert new == pytest.approx(old[0] / 10)
    all_new = load_bounds([replace(w, share=0.1) for w in workers])
    assert all_new[0] == pytest.approx(1.25 * 81 / 4)


@given(st.lists(st.integers(0, 12), min_size=2, max_size=8), st.integers(0, 1000))
def test_where_no_one_has_read_more_no_idle_worker_is_passed_over(loads, number):
    workers = fleet(**{f"w-{n}": {"load": load} for n, load in enumerate(loads)})
    chosen = choose(workers, keys(number), pack=1).worker
    mean = (sum(loads) + 1) / len(loads)
    assert chosen.load <= max(min(loads), 1.25 * mean - 1)


candidates = st.lists(
    st.builds(
        dict,
        load=st.integers(0, 40),
        unread=st.integers(0, 20_000),
        cached=st.integers(0, 65_536),
        share=st.floats(0.1, 1.0),
        cache_use=st.sampled_from([0.0, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=8,
).map(lambda all_fields: fleet(**{f"w-{n}": fields for n, fields in enumerate(all_fields)}))
packs = st.integers(0, 8)


@given(candidates, packs, st.integers(0, 1000))
def test_no_worker_is_above_its_bound_while_another_is_below(workers, pack, number):
    chosen = choose(workers, keys(number), pack).worker
    if len(workers) > 1:
        bounds = load_bounds(workers)
        assert any(w.load < bound for w, bound in zip(workers, bounds, strict=True))
        assert chosen.load < max(bounds[workers.index(chosen)], NEVER_HOT, pack)


@given(candidates, packs, st.integers(0, 1000))
def test_the_order_in_which_workers_are_told_makes_no_difference(workers, pack, number):
    assert choose(workers, keys(number), pack) == choose(workers[::-1], keys(number), pack)


@given(st.integers(2, 12), st.data())
def test_removing_a_worker_moves_only_its_keys(count, data):
    gone = data.draw(st.integers(0, count - 1))
    for number in range(40):
        before = choose(idle(count), keys(number)).worker
        after = choose([w for w in idle(count) if w.place != gone], keys(number)).worker
        assert before.place == gone or after == before


@given(st.integers(2, 8), packs, st.integers(0, 1000))
def test_equal_keys_meet_on_one_worker_at_low_load(count, pack, number):
    """Also while the first of them is read, which the second need not be, then."""
    first = choose(idle(count), keys(number), pack).worker
    workers = [
        replace(w, load=1, unread=4096, cached=4096) if w == first else w for w in idle(count)
    ]
    assert choose(workers, keys(number), pack).worker.id == first.id


@given(st.integers(2, 6), st.integers(20, 30), packs, st.booleans())
def test_all_get_something_and_none_more_than_its_bound(count, each, pack, same):
    """Nothing ends: however alike the prompts are, every worker comes to its share."""
    workers, requests = idle(count), count * each
    for number in range(requests):
        chosen = choose(workers, keys(0 if same else number), pack).worker
        workers[chosen.place] = replace(chosen, load=chosen.load + 1, cached=4096)
    loads = [w.load for w in workers]
    assert max(loads) <= max(math.ceil(1.25 * requests / count), NEVER_HOT, pack)
    if count < 5:  # 5 bounds of 1.25 times the mean hold what 4 have
        assert min(loads) > 0


@given(candidates, st.integers(0, 1000))
def test_the_reason_says_what_decided(workers, number):
    choice = choose(workers, keys(number))
    most = max(w.cached for w in workers)
    if choice.by is PREFIX:
        assert choice.worker.cached >= most - CLOSE
    if choice.by in (HASH, SESSION):
        assert most <= min(w.cached for w in workers) + CLOSE
    if choice.by is LOAD:
        assert len(workers) == 1

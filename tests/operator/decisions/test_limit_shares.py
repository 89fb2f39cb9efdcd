"""How a key's limit is split among gateways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_operator.decisions.limit_shares import Holder, next_shares, split
from modelfleet_process.limit_shares import default_share

counts = st.integers(0, 1000)


@pytest.mark.parametrize(
    ("limit", "wanted", "used", "shares"),
    [
        pytest.param(100, (10, 80, 80), (0, 0, 0), [10, 45, 45], id="who wants little has it"),
        pytest.param(100, (10, 20), (0, 0), [45, 55], id="what is left over goes to all"),
        pytest.param(100, (0, 100), (0, 0), [0, 100], id="all of it where all is asked for"),
        pytest.param(100, (0, 0), (0, 0), [50, 50], id="equal parts where nothing is"),
        pytest.param(1, (1, 1), (1, 0), [0, 1], id="one unit goes round"),
        pytest.param(1, (1, 1), (0, 1), [1, 0], id="and back"),
        pytest.param(0, (5, 5), (0, 0), [0, 0], id="nothing"),
        pytest.param(7, (), (), [], id="nobody"),
    ],
)
def test_splits_a_limit(limit, wanted, used, shares):
    assert split(limit, wanted, used, [0] * len(wanted)) == shares


@given(counts, st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=6))
def test_a_split_is_whole_and_starves_nobody(limit, gateways):
    wanted, used = [w for w, _, _ in gateways], [u for _, u, _ in gateways]
    shares = split(limit, wanted, used, [held for _, _, held in gateways])
    assert sum(shares) == limit
    fair = limit // len(gateways)
    assert all(share >= min(want, fair) for share, want in zip(shares, wanted, strict=True))


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=6),
)
def test_never_gives_what_another_one_may_hold(limit, gateways):
    holders = [Holder(share=share, held=max(share, more)) for share, more, _ in gateways]
    nothing = [0] * len(gateways)
    targets = split(limit, [w for _, _, w in gateways], nothing, nothing)
    shares = next_shares(limit, targets, holders)
    before = sum(holder.held for holder in holders)
    after = sum(max(h.held, share) for h, share in zip(holders, shares, strict=True))
    assert after <= max(limit, before)


def test_a_place_is_used_before_it_goes_on():
    assert split(1, (5, 9), (0, 0), (1, 0)) == [1, 0]
    assert split(1, (5, 9), (1, 0), (1, 0)) == [0, 1]


def test_a_share_is_raised_when_another_one_is_in_force():
    both = [Holder(share=50, held=50), Holder(share=50, held=50)]
    assert next_shares(100, [20, 80], both) == [20, 50]
    lowered = [Holder(share=20, held=20), Holder(share=50, held=50)]
    assert next_shares(100, [20, 80], lowered) == [20, 80]
    used_more = [Holder(share=20, held=45), Holder(share=50, held=50)]
    assert next_shares(100, [20, 80], used_more) == [20, 55]


@given(st.integers(0, 100_000), st.integers(1, 50))
def test_equal_parts_are_the_whole(limit, gateways):
    parts = [default_share(limit, gateways, place) for place in range(gateways)]
    assert sum(parts) == limit
    assert max(parts) - min(parts) <= 1

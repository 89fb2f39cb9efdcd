"""What was used in the last minute, as tables and on random uses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_gateway.access.caller import Limits
from modelfleet_gateway.access.priority import priority_of
from modelfleet_gateway.access.quotas import Quotas, duration
from modelfleet_gateway.access.shares import Limit, ShareSaid
from modelfleet_gateway.access.windows import CELL, MinuteWindow
from modelfleet_gateway.errors import InvalidRequestError, RateLimitError

KEY, MODEL = "key-1", "default/tiny"


@given(
    st.integers(1, 20),
    st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=200),
)
def test_no_minute_has_more_than_the_limit(limit, gaps):
    window, now, taken = MinuteWindow(), 1000.0, []
    for gap in gaps:
        now += gap
        if window.used(now) < limit:
            window.add(now, 1)
            taken.append(now)
    for end in taken:
        assert sum(end - 60 < time <= end for time in taken) <= limit


@given(st.lists(st.tuples(st.floats(0, 8), st.integers(1, 50)), min_size=1, max_size=40))
def test_after_the_wait_there_is_room_and_not_much_before(uses):
    window, now = MinuteWindow(), 0.0
    for gap, amount in uses:
        now += gap
        window.add(now, amount)
    used = window.used(now)
    wait = window.wait(now, used)
    assert 60 - CELL <= wait <= 60 + CELL
    half = window.wait(now, max(used // 2, 1))
    assert window.used(now + half + 1e-6) <= used - max(used // 2, 1)


def test_a_use_is_corrected_where_it_was_counted():
    window = MinuteWindow()
    window.add(0, 100)
    window.add(30, 10)
    window.correct(0, 40, -60)
    assert window.used(40) == 50
    assert window.used(63) == 10
    window.correct(0, 63, -40)
    assert window.used(63) == 10, "what is over cannot be corrected"


@pytest.mark.parametrize(
    ("of_key", "header", "tier", "is_so"),
    [
        ("interactive", None, None, "interactive"),
        ("interactive", None, "priority", "interactive"),
        ("interactive", None, "auto", "interactive"),
        ("interactive", None, "flex", "batch"),
        ("interactive", None, "batch", "batch"),
        ("interactive", None, ["flex"], "interactive"),
        ("interactive", "batch", "default", "batch"),
        ("batch", "interactive", "priority", "batch"),
        ("batch", None, None, "batch"),
    ],
)
def test_a_request_may_lower_its_keys_priority_and_never_raise_it(of_key, header, tier, is_so):
    assert priority_of(of_key, header, tier) == is_so


def test_a_priority_that_there_is_none_of_is_refused():
    with pytest.raises(InvalidRequestError, match="expected interactive or batch, found 'high'"):
        priority_of("interactive", "high", None)


def ask(quotas, limits, now, *, prompt=10, completion=10):
    return quotas.admit(KEY, limits, MODEL, now, prompt=prompt, completion=completion)


def test_the_request_after_the_last_of_a_minute_is_told_when_there_is_room():
    quotas, limits = Quotas(), Limits(requests_per_minute=3)
    for now in (0.0, 10.0, 20.0):
        admission = ask(quotas, limits, now)
    assert admission.headers(20.0) == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m2s",
    }
    with pytest.raises(RateLimitError, match="3 requests a minute of default/tiny") as refused:
        ask(quotas, limits, 30.0)
    assert refused.value.retry_after == 32.0
    assert refused.value.code == "rate_limit_exceeded"
    assert refused.value.reason == "requests"
    headers = refused.value.headers()
    assert 32 <= int(headers["retry-after"]) <= 41
    assert 32_000 <= int(headers["retry-after-ms"]) <= 40_000
    assert headers["x-ratelimit-remaining-requests"] == "0"
    ask(quotas, limits, 62.0)


def test_tokens_are_reserved_and_settled_by_what_was_used():
    quotas, limits = Quotas(), Limits(tokens_per_minute=1000)
    admission = ask(quotas, limits, 0.0, prompt=100, completion=800)
    with pytest.raises(RateLimitError, match="tokens a minute"):
        ask(quotas, limits, 1.0, prompt=200, completion=None)
    admission.end(2.0, tokens=150, completion=50)
    assert admission.headers(2.0)["x-ratelimit-remaining-tokens"] == "850"
    ask(quotas, limits, 3.0, prompt=100, completion=700)


def test_a_request_larger_than_the_limit_waits_for_an_empty_minute():
    quotas, limits = Quotas(), Limits(tokens_per_minute=1000)
    ask(quotas, limits, 0.0, prompt=1, completion=1)
    with pytest.raises(RateLimitError):
        ask(quotas, limits, 1.0, prompt=10, completion=5000)
    ask(quotas, limits, 70.0, prompt=10, completion=5000)


def test_what_no_worker_had_counts_for_nothing():
    quotas, limits = Quotas(), Limits(requests_per_minute=1, max_concurrent=1)
    ask(quotas, limits, 0.0).end(1.0, tokens=None)
    ask(quotas, limits, 1.0).end(2.0, tokens=20, completion=10)
    with pytest.raises(RateLimitError) as refused:
        ask(quotas, limits, 3.0)
    assert refused.value.reason == "requests"


def test_so_many_run_at_once_and_the_next_when_one_has_ended():
    quotas, limits = Quotas(), Limits(max_concurrent=2)
    first, _ = ask(quotas, limits, 0.0), ask(quotas, limits, 0.0)
    with pytest.raises(RateLimitError, match="2 requests at once"):
        ask(quotas, limits, 1.0)
    first.end(2.0, tokens=20)
    ask(quotas, limits, 2.0)


def test_limits_are_of_each_model_and_key():
    quotas, limits = Quotas(), Limits(requests_per_minute=1)
    ask(quotas, limits, 0.0)
    quotas.admit(KEY, limits, "default/other", 0.0, prompt=1, completion=1)
    quotas.admit("key-2", limits, MODEL, 0.0, prompt=1, completion=1)


def test_a_gateway_keeps_to_its_share():
    quotas, limits = Quotas(), Limits(requests_per_minute=5)
    quotas.shares.apply(1, 2, 1, [])
    for _ in range(2):
        ask(quotas, limits, 0.0)
    with pytest.raises(RateLimitError) as refused:
        ask(quotas, limits, 0.0)
    assert refused.value.retry_after == 1.0, "the operator may move what is missing here"
    quotas.shares.apply(2, 2, 1, [ShareSaid((KEY, MODEL, Limit.REQUESTS), 4)])
    ask(quotas, limits, 0.0)
    quotas.shares.apply(3, 0, 0, [ShareSaid((KEY, MODEL, Limit.REQUESTS), None)])
    with pytest.raises(RateLimitError):
        ask(quotas, limits, 0.0)


def test_the_operator_hears_of_busy_keys_once_and_nothing_where_there_is_one_gateway():
    quotas, limits = Quotas(), Limits(requests_per_minute=100)
    for _ in range(30):
        ask(quotas, limits, 0.0)
    assert quotas.report(0.0) == []
    quotas.shares.apply(1, 2, 0, [])
    quotas.touch_all()
    quotas.admit("little", limits, MODEL, 0.0, prompt=1, completion=1)
    (use,) = quotas.report(0.0)
    assert (use.id, use.limit, use.used, use.wanted) == (
        (KEY, MODEL, Limit.REQUESTS), 100, 30, 30
    )  # fmt: skip
    assert quotas.report(1.0) == []
    (gone,) = quotas.report(70.0)
    assert (gone.used, gone.wanted) == (0, 0)
    assert quotas.report(71.0) == []


def test_keys_that_ask_no_more_are_forgotten():
    quotas, limits = Quotas(), Limits(requests_per_minute=100)
    running = quotas.admit("running", limits, MODEL, 0.0, prompt=1, completion=1)
    for number in range(5000):
        quotas.admit(f"key-{number}", limits, MODEL, number * 1.0, prompt=1, completion=1).end(
            number * 1.0, tokens=2
        )
    assert len(quotas._quotas) < 400
    running.end(5000.0, tokens=2)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.25, "250ms"), (12.5, "12.5s"), (75, "1m15s")]
)
def test_writes_durations_as_openai_does(seconds, text):
    assert duration(seconds) == text

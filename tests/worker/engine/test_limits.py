"""What can never be served, and with which numbers it is refused."""

from __future__ import annotations

import re

import pytest

from modelfleet_worker.engine.request import EngineLimits, Request

LIMITS = EngineLimits(context_length=100, kv_tokens=80, max_sequences=4, vocab_size=10)


def request(prompt: tuple[int, ...] = (1, 2), *, resumed: int = 0, max_tokens: int = 5) -> Request:
    return Request(
        request_id="a", prompt_ids=prompt, resumed_ids=(3,) * resumed, max_tokens=max_tokens
    )


@pytest.mark.parametrize(
    ("prompt", "answer", "reason"),
    [
        pytest.param(40, 40, None, id="just fits the cache"),
        pytest.param(0, 5, "the prompt is empty", id="no prompt"),
        pytest.param(5, 0, "max_tokens is 0", id="nothing to generate"),
        pytest.param(
            90, 20, "90 prompt tokens and 20 .* are 110, .* context holds 100", id="context"
        ),
        pytest.param(60, 30, "60 prompt tokens and 30 .* are 90, .* KV cache holds 80", id="cache"),
    ],
)
def test_sizes_that_can_never_fit(prompt: int, answer: int, reason: str | None):
    found = LIMITS.check_fits(prompt, answer)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(reason, found)


def test_takes_a_request_that_fits():
    assert LIMITS.check_request(request(resumed=4)) is None


def test_names_a_token_id_outside_the_vocabulary():
    assert LIMITS.check_request(request((1, 10))) == "token id 10 is not in the vocabulary (0 to 9)"
    assert LIMITS.check_request(request((1, -1))) is not None


def test_refuses_a_resume_that_has_nothing_left():
    assert "leave nothing to generate" in (LIMITS.check_request(request(resumed=5)) or "")

"""Stop strings are found wherever the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.text.detokenizer import StopScanner

# A small alphabet makes repeats, overlaps and near misses likely.
TEXTS = st.text(alphabet="abé", max_size=40)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=5), max_size=4)


def scan(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    text = "".join(scanner.feed(piece) for piece in pieces)
    return text + scanner.flush(), scanner.found


def plain_scan(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: the shortest prefix that ends with a stop, cut before the longest such."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize(
    ("pieces", "stops", "text", "found"),
    [
        pytest.param(["Hello wor", "ld"], [], "Hello world", None, id="without stops all passes"),
        pytest.param(["a\n", "\nb"], ["\n\n"], "a", "\n\n", id="found across pieces"),
        pytest.param(["STO", "RM"], ["STOP"], "STORM", None, id="a near miss is text"),
        pytest.param(
            ["x STO"], ["STOP"], "x STO", None, id="an unfinished stop is text at the end"
        ),
        pytest.param(["aab"], ["ab"], "a", "ab", id="a false start does not hide the match"),
        pytest.param(["xyz"], ["z", "yz"], "x", "yz", id="the longest of those that end together"),
        pytest.param(["abcd"], ["abcd", "bc"], "a", "bc", id="the one that is complete first"),
        pytest.param(["stop"], ["stop"], "", "stop", id="a text may be empty before its stop"),
    ],
)
def test_ends_the_text_before_the_first_stop(
    pieces: list[str], stops: list[str], text: str, found: str | None
):
    assert scan(pieces, stops) == (text, found)


@given(TEXTS, STOPS, st.randoms(use_true_random=False))
def test_any_cut_gives_the_same_text_and_the_same_stop(text, stops, random):
    cuts = sorted(random.randint(0, len(text)) for _ in range(5))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert scan(pieces, stops) == scan(list(text), stops) == plain_scan(text, stops)


@given(TEXTS, STOPS)
def test_holds_back_no_more_than_may_become_a_stop(text, stops):
    scanner = StopScanner(stops)
    released = scanner.feed(text)
    if scanner.found is None:
        held = text[len(released) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_nothing_follows_a_stop():
    scanner = StopScanner(["."])
    assert scanner.feed("one. two") == "one"
    assert scanner.feed("three") == scanner.flush() == ""

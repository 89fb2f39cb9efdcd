"""An answer is a pure function of its ids, wherever a worker ended."""

from hypothesis import given
from hypothesis import strategies as st

from modelfleet_worker.engine.request import FinishReason
from modelfleet_worker.text.detokenizer import Answer, Ending
from modelfleet_worker.text.tokenizer import Pieces


class Bytes(Pieces):
    """Each id is one byte of UTF-8: every way to cut a character happens."""

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id])

    def text_piece(self, token_id: int, *, first: bool) -> bytes:
        return self.piece(token_id)


def answer(stops=(), stop_ids=frozenset({0}), max_tokens=10**6) -> Answer:
    return Answer(Bytes(), stops=stops, stop_ids=stop_ids, max_tokens=max_tokens)


def run(ids: list[int], **options) -> tuple[str, Ending | None, int]:
    one = answer(**options)
    text = ""
    for token_id in ids:
        if one.ending is None:
            text += one.push(token_id)
    return text + one.close(), one.ending, one.tokens


def test_ends_at_a_stop_token_whose_text_is_not_part_of_it():
    ids = [*b"Hi!", 7, *b"never"]
    stop = Ending(FinishReason.STOP)
    assert run(ids, stop_ids=frozenset({7})) == ("Hi!", stop, 4)


def test_ends_at_a_stop_string_and_counts_the_tokens_that_made_it():
    assert run([*b"one, two"], stops=[", "]) == ("one", Ending(FinishReason.STOP, ", "), 5)


def test_ends_at_the_limit_and_gives_back_what_it_held():
    assert run([*b"one, two"], stops=[", t"], max_tokens=5) == (
        "one, ",
        Ending(FinishReason.LENGTH),
        5,
    )


def test_an_unfinished_character_at_the_limit_is_replaced():
    assert run([*"é".encode()], max_tokens=1)[0] == "\ufffd"


@given(
    st.text(alphabet="ab日🚀.", max_size=12),
    st.lists(st.text(alphabet="ab日.", min_size=1, max_size=3), max_size=2),
    st.integers(1, 40),
    st.integers(0, 40),
)
def test_resumed_anywhere_it_is_the_same_text(text, stops, max_tokens, died_after):
    ids = [*text.encode(), 0]
    whole = run(ids, stops=stops, max_tokens=max_tokens)

    first = answer(stops=stops, max_tokens=max_tokens)
    received, sent = [], ""
    for token_id in ids[:died_after]:
        if first.ending is None:
            received.append(token_id)
            sent += first.push(token_id)

    second = answer(stops=stops, max_tokens=max_tokens)
    for token_id in received:
        second.push(token_id)  # their text was sent already
    for token_id in ids[len(received) :]:
        if second.ending is None:
            sent += second.push(token_id)
    if second.ending is not None or whole[1] is None:
        assert (sent + second.close(), second.ending, second.tokens) == whole

"""A conversation at a terminal."""

from __future__ import annotations

import io
from collections.abc import Generator, Mapping, Sequence

import pytest

from modelfleet_operator.client.chat import STOPPED, Conversation, Screen, answer, talk
from modelfleet_operator.client.gateway import Event, Finished, Token, Waiting
from modelfleet_operator.errors import EndpointError


class Terminal(io.StringIO):
    """Keeps what a person would see."""

    def isatty(self) -> bool:
        return True


class Model:
    """Answers with these events; remembers what it was asked, and whether the request was ended."""

    def __init__(self, *events: Event | BaseException) -> None:
        self.events = events
        self.asked: list[list[dict[str, str]]] = []
        self.ended = 0

    def ask(self, messages: Sequence[Mapping[str, str]]) -> Generator[Event, None, None]:
        self.asked.append([dict(m) for m in messages])
        try:
            for event in self.events:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.ended += 1


HELLO = (Token("Hel"), Token("lo"), Finished("stop"))


def screens() -> tuple[Screen, Terminal, Terminal]:
    out, notes = Terminal(), Terminal()
    return Screen(out, notes), out, notes


def typed(*lines: str | type[BaseException]):
    """`input` of a person who types these lines and then ends."""
    left = list(lines)

    def read(_: str) -> str:
        line = left.pop(0) if left else EOFError
        if isinstance(line, str):
            return line
        raise line

    return read


def test_an_answer_is_streamed_and_remembered():
    screen, out, _ = screens()
    conversation = Conversation(system="Be brief.")
    model = Model(*HELLO)
    assert answer(model.ask, conversation, "Hi", screen) == "stop"
    assert out.getvalue() == "Hello\n"
    answer(model.ask, conversation, "Again", screen)
    assert model.asked[1] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Again"},
    ]


def test_ctrl_c_ends_the_request_and_keeps_what_was_said():
    screen, out, notes = screens()
    conversation, model = Conversation(), Model(Token("Hel"), KeyboardInterrupt())
    assert answer(model.ask, conversation, "Hi", screen) == STOPPED
    assert model.ended == 1
    assert out.getvalue() == "Hel\n"
    assert "(stopped)" in notes.getvalue()
    assert conversation.messages[-1] == {"role": "assistant", "content": "Hel"}


def test_what_the_answer_waits_for_is_shown_until_it_comes():
    screen, out, notes = screens()
    answer(Model(Waiting("waiting for a worker"), *HELLO).ask, Conversation(), "Hi", screen)
    assert notes.getvalue() == "\r\x1b[Kwaiting for a worker\r\x1b[K"
    assert out.getvalue() == "Hello\n"


def test_a_note_between_its_words_does_not_replace_them():
    screen, out, notes = screens()
    moved = Model(Token("Hel"), Waiting("continued on w-1: exact"), Token("lo"), Finished("stop"))
    answer(moved.ask, Conversation(), "Hi", screen)
    assert (out.getvalue(), notes.getvalue()) == ("Hello\n", "")


def test_where_notes_are_no_terminal_only_the_answer_is_written():
    out, notes = io.StringIO(), io.StringIO()
    screen = Screen(out, notes)
    answer(Model(Waiting("waiting"), *HELLO).ask, Conversation(), "Hi", screen)
    assert (out.getvalue(), notes.getvalue()) == ("Hello\n", "")


def test_a_model_cannot_steer_the_terminal():
    screen, out, _ = screens()
    answer(Model(Token("a\x1b[2Jb\n\tc"), Finished("stop")).ask, Conversation(), "Hi", screen)
    assert out.getvalue() == "a\N{REPLACEMENT CHARACTER}[2Jb\n\tc\n"


def test_an_answer_that_was_cut_says_so():
    screen, _, notes = screens()
    answer(Model(Token("a"), Finished("length")).ask, Conversation(), "Hi", screen)
    assert "limit of tokens" in notes.getvalue()


def test_clear_forgets_all_but_the_systems_message():
    screen, _, _ = screens()
    model, conversation = Model(*HELLO), Conversation(system="s")
    talk(model.ask, conversation, typed("Hi", "/clear", "  ", "Again"), screen)
    assert [m["content"] for m in model.asked[1]] == ["s", "Again"]


def test_unknown_commands_are_answered_here_and_paths_are_questions():
    screen, _, notes = screens()
    model = Model(*HELLO)
    talk(model.ask, Conversation(), typed("/help", "/etc/passwd is what?", "/exit", "no"), screen)
    assert "/clear" in notes.getvalue()
    assert [asked[-1]["content"] for asked in model.asked] == ["/etc/passwd is what?"]


def test_a_refusal_is_told_and_the_conversation_goes_on():
    screen, out, notes = screens()
    model, conversation = Model(EndpointError("the queue is full")), Conversation()
    talk(model.ask, conversation, typed("Hi", "Again"), screen)
    assert notes.getvalue().count("error: the queue is full") == 2
    assert (conversation.messages, out.getvalue()) == ([], "")


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_ctrl_d_and_ctrl_c_at_the_prompt_end(end: type[BaseException]):
    screen, _, _ = screens()
    model = Model(*HELLO)
    talk(model.ask, Conversation(), typed(end, "never asked"), screen)
    assert model.asked == []

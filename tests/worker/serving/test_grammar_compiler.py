"""Formats of answers are compiled in their turn, and in time."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from modelfleet_worker.errors import InvalidRequestError, UnavailableError
from modelfleet_worker.serving.formats import GrammarCompiler, compiles_at_once
from modelfleet_worker.text.constraint import Grammars
from modelfleet_worker.text.grammar import Grammar
from structured import SmallVocabulary

VOCABULARY = SmallVocabulary()


async def test_it_is_compiled_once():
    compiler = GrammarCompiler()
    grammars = Grammars(VOCABULARY, vocab_size=VOCABULARY.vocab_size, eos_ids=VOCABULARY.eos_ids)
    key = (Grammar.regex("a+"), None)
    several = await asyncio.gather(*(compiler.compile(grammars, key) for _ in range(8)))
    assert len(set(map(id, several))) == 1
    with pytest.raises(InvalidRequestError, match="unclosed group"):
        await compiler.compile(grammars, (Grammar.regex("(a"), None))
    assert await compiler.compile(grammars, key) is several[0]


async def test_many_at_once_take_turns_and_each_gets_its_own():
    compiler, lock = GrammarCompiler(at_once=2), threading.Lock()
    begun, most, running = threading.Barrier(2), 0, 0

    def work(number: int) -> int:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        begun.wait()  # two do run at once
        with lock:
            running -= 1
        return number

    found = await asyncio.gather(*(compiler.run(lambda i=i: work(i)) for i in range(20)))
    assert found == list(range(20))
    assert most == 2


@pytest.mark.parametrize(("cores", "at_once"), [(1, 1), (2, 1), (7, 1), (8, 2), (64, 16)])
def test_the_step_keeps_most_of_the_cores(cores, at_once):
    assert compiles_at_once(cores) == at_once


async def test_one_that_takes_too_long_is_refused_and_keeps_its_turn_until_it_ends():
    compiler, may_end = GrammarCompiler(at_once=1, most_seconds=0), threading.Event()
    with pytest.raises(InvalidRequestError, match="longer than 0 s to compile: make it smaller"):
        await compiler.run(may_end.wait)
    with pytest.raises(UnavailableError, match="other formats of answers are being compiled"):
        await compiler.run(may_end.wait)
    may_end.set()
    has_had_a_turn = threading.Event()
    while not has_had_a_turn.is_set():
        with contextlib.suppress(InvalidRequestError, UnavailableError):
            await compiler.run(has_had_a_turn.set)
        await asyncio.sleep(0)

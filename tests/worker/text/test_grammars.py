"""Grammars of a model: what may come before them, their cache, their limits, odd vocabularies."""

from __future__ import annotations

import numpy as np
import pytest

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.text.constraint import Grammars, TokenConstraint
from modelfleet_worker.text.grammar import Grammar, Mark, ReasoningMarks
from modelfleet_worker.text.paced import PacedTokenizer
from structured import END, SmallVocabulary

VOCABULARY = SmallVocabulary()
SCHEMA = Grammar.json_schema('{"type":"object","properties":{"a":{"type":"integer"}}}')
THINK = ReasoningMarks(Mark("<think>"), Mark("</think>"), opened=False)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(VOCABULARY, vocab_size=VOCABULARY.vocab_size, eos_ids=VOCABULARY.eos_ids)


def allowed(constraint: TokenConstraint) -> set[int]:
    words = -(-VOCABULARY.vocab_size // 32)
    row = np.zeros(words, np.uint32)
    constraint.writer.write([constraint], row.ctypes.data, words)
    return set(np.unpackbits(row.view(np.uint8), bitorder="little").nonzero()[0].tolist())


def follow(constraint: TokenConstraint, text: str) -> TokenConstraint:
    for token_id in VOCABULARY.encode(text, add_special_tokens=False):
        assert token_id in allowed(constraint), text
        constraint.accept(token_id)
    return constraint


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        pytest.param(None, '{"a": 1}', id="none"),
        pytest.param(THINK, '{"a": 1}', id="none, though it might"),
        pytest.param(THINK, '<think>so "a" {is} </thin 1</think>\n\n{"a": 1}', id="some"),
        pytest.param(
            ReasoningMarks(Mark("<think>"), Mark("</think>"), opened=True),
            'so {"a": </think>{"a": 1}',
            id="begun in the prompt",
        ),
    ],
)
def test_the_grammar_begins_after_the_reasoning(grammars, marks, text):
    constraint = follow(grammars.compile((SCHEMA, marks)).start(), text)
    assert constraint.is_complete


def test_reasoning_may_end_with_a_special_token(grammars):
    marks = ReasoningMarks(Mark("<think>"), Mark("<end>", END), opened=True)
    constraint = follow(grammars.compile((SCHEMA, marks)).start(), "so it is")
    assert END in allowed(constraint)
    constraint.accept(END)
    assert follow(constraint, '{"a": 1}').is_complete


def test_an_end_may_come_only_where_the_answer_may_end(grammars):
    constraint = grammars.compile((Grammar.regex("[0-9]+"), None)).start()
    assert END not in allowed(constraint)
    constraint.accept(1 + ord("1"))
    assert END in allowed(constraint)
    assert not constraint.is_complete


def test_a_begun_answer_goes_on_where_it_was(grammars):
    compiled = grammars.compile((SCHEMA, THINK))
    ids = VOCABULARY.encode('<think>x</think>\n{"a": 12}', add_special_tokens=False)
    whole = compiled.start()
    for cut, token_id in enumerate(ids):
        assert allowed(compiled.start(ids[:cut])) == allowed(whole)
        whole.accept(token_id)
    with pytest.raises(InvalidRequestError, match="break the format"):
        compiled.start([1 + ord("x"), *ids])


def test_automata_that_others_have_filled_fail_no_answer(grammars):
    """The copies of a matcher share them: one that meets their limit begins with its own."""
    compiled = grammars.compile((SCHEMA, None))
    constraint = follow(compiled.start(), '{"a"')
    limits = constraint.writer.library.LLParserLimits(max_lexer_states=2)
    text = '{"grammars":[{"lark_grammar":"start: /[^x]*/"}]}'
    full = constraint.writer.library.LLMatcher(
        constraint.writer.tokenizer, text, log_level=0, limits=limits
    )
    for token_id in VOCABULARY.encode('{"a"', add_special_tokens=False):
        full.consume_token(token_id)
    full.compute_bitmask()
    assert "lexer error" in full.get_error()
    constraint.matcher = full
    assert follow(constraint, ": 1}").is_complete
    assert not constraint.error


def test_what_was_compiled_is_kept_within_bounds(grammars):
    first = grammars.compile((SCHEMA, None))
    assert grammars.compile((SCHEMA, None)) is first
    for i in range(70):
        grammars.compile((Grammar.regex(f"a{i}"), None))
    assert grammars.cached((SCHEMA, None)) is None


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (Grammar.regex("(a"), "unclosed group"),
        (Grammar.regex("(?=a)b"), "look-ahead"),
        (Grammar.lark("start: foo"), "foo"),
        (Grammar.lark("x: y z"), "start"),
        (Grammar.regex("x" * 70_000), "at most 65536"),
        (Grammar.lark('start: "a" start "b" | %json {"not": {}}'), "not"),
    ],
)
def test_grammars_that_are_wrong_or_too_much_are_refused(grammars, grammar, why):
    with pytest.raises(InvalidRequestError, match=why):
        grammars.compile((grammar, None))


def test_a_vocabulary_that_cannot_write_it_refuses_it_by_name():
    words = PacedTokenizer(2000)
    grammars = Grammars(words, vocab_size=2000, eos_ids=words.eos_ids)
    with pytest.raises(InvalidRequestError, match="format cannot be enforced"):
        grammars.compile((SCHEMA, None))
    assert grammars.compile((Grammar.regex("( fleet| wakes)+"), None))


def test_a_vocabulary_that_is_refused_refuses_what_needs_it():
    grammars = Grammars(VOCABULARY, vocab_size=VOCABULARY.vocab_size, eos_ids=frozenset())
    for _ in range(2):
        with pytest.raises(InvalidRequestError, match="no token that ends an answer"):
            grammars.compile((SCHEMA, None))


def test_masks_that_cannot_be_computed_fail_their_answers_and_nothing_else(grammars):
    """As by a vocabulary of another size than the model's: llguidance raises."""
    constraint = grammars.compile((SCHEMA, None)).start()
    row = np.zeros(99, np.uint32)
    constraint.writer.write([constraint], row.ctypes.data, len(row))
    assert "cannot be followed" in constraint.error
    assert (row == 0xFFFFFFFF).all()

"""Grammars of one model, compiled by llguidance, and the answers that are held to them.

The vocabulary that llguidance is given is the one that the answer's text is made of
(`Pieces.text_piece`): what it allows is what the client reads, whatever the tokenizer's kind.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import structlog

from ..engine.constraint import Constraint
from ..errors import InvalidRequestError
from .grammar import Grammar, GrammarKind, ReasoningMarks, as_llguidance
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import llguidance

log = structlog.get_logger()

MAX_GRAMMAR_BYTES: Final = 64 << 10  # of a grammar that is no JSON schema
_CACHED: Final = 64  # compiled grammars
_TRIED: Final = 8  # tokens of an answer that are tried before a grammar is taken
_LONGEST: Final = 300  # characters of what llguidance says
# What bounds the time and the memory of one grammar: see llguidance's LLParserLimits. Compiling
# takes at most some 0.1 s, one mask 15 ms, the automata of one grammar some tens of MB.
_LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 30_000,
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}

Key = tuple[Grammar, ReasoningMarks | None]


class Grammars:
    """Of one model; safe to use from any thread."""

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, eos_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = sorted(i for i in eos_ids if i < vocab_size)
        self._lock = threading.Lock()
        self._setting_up = threading.Lock()
        self._vocabulary: _Vocabulary | None = None
        self._compiled: OrderedDict[Key, CompiledGrammar] = OrderedDict()

    def cached(self, key: Key) -> CompiledGrammar | None:
        """What was compiled before, if it was not too long ago."""
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
            return found

    def compile(self, key: Key) -> CompiledGrammar:
        """Takes milliseconds, the first time also the set-up. Raises InvalidRequestError."""
        if (found := self.cached(key)) is not None:
            return found
        vocabulary = self.set_up()
        text = as_llguidance(*_checked(key), forces_tokens=vocabulary.has_bytes)
        compiled = CompiledGrammar(vocabulary, text)
        with self._lock:
            self._compiled[key] = compiled
            while len(self._compiled) > _CACHED:
                self._compiled.popitem(last=False)
        return compiled

    def set_up(self) -> _Vocabulary:
        """Tells llguidance the vocabulary, once: 0.3 s for 50,000 tokens, with the GIL.

        Raises InvalidRequestError where it refuses it.
        """
        with self._setting_up:
            if self._vocabulary is None:
                self._vocabulary = _Vocabulary(self._tokenizer, self._vocab_size, self._eos_ids)
            if self._vocabulary.refused:
                raise InvalidRequestError(
                    "answers of this model cannot be held to a schema or a grammar: its tokenizer"
                    f" is refused by llguidance: {self._vocabulary.refused}"
                )
            return self._vocabulary


def _checked(key: Key) -> Key:
    grammar, _ = key
    size = len(grammar.text.encode(errors="replace"))
    if grammar.kind is not GrammarKind.JSON_SCHEMA and size > MAX_GRAMMAR_BYTES:
        raise InvalidRequestError(
            f"the {grammar.kind} has {size} bytes: at most {MAX_GRAMMAR_BYTES} are taken"
        )
    return key


class _Vocabulary:
    """A model's tokens as llguidance knows them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        import llguidance

        self.library = llguidance
        self.eos_ids = eos_ids
        self.refused = ""
        self.has_bytes = False
        self.limits = llguidance.LLParserLimits(**_LIMITS)
        self.executor = llguidance.LLExecutor(1)
        try:
            wrapped = _WrappedTokenizer(tokenizer, vocab_size, eos_ids)
            told: Any = wrapped  # it asks for no more than what that has
            self.tokenizer = llguidance.LLTokenizer(
                told, n_vocab=vocab_size, eos_token=list(eos_ids)
            )
            wrapped.split = self.tokenizer.greedy_tokenize
            self.has_bytes = wrapped.has_bytes
        except BaseException as error:  # a panic of its is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            log.warning("llguidance refuses the tokenizer", error=str(error)[:_LONGEST])
            self.refused = str(error)[:_LONGEST] or type(error).__name__

    def matcher(self, grammar: str) -> llguidance.LLMatcher:
        """Of a whole grammar, from its beginning; it may be in error."""
        return self.library.LLMatcher(self.tokenizer, grammar, log_level=0, limits=self.limits)

    def write(self, constraints: Sequence[Constraint], address: int, words: int) -> None:
        """As engine.constraint.MaskWriter."""
        ours = [c for c in constraints if isinstance(c, TokenConstraint)]
        try:
            _compute(self.executor, [c.matcher for c in ours], address, words)
        except Exception as error:  # it must end these requests, never the engine
            log.exception("masks cannot be computed")
            for constraint in ours:
                constraint.error = f"the answer's format cannot be followed: {error}"
            ctypes.memset(address, 0xFF, len(ours) * words * 4)
            return
        for row, constraint in enumerate(ours):
            constraint.finish(address + row * words * 4, words)


def _compute(
    executor: llguidance.LLExecutor, matchers: list[llguidance.LLMatcher], address: int, words: int
) -> None:
    """Rows one after another: in one call, since after each one the GIL is waited for."""
    if len(matchers) == 1:
        matchers[0].unsafe_compute_mask_ptr(address, words * 4)
    else:
        rows = [(matcher, row) for row, matcher in enumerate(matchers)]
        executor.unsafe_compute_mask_ptr(rows, address, words * 4, len(rows))


class _WrappedTokenizer:
    """What LLTokenizer asks of a tokenizer that is not its own."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        if not eos_ids:
            raise ValueError("it has no token that ends an answer")
        self.eos_token_id = eos_ids[0]
        texts = [tokenizer.text_piece(i, first=False) for i in range(vocab_size)]
        names = [b"" if text else tokenizer.piece(i) for i, text in enumerate(texts)]
        # What adds no text has a name, by which a grammar may ask for it.
        self.special_token_ids = [i for i, name in enumerate(names) if name]
        self.tokens = [text or name for text, name in zip(texts, names, strict=True)]
        # Else there may be no way to cut a text that a grammar leaves no choice about.
        self.has_bytes = {bytes([i]) for i in range(0x20, 0x7F)} <= set(self.tokens)
        self._encode = tokenizer.encode
        self.split: Callable[[str], list[int]] | None = None
        self._cached = lru_cache(4096)(self._tokenize)

    def __call__(self, text: str) -> list[int]:
        """The tokens of what a grammar leaves no choice about; asked for again and again."""
        return self._cached(text)

    def _tokenize(self, text: str) -> list[int]:
        ids = self._encode(text, add_special_tokens=False)
        known = all(i < len(self.tokens) for i in ids)
        if known and b"".join(self.tokens[i] for i in ids) == text.encode():
            return ids
        return [] if self.split is None else self.split(text)  # it adds or changes something


class CompiledGrammar:
    """A grammar for one model, and the matcher that those of answers are copies of.

    Copies share the automata that are made as they are needed, so the second answer is faster. Some
    steps are tried at once: what is too much shows, and the first masks, which take longest, are no
    part of an answer's time.
    """

    def __init__(self, vocabulary: _Vocabulary, text: str) -> None:
        self.vocabulary = vocabulary
        self._text = text
        self._matcher = self.fresh()
        tried = self._matcher.deep_copy()
        for _ in range(_TRIED):
            mask = int.from_bytes(tried.compute_bitmask(), "little")
            if tried.is_error():
                raise InvalidRequestError(f"the answer's format cannot be enforced: {_said(tried)}")
            if tried.is_stopped():
                break
            tried.consume_token((mask & -mask).bit_length() - 1)

    def fresh(self) -> llguidance.LLMatcher:
        """A matcher that shares nothing."""
        return self.vocabulary.matcher(self._text)

    def start(self, resumed_ids: Sequence[int] = (), *, obeys_eos: bool = True) -> TokenConstraint:
        """For an answer that begins with these ids. Raises InvalidRequestError: it cannot."""
        return TokenConstraint(self, self._matcher.deep_copy(), resumed_ids, obeys_eos=obeys_eos)


class TokenConstraint:
    """One answer that is held to a grammar."""

    def __init__(
        self,
        grammar: CompiledGrammar,
        matcher: llguidance.LLMatcher,
        resumed_ids: Sequence[int],
        *,
        obeys_eos: bool,
    ) -> None:
        self.matcher = matcher
        self.error = ""
        self._grammar = grammar
        self._ids = list(resumed_ids)
        self._obeys_eos = obeys_eos
        if self._ids and not (self.matcher.consume_tokens(self._ids) or self._begin_anew()):
            raise InvalidRequestError(f"the resumed tokens break the format: {_said(self.matcher)}")

    @property
    def writer(self) -> _Vocabulary:
        """Of the model."""
        return self._grammar.vocabulary

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow."""
        return self.matcher.is_stopped() and not self.matcher.is_error()

    def accept(self, token_id: int) -> bool:
        """Takes a token; whether the answer is complete with it."""
        self._ids.append(token_id)
        if not self.matcher.consume_token(token_id) and self._is_out_of_room():
            self._begin_anew()
        return self.is_complete

    def finish(self, address: int, words: int) -> None:
        """Looks at the row that the matcher wrote; replaces it if the matcher has failed."""
        if self._is_out_of_room() and self._begin_anew():
            self.matcher.unsafe_compute_mask_ptr(address, words * 4)
        if self.matcher.is_error():
            self.error = (
                f"the answer's format cannot be followed any further: {_said(self.matcher)}"
            )
            ctypes.memset(address, 0xFF, words * 4)
        elif not self._obeys_eos:
            self._clear_eos(address, words)

    def _is_out_of_room(self) -> bool:
        """Other answers may have filled the automata that all copies of a matcher share."""
        return bool(self.matcher.is_error()) and "lexer error" in self.matcher.get_error()

    def _begin_anew(self) -> bool:
        """With automata of its own."""
        self.matcher = self._grammar.fresh()
        return bool(self.matcher.consume_tokens(self._ids))

    def _clear_eos(self, address: int, words: int) -> None:
        """Unless nothing else may come."""
        row = (ctypes.c_uint32 * words).from_address(address)
        before = {i: row[i // 32] for i in self.writer.eos_ids if row[i // 32] >> i % 32 & 1}
        for i in before:
            row[i // 32] &= ~(1 << i % 32)
        if before and not any(row):
            for i, word in before.items():
                row[i // 32] |= word


def _said(matcher: Any) -> str:
    said = " ".join(str(matcher.get_error()).split())
    return said[:_LONGEST] or "no reason given"

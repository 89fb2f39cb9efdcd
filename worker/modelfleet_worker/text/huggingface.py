"""The tokenizer and the chat template of a Hugging Face folder, through transformers.

A chat template is a program of the checkpoint's. It runs in transformers' sandbox, which keeps it
from files, modules and attributes, and bounds range(). Nested loops, recursion, and arithmetic on
numbers of any size would still block every stream of the worker: they are bounded here. Not bounded
is the memory of texts that a template makes ever longer: such a checkpoint harms its own worker.
"""

from __future__ import annotations

import hashlib
import json
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import InvalidRequestError, ModelError
from ..models.config import read_json
from .detokenizer import DecoderPieces
from .tokenizer import Message

_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json")
_FILES_ALSO = ("vocab.json", "merges.txt", "additional_chat_templates/*")
_EOS_FILES = ("generation_config.json", "config.json")
_LINES, _LINES_A_MESSAGE = 100_000, 1_000  # real templates run some 30 a message
_LARGEST = 1_000_000  # bits of a product, or items that * makes of a text or a list


class HuggingFaceTokenizer(DecoderPieces):
    """A fast tokenizer and the model's chat template. Raises ModelError for a folder without."""

    def __init__(self, folder: Path) -> None:
        try:
            tokenizer = _read(folder)
        except Exception as error:  # transformers raises whatever the files provoke
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ModelError(
                f"cannot read the tokenizer in {folder}: expected tokenizer.json and "
                f"tokenizer_config.json, found: {reason}"
            ) from error
        if not tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer in {folder} is {type(tokenizer).__name__}, without a "
                "tokenizer.json: only fast tokenizers are supported"
            )
        self._backend = tokenizer.backend_tokenizer
        # A tokenizer.json may ask to cut prompts short; a prompt is taken whole or refused.
        self._backend.no_truncation()
        self._backend.no_padding()
        self._template = _default_template(tokenizer.chat_template)
        self._template_names = dict(tokenizer.special_tokens_map)
        added = self._backend.get_added_tokens_decoder()
        if self._backend.decoder is None:
            raise ModelError(f"the tokenizer in {folder} declares no decoder: ids have no text")
        super().__init__(
            self._backend.id_to_token,
            frozenset(token_id for token_id, token in added.items() if token.special),
            json.loads(self._backend.decoder.__getstate__()),
        )
        self._longest = max(
            (len(self.piece(i)) for i in range(self._backend.get_vocab_size())), default=1
        )
        self.eos_ids = _eos_ids(folder, tokenizer.eos_token_id)
        self.digest = _digest(folder, self.eos_ids)

    def least_tokens(self, text: str) -> int:
        """No token has more bytes than the longest one."""
        # A normalizer may shorten a text (NFKC, spaces): four times is more than any of them does.
        longest = self._longest if self._backend.normalizer is None else 4 * self._longest
        return -(-len(text.encode()) // longest)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """As transformers does it."""
        # The batch call releases the GIL, so that a long prompt does not hold up the streams.
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def render_chat(
        self, messages: Sequence[Message], *, created: float, add_generation_prompt: bool
    ) -> str:
        """Raises InvalidRequestError for what the template refuses, or without a template."""
        if self._template is None:
            raise InvalidRequestError(
                "this model has no chat template: send a prompt to /v1/completions instead"
            )
        now = datetime.fromtimestamp(created, UTC)
        # A variable of ours hides transformers' own `strftime_now`: the prompt of a resumed request
        # must not depend on the day, nor on the time zone of the worker.
        variables = {
            **self._template_names,
            "messages": [_as_dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
            "strftime_now": now.strftime,
        }
        return render_template(self._template, variables, len(messages))


def _read(folder: Path) -> Any:
    """What AutoTokenizer finds, sooner: its tables of all models take 0.2 s to import.

    Imported here, what it needs takes a second, and the paced device never needs it.
    """
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    path = folder / "tokenizer_config.json"
    declared = json.loads(path.read_bytes()) if path.exists() else {}
    if declared.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        model = json.loads((folder / "config.json").read_bytes())
        if model.get("model_type") == "llama" and "auto_map" not in declared:
            return PreTrainedTokenizerFast.from_pretrained(str(folder), **how)
        # It then looks at `model_type` alone, and importing the class of a config takes longer than
        # all the rest: it brings torch.distributed and sympy.
        how["config"] = PreTrainedConfig.from_dict(model)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder), **how)


def _as_dict(message: Message) -> dict[str, str]:
    named = {"name": message.name} if message.name else {}
    return {"role": message.role, "content": message.content, **named}


def _default_template(template: str | dict[str, str] | None) -> str | None:
    return template.get("default") if isinstance(template, dict) else template


def _eos_ids(folder: Path, tokenizers_own: int | None) -> frozenset[int]:
    """Chat models often end a turn with another token than their tokenizer's: all of them."""
    ids = set() if tokenizers_own is None else {tokenizers_own}
    for name in _EOS_FILES:
        path = folder / name
        found: Any = read_json(path).get("eos_token_id") if path.exists() else None
        several = found if isinstance(found, list) else [] if found is None else [found]
        if not all(type(id_) is int for id_ in several):
            raise ModelError(f"{name}: eos_token_id is {found!r}: token ids are expected")
        ids.update(several)
    return frozenset(ids)


def _digest(folder: Path, eos_ids: Iterable[int]) -> str:
    files = sorted({path for name in (*_FILES, *_FILES_ALSO) for path in folder.glob(name)})
    digest = hashlib.sha256(json.dumps(sorted(eos_ids)).encode())
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()


class _TooMuchError(Exception):
    """The template does more than any real one."""


def render_template(template: str, variables: Mapping[str, Any], messages: int) -> str:
    """The text for so many messages. Raises InvalidRequestError for what the template refuses."""
    from jinja2 import TemplateError

    try:
        compiled = _compiled(template)
        with _at_most(_LINES + _LINES_A_MESSAGE * messages):
            return str(compiled.render(**variables))
    except (
        *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
        *(_TooMuchError, RecursionError, MemoryError),
    ) as error:
        raise InvalidRequestError(
            f"the model's chat template refuses these messages: {error or type(error).__name__}"
        ) from error


def prepare_templates() -> None:
    """Imports what compiling a template takes, so that the first chat need not wait for it."""
    _compiled("")


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """As transformers compiles it, with products that are bounded."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    # The environment of another template: it must be bounded before it sees this one, since a
    # compiler computes constants.
    environment: Any = _compile_jinja_template("").environment
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.call_binop = _bounded
    return environment.from_string(template)


def _bounded(_context: Any, sign: str, left: Any, right: Any) -> Any:
    """One multiplication: it runs in C, where nothing would stop it."""
    size = _bits(left) * right if sign == "**" and isinstance(right, int) else 0
    if sign == "*":
        ints = isinstance(left, int) and isinstance(right, int)
        size = _bits(left) + _bits(right) if ints else _items(left, right)
    if size > _LARGEST:
        raise _TooMuchError(f"{sign} makes something too large")
    return operator.pow(left, right) if sign == "**" else operator.mul(left, right)


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _items(left: Any, right: Any) -> int:
    times, repeated = (left, right) if isinstance(left, int) else (right, left)
    return times * len(repeated) if isinstance(times, int) and hasattr(repeated, "__len__") else 0


@contextmanager
def _at_most(lines: int) -> Iterator[None]:
    """Ends what runs in the block, in this thread, after so many lines of Python."""
    left = lines

    def count(_frame: FrameType, _event: str, _argument: object) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _TooMuchError(f"it runs for longer than {lines} lines")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)

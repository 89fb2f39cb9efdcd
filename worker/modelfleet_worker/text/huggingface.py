"""The tokenizer of a Hugging Face folder: directly, or through transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InvalidRequestError, ModelError
from ..models.config import read_json
from ..threads import using_transformers
from .chat_template import ChatTemplate
from .detokenizer import DecoderPieces
from .output.styles import AUTO, PLAIN, OutputStyle, find_style
from .tokenizer import Chat
from .tokenizer_files import TokenizerFiles, read_directly

_FILES = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json")
_FILES_ALSO = ("vocab.json", "merges.txt", "additional_chat_templates/*")
_SHORT = 4096  # characters that are tokenized sooner than the longest token is found
_EOS_FILES = ("generation_config.json", "config.json")


class HuggingFaceTokenizer(DecoderPieces):
    """A fast tokenizer and the model's chat template. Raises ModelError for a folder without."""

    def __init__(
        self, folder: Path, *, tool_parser: str = AUTO, reasoning_parser: str = AUTO
    ) -> None:
        """The parsers are names of `output.styles`."""
        files = read_directly(folder) or _read_by_transformers(folder)
        self._backend = files.backend
        # A tokenizer.json may ask to cut prompts short; a prompt is taken whole or refused.
        self._backend.no_truncation()
        self._backend.no_padding()
        template = files.chat_template
        self._chats = ChatTemplate(template, files.special_tokens) if template else None
        if self._chats is not None:
            self._chats.prepare()
        added = self._backend.get_added_tokens_decoder()
        if self._backend.decoder is None:
            raise ModelError(f"the tokenizer in {folder} declares no decoder: ids have no text")
        self._special = {token.content: i for i, token in added.items() if token.special}
        self.style = _style(folder, files, tool_parser, reasoning_parser)
        self.mark_ids = {i: text for text, i in self._special.items() if self.style.is_mark(text)}
        super().__init__(
            self._backend.id_to_token,
            frozenset(self._special.values()),
            json.loads(self._backend.decoder.__getstate__()),
        )
        self.eos_ids = _eos_ids(folder, files.eos_token_id)
        is_named = (tool_parser, reasoning_parser) != (AUTO, AUTO)
        self.digest = _digest(
            folder, self.eos_ids, self.style if is_named or self.style.reasons else None
        )

    def least_tokens(self, text: str) -> int:
        """No token has more bytes than the longest one; of a short text nothing is known."""
        if len(text) < _SHORT:
            return 0
        # A normalizer may shorten a text (NFKC, spaces): four times is more than any of them does.
        longest = self._longest if self._backend.normalizer is None else 4 * self._longest
        return -(-len(text.encode()) // longest)

    @cached_property
    def _longest(self) -> int:
        """Bytes. It looks at all tokens: 0.05 s, when the first long text comes."""
        return max((len(self.piece(i)) for i in range(self._backend.get_vocab_size())), default=1)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """As transformers does it."""
        # The batch call releases the GIL, so that a long prompt does not hold up the streams.
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return list(encoding.ids)

    def special_id(self, text: str) -> int | None:
        """The id of a text that is one special token."""
        return self._special.get(text)

    def render_chat(self, chat: Chat) -> str:
        """Raises InvalidRequestError for what the template refuses, or without a template."""
        if self._chats is None:
            raise InvalidRequestError(
                "this model has no chat template: send a prompt to /v1/completions instead"
            )
        return self._chats.render(chat)


def _read_by_transformers(folder: Path) -> TokenizerFiles:
    try:
        with using_transformers:
            tokenizer = _auto_tokenizer(folder)
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
    return TokenizerFiles(
        backend=tokenizer.backend_tokenizer,
        chat_template=_default_template(tokenizer.chat_template),
        special_tokens=tokenizer.special_tokens_map,
        eos_token_id=tokenizer.eos_token_id,
        response_template=getattr(tokenizer, "response_template", None),
    )


def _auto_tokenizer(folder: Path) -> Any:
    """Imported here, what it needs takes a second."""
    from transformers import AutoTokenizer, PreTrainedConfig

    how: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    path = folder / "tokenizer_config.json"
    declared = json.loads(path.read_bytes()) if path.exists() else {}
    if declared.get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        # It then looks at `model_type` alone, and importing the class of a config takes longer than
        # all the rest: it brings torch.distributed and sympy.
        model = json.loads((folder / "config.json").read_bytes())
        how["config"] = PreTrainedConfig.from_dict(model)
    return AutoTokenizer.from_pretrained(str(folder), **how)


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


def _style(
    folder: Path, files: TokenizerFiles, tool_parser: str, reasoning_parser: str
) -> OutputStyle:
    if not files.chat_template:
        return PLAIN
    model_type = read_json(folder / "config.json").get("model_type")
    style = find_style(
        files.chat_template,
        str(model_type or ""),
        response_template=files.response_template,
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
    )
    if style.template is not None:
        from .output.response_template import check_template

        with using_transformers:
            check_template(style.template)
    return style


def _digest(folder: Path, eos_ids: Iterable[int], style: OutputStyle | None) -> str:
    """`style`: of answers that come in parts, which a version before does not continue alike."""
    files = sorted({path for name in (*_FILES, *_FILES_ALSO) for path in folder.glob(name)})
    digest = hashlib.sha256(json.dumps(sorted(eos_ids)).encode())
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    if style is not None:
        digest.update(f"parts {style.tools} {style.reasoning}\n".encode())
    return digest.hexdigest()

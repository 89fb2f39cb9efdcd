"""A tokenizer as transformers 5.23 makes it of a folder, without transformers where that is sure.

Transformers takes most of a start: it imports torch's neighbours, and often puts a tokenizer
together anew. Here its files are read directly if what they ask for is known to come out the same,
token for token: every field of tokenizer_config.json must be known, and no token may be added or
changed by it. Everything else goes through transformers. Imports neither it nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import tokenizers
import tokenizers.models

_SPECIAL: Final = (
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
)
# Fields that decide neither ids nor the text of a chat, with a tokenizer.json: transformers drops
# add_bos_token and add_eos_token then.
_WITHOUT_EFFECT: Final = frozenset(
    (
        *("add_bos_token", "add_eos_token", "backend", "clean_up_tokenization_spaces", "errors"),
        *("is_local", "legacy", "local_files_only", "model_input_names", "model_max_length"),
        *("padding_side", "sp_model_kwargs", "spaces_between_special_tokens", "truncation_side"),
        *("use_default_system_prompt",),
    )
)
_READ: Final = frozenset(
    (
        *("added_tokens_decoder", "additional_special_tokens", "chat_template"),
        *("extra_special_tokens", "response_template", "tokenizer_class", *_SPECIAL),
    )
)
_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")
_PLAIN_SPECIAL: Final = {**dict.fromkeys(_FLAGS, False), "special": True}
_AS_IN_THE_FILE: Final = ("TokenizersBackend", "PreTrainedTokenizerFast")
_QWEN2_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """What a folder says about text."""

    backend: tokenizers.Tokenizer
    chat_template: str | None
    special_tokens: dict[str, str]  # bos_token and so on, as templates know them
    eos_token_id: int | None
    response_template: dict[str, Any] | None = None  # how the checkpoint's answers are read


def read_directly(folder: Path) -> TokenizerFiles | None:
    """None: only transformers knows what to make of the files, or what is wrong with them."""
    try:
        declared = json.loads((folder / "tokenizer_config.json").read_bytes())
        model_type = json.loads((folder / "config.json").read_bytes()).get("model_type")
        if _class_of(declared.get("tokenizer_class"), model_type) is None:
            return None
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        special = _special_tokens(declared, backend, model_type, _legacy(folder))
        if special is None:
            return None
        template = _chat_template(folder, declared)
    except Exception:  # transformers meets it again, and its message is reported
        return None
    eos = special.get("eos_token")
    return TokenizerFiles(
        backend=backend,
        chat_template=template,
        special_tokens=special,
        eos_token_id=None if eos is None else backend.token_to_id(eos),
        response_template=declared.get("response_template"),
    )


def _legacy(folder: Path) -> bool:
    return any((folder / n).exists() for n in ("special_tokens_map.json", "added_tokens.json"))


def _special_tokens(
    declared: dict[str, Any], backend: tokenizers.Tokenizer, model_type: object, legacy: bool
) -> dict[str, str] | None:
    """Named ones, if the backend of these files is tokenizer.json's own."""
    known = _WITHOUT_EFFECT | _READ | {"add_prefix_space"}
    if not declared.keys() <= known or backend.padding is not None:
        return None
    tokens = backend.get_added_tokens_decoder()
    added = {token.content: _flags(token) for token in tokens.values()}
    declares = declared.get("added_tokens_decoder")
    if declares is None and legacy:
        return None
    if declares is not None and not all(_is_same(t, added) for t in declares.values()):
        return None
    named = _texts({name: declared[name] for name in _SPECIAL if name in declared})
    extra = declared.get("extra_special_tokens") or declared.get("additional_special_tokens") or []
    others = _texts(dict(enumerate(extra))) if isinstance(extra, list) else None
    if named is None or others is None:
        return None
    match _class_of(declared.get("tokenizer_class"), model_type):
        case "TokenizersBackend":
            pass
        case "Qwen2Tokenizer":
            endings = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
            named = {**endings, **named}
            texts = [text for text in (*named.values(), *others.values()) if text is not None]
            plain = all(added.get(text) == _PLAIN_SPECIAL for text in texts)
            if not (plain and _is_rebuilt_alike(declared, backend)):
                return None
        case _:
            return None
    if any(text not in added for text in (*named.values(), *others.values()) if text is not None):
        return None  # it would be added
    return {name: text for name in _SPECIAL if (text := named.get(name)) is not None}


def _class_of(declared: object, model_type: object) -> str | None:
    """Which class AutoTokenizer takes for our families. None: not known here."""
    if declared in _AS_IN_THE_FILE:
        return "TokenizersBackend" if model_type in ("llama", "mistral", "qwen3") else None
    match model_type:
        case "mistral" if declared in ("LlamaTokenizer", "LlamaTokenizerFast"):
            # With that package installed, its own class reads the files.
            return None if find_spec("mistral_common") else "TokenizersBackend"
        case "qwen2" | "qwen3" if declared in ("Qwen2Tokenizer", "Qwen2TokenizerFast"):
            return "Qwen2Tokenizer"
    return None


def _texts(tokens: Mapping[Any, Any]) -> dict[Any, str | None] | None:
    """Tokens are texts, or objects of a type; None: others, which transformers refuses."""
    found: dict[Any, str | None] = {}
    for name, token in tokens.items():
        if isinstance(token, dict) and token.get("__type") == "AddedToken":
            found[name] = str(token["content"])
        elif token is None or isinstance(token, str):
            found[name] = token
        else:
            return None
    return found


def _flags(token: tokenizers.AddedToken) -> dict[str, Any]:
    return {flag: getattr(token, flag) for flag in _FLAGS}


def _is_same(token: dict[str, Any], added: Mapping[str, Mapping[str, Any]]) -> bool:
    return added.get(token["content"]) == {flag: token[flag] for flag in _FLAGS}


def _is_rebuilt_alike(declared: dict[str, Any], backend: tokenizers.Tokenizer) -> bool:
    """Whether what Qwen2's class makes of vocabulary and merges is what tokenizer.json has."""
    model = backend.model
    if not isinstance(model, tokenizers.models.BPE):
        return False
    options = (model.dropout, model.unk_token, model.fuse_unk, model.byte_fallback)
    affixes = (model.continuing_subword_prefix, model.end_of_word_suffix)
    split = {
        "type": "Split",
        "pattern": {"Regex": _QWEN2_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }
    match _state(backend.pre_tokenizer):
        case {
            "type": "Sequence",
            "pretokenizers": [
                first,
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if first == split:
            pass
        case _:
            return False
    return (
        not declared.get("add_prefix_space")
        and options == (None, None, False, False)
        and not any(affixes)
        and not model.ignore_merges
        and _state(backend.normalizer) == {"type": "NFC"}
        and _state(backend.decoder).get("type") == "ByteLevel"
        and _ids_are_alike(declared, backend)
    )


def _state(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as tokenizer.json has it."""
    state: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return state


def _ids_are_alike(declared: dict[str, Any], backend: tokenizers.Tokenizer) -> bool:
    """Added again in the order of their ids, tokens get these ids."""
    tokens = sorted(backend.get_added_tokens_decoder().items())
    # Without them transformers goes by the ids in tokenizer.json, which its library corrects.
    declares = declared.get("added_tokens_decoder") or {}
    own = {str(id_): token.content for id_, token in tokens}
    if own != {key: token["content"] for key, token in declares.items()}:
        return False
    following = backend.get_vocab_size(with_added_tokens=False)
    for id_, token in tokens:
        known = backend.model.token_to_id(token.content)
        if id_ != (following if known is None else known):
            return False
        following = max(following, id_ + 1)
    return True


def _chat_template(folder: Path, declared: dict[str, Any]) -> str | None:
    """The default one: files come before tokenizer_config.json."""
    found = {p.stem: p for p in (folder / "additional_chat_templates").glob("*.jinja")}
    if (path := folder / "chat_template.jinja").is_file():
        found["default"] = path
    if found:
        chosen = found.get("default")
        return None if chosen is None else chosen.read_text(encoding="utf-8")
    template = declared.get("chat_template")
    if isinstance(template, list):
        template = {each["name"]: each["template"] for each in template}
    return template.get("default") if isinstance(template, dict) else template

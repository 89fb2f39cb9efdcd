"""A folder's tokenizer read without transformers is transformers', or is left to it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.utils.chat_template_utils import _compile_jinja_template

from modelfleet_worker.text.huggingface import HuggingFaceTokenizer
from modelfleet_worker.text.template_environment import chat_environment
from modelfleet_worker.text.tokenizer_files import read_directly
from prepare_smollm2 import model_folder

SMOLLM2 = model_folder()
TEXTS = [
    "Hello, world! It's 2026-11-30; I'LL pay 12345.678 €.",
    "  two spaces\n\n\tand a tab \r\n",
    "Größe, naïve, 日本語, 🚀👩‍👩‍👧 and עברית, e\u0301 as two characters",
    "<|im_start|>user\nspecial tokens in a text<|im_end|><extra>",
    "def f(x):\n    return x ** 2  # code\n" * 3,
]
SPECIAL = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}


def added(told: dict[str, Any]) -> dict[str, Any]:
    """As tokenizer_config.json repeats them."""
    return {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in told["added_tokens"]}


def folder(
    path: Path,
    *,
    model_type: str = "llama",
    told: dict[str, Any] | None = None,
    others: dict[str, str] | None = None,
    **declared: Any,
) -> Path:
    config = json.loads((SMOLLM2 / "config.json").read_text()) | {"model_type": model_type}
    known = json.loads((SMOLLM2 / "tokenizer_config.json").read_text())
    files = {
        "config.json": json.dumps(config),
        "tokenizer_config.json": json.dumps(known | declared),
        "tokenizer.json": json.dumps(told or byte_level()),
        **(others or {}),
    }
    for name, content in files.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(content)
    return path


@cache
def trained() -> str:
    """Of SmolLM2's kind, with a vocabulary that is read in no time."""
    backend = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend.to_str()


def byte_level() -> dict[str, Any]:
    return json.loads(trained())


def qwen2(**changes: Any) -> dict[str, Any]:
    """The same vocabulary behind Qwen's rules."""
    backend = Tokenizer.from_str(trained())
    backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    backend.decoder = decoders.ByteLevel()
    return json.loads(backend.to_str()) | changes


def with_token(told: dict[str, Any], content: str, **changes: Any) -> dict[str, Any]:
    place = max(len(told["model"]["vocab"]), *(t["id"] + 1 for t in told["added_tokens"]))
    token = {"id": place, "content": content, "normalized": False, **SPECIAL, **changes}
    return told | {"added_tokens": [*told["added_tokens"], token]}


def equal_to_transformers(path: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(path)
    found = read_directly(path)
    assert found is not None
    assert found.special_tokens == theirs.special_tokens_map
    assert found.eos_token_id == theirs.eos_token_id
    assert found.chat_template == theirs.chat_template
    assert found.backend.get_vocab() == theirs.get_vocab()
    ours = HuggingFaceTokenizer(path)
    for text in TEXTS:
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special).input_ids
            assert ours.encode(text, add_special_tokens=special) == expected
    tokens = found.backend.get_added_tokens_decoder()
    assert {i: repr(t) for i, t in tokens.items()} == {
        i: repr(t) for i, t in theirs.added_tokens_decoder.items()
    }


@pytest.mark.parametrize(
    ("model_type", "declared"),
    [
        ("llama", "TokenizersBackend"),
        ("llama", "PreTrainedTokenizerFast"),
        ("mistral", "PreTrainedTokenizerFast"),
        ("mistral", "LlamaTokenizerFast"),
        ("qwen3", "TokenizersBackend"),
    ],
)
def test_a_tokenizer_that_is_its_file(tmp_path: Path, model_type: str, declared: str):
    equal_to_transformers(folder(tmp_path, model_type=model_type, tokenizer_class=declared))


@pytest.mark.parametrize(
    "declared",
    [
        {"added_tokens_decoder": added(byte_level())},
        {
            "added_tokens_decoder": added(byte_level()),
            "additional_special_tokens": ["<|im_start|>"],
        },
        {"bos_token": {"__type": "AddedToken", "content": "<|im_start|>"}, "unk_token": None},
        {"add_bos_token": True, "add_eos_token": True, "legacy": False},
        {"chat_template": [{"name": "default", "template": "a"}, {"name": "b", "template": "c"}]},
    ],
    ids=" ".join,
)
def test_fields_that_change_nothing(tmp_path: Path, declared: dict[str, Any]):
    if isinstance(declared.get("chat_template"), list):
        path = folder(tmp_path, **declared)
        found = read_directly(path)
        assert found is not None
        assert found.chat_template == "a"
        assert AutoTokenizer.from_pretrained(path).chat_template["default"] == "a"
        return
    equal_to_transformers(folder(tmp_path, **declared))


@pytest.mark.parametrize("post_processor", [None, "as it is"])
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3"])
def test_qwens_tokenizer_is_put_together_alike(
    tmp_path: Path, model_type: str, post_processor: str | None
):
    told = with_token(qwen2(), "<extra>")
    if post_processor is None:
        told["post_processor"] = None
    how = {"tokenizer_class": "Qwen2Tokenizer", "model_type": model_type, "told": told}
    equal_to_transformers(folder(tmp_path, **how, added_tokens_decoder=added(told)))


def test_the_files_of_templates_come_first(tmp_path: Path):
    equal_to_transformers(
        folder(tmp_path, chat_template="old", others={"chat_template.jinja": "{{ 1 }}"})
    )


WIDE = with_token(byte_level(), "<extra>", lstrip=True)
LEFT_TO_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "a field that is not known": {"new_field": 1},
    "special tokens that are split": {"split_special_tokens": True},
    "a token that would be added": {"pad_token": "<pad>"},
    "an extra one": {"extra_special_tokens": ["<pad>"]},
    "extra ones with names": {"extra_special_tokens": {"image_token": "<|im_start|>"}},
    "a token of its own kind": {"image_token": "<|im_start|>"},
    "another class": {"tokenizer_class": "GPT2Tokenizer"},
    "no class": {"tokenizer_class": None},
    "code": {"auto_map": {"AutoTokenizer": ["a.B", None]}},
    "padding": {"told": byte_level() | {"padding": {"strategy": "BatchLongest"}}},
    "another model": {"model_type": "phi3"},
    "a token that is declared otherwise": {
        "added_tokens_decoder": added(with_token(byte_level(), "<extra>")),
        "told": WIDE,
    },
    "older files of special tokens": {"others": {"special_tokens_map.json": "{}"}},
    "a broken file": {"others": {"tokenizer.json": "{"}},
    "qwen, not normalized": {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_type": "qwen2",
        "told": qwen2(normalizer=None),
    },
    "qwen with another pattern": {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_type": "qwen2",
        "told": byte_level(),
    },
    "qwen with a wide token": {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_type": "qwen2",
        "told": with_token(qwen2(), "<extra>", lstrip=True),
        "additional_special_tokens": ["<extra>"],
    },
    "qwen that does not declare its tokens": {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_type": "qwen2",
        "told": qwen2(),
    },
    "qwen with a gap in its ids": {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_type": "qwen2",
        "told": with_token(qwen2(), "<extra>", id=60000),
        "added_tokens_decoder": added(with_token(qwen2(), "<extra>", id=60000)),
    },
}


@pytest.mark.parametrize("name", LEFT_TO_TRANSFORMERS)
def test_what_is_not_sure_is_left_to_transformers(tmp_path: Path, name: str):
    assert read_directly(folder(tmp_path, **LEFT_TO_TRANSFORMERS[name])) is None


@pytest.mark.parametrize("name", ["a token that would be added", "qwen with another pattern"])
def test_and_transformers_is_followed_there(tmp_path: Path, name: str):
    path = folder(tmp_path, **LEFT_TO_TRANSFORMERS[name])
    theirs, ours = AutoTokenizer.from_pretrained(path), HuggingFaceTokenizer(path)
    for text in [*TEXTS, "<pad>"]:
        assert ours.encode(text, add_special_tokens=True) == theirs(text).input_ids


TEMPLATES = [
    "{% for m in messages %}{{ m | tojson }}{% if loop.last %}{% break %}{% endif %}{% endfor %}",
    "{% for m in messages %}\n  {% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}",
    "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{{ ns.a }}{{ dict(a=1) }}",
    "{{ messages | tojson(indent=2) }}{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=True) }}",
    "{{ dict.fromkeys(['a'], 2) }}{{ messages[0].content.upper() | trim }}",
    "{% macro shown(x) -%}  [{{ x }}] {%- endmacro %}{{ shown(1) }}{%- if true -%} y {%- endif %}",
    "{{ namespace(_private=1) }}",
    "{{ messages.append(1) }}",
    "{{ ''.__class__ }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%Y') }}",
    "{% generation %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_are_rendered_alike(template: str):
    variables = {"messages": [{"role": "user", "content": " a\nb é <b> "}]}

    def outcome(compile_template) -> str:
        try:
            return compile_template(template).render(**variables)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    assert outcome(lambda t: chat_environment().from_string(t)) == outcome(_compile_jinja_template)

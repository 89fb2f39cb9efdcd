"""The tokenizer of a real folder is transformers', character for character."""

import json
import shutil
from functools import cache
from pathlib import Path

import pytest

from modelfleet_worker.errors import InvalidRequestError, ModelError
from modelfleet_worker.text.detokenizer import Detokenizer
from modelfleet_worker.text.huggingface import HuggingFaceTokenizer
from modelfleet_worker.text.tokenizer import Chat, Message
from prepare_smollm2 import model_folder

SMOLLM2 = model_folder()
NOON = 1_700_000_000.0  # 14 November 2023, 22:13 UTC

TEXTS = [
    "Hello, world!",
    "  two spaces\n\n\tand a tab ",
    "Größe, naïve, 日本語, 🚀👩‍👩‍👧 and עברית",
    "<|im_start|>user\nspecial tokens in a text<|im_end|>",
    "def f(x):\n    return x ** 2  # code\n" * 20,
    "|  1 |  24 |\n  min:  3.14\n\t2026-11-30",
]


@cache
def ours() -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(SMOLLM2)


@cache
def theirs():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SMOLLM2)


def folder_with(tmp_path: Path, **config: object) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        shutil.copy(SMOLLM2 / name, folder)
    known = json.loads((SMOLLM2 / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(known | config))
    return folder


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [True, False])
def test_encodes_as_transformers_does(text: str, special: bool):
    expected = theirs()(text, add_special_tokens=special).input_ids
    assert ours().encode(text, add_special_tokens=special) == expected


@pytest.mark.parametrize("text", TEXTS)
def test_decodes_as_transformers_does(text: str):
    ids = theirs()(text).input_ids
    detokenizer = Detokenizer(ours())
    ours_text = "".join([detokenizer.push(i) for i in ids]) + detokenizer.flush()
    assert ours_text == theirs().decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("generation", [True, False])
def test_renders_chats_as_transformers_does(generation: bool):
    messages = [
        Message("user", "What is the capital of France?"),
        Message("assistant", "Paris."),
        Message("user", "And of {{ Japan }}? 日本"),
    ]
    expected = theirs().apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages],
        tokenize=False,
        add_generation_prompt=generation,
    )
    rendered = ours().render_chat(
        Chat(messages=messages, created=NOON, add_generation_prompt=generation)
    )
    assert rendered == expected


def test_the_templates_now_is_the_requests(tmp_path: Path):
    template = "{{ strftime_now('%d %b %Y %H:%M') }}: {{ messages[0].content }}"
    folder = folder_with(tmp_path, chat_template=template)
    rendered = HuggingFaceTokenizer(folder).render_chat(
        Chat(messages=[Message("user", "hi")], created=NOON)
    )
    assert rendered == "14 Nov 2023 22:13: hi"


def test_what_a_template_refuses_is_an_invalid_request(tmp_path: Path):
    template = "{{ raise_exception('roles must alternate') }}"
    tokenizer = HuggingFaceTokenizer(folder_with(tmp_path, chat_template=template))
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        tokenizer.render_chat(Chat(messages=[Message("user", "hi")]))


def test_a_model_without_a_chat_template_says_what_to_do(tmp_path: Path):
    tokenizer = HuggingFaceTokenizer(folder_with(tmp_path))
    with pytest.raises(InvalidRequestError, match=r"no chat template.*completions"):
        tokenizer.render_chat(Chat(messages=[Message("user", "hi")]))


def test_a_truncating_tokenizer_does_not_cut_prompts(tmp_path: Path):
    folder = folder_with(tmp_path)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert len(HuggingFaceTokenizer(folder).encode("a b c d e", add_special_tokens=True)) == 5


def test_knows_every_end_of_sequence(tmp_path: Path):
    folder = folder_with(tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    assert HuggingFaceTokenizer(folder).eos_ids == {0, 2, 7}


def test_the_digest_follows_the_files(tmp_path: Path):
    folder = folder_with(tmp_path)
    before = HuggingFaceTokenizer(folder).digest
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert HuggingFaceTokenizer(folder).digest != before
    assert ours().digest == HuggingFaceTokenizer(SMOLLM2).digest


def test_a_long_text_is_known_to_be_too_long_without_tokenizing_it():
    text = "x" * 10**6
    least = ours().least_tokens(text)
    assert 8192 < least <= len(ours().encode(text, add_special_tokens=False))


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_without_a_tokenizer_is_a_model_error(tmp_path: Path, content: str | None):
    (tmp_path / "config.json").write_text((SMOLLM2 / "config.json").read_text())
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer"):
        HuggingFaceTokenizer(tmp_path)

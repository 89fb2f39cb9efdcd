"""tools/prepare_smollm2.py: the tokenizer that it writes, and when it writes the folder again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import prepare_smollm2
from prepare_smollm2 import PRE_TOKENIZER, model_folder, prepare

GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False}


def write_folder(folder: Path, pre_tokenizer: object, weights: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(weights)
    (folder / "model.safetensors").chmod(0o600)  # as safetensors does it
    (folder / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": pre_tokenizer}))


def folders() -> list[str]:
    return [path.name for path in model_folder().parent.iterdir() if path.is_dir()]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; a conversion takes no time and writes "new" weights."""
    monkeypatch.setenv("MODELFLEET_CACHE", str(tmp_path))
    monkeypatch.setattr(
        prepare_smollm2, "convert", lambda folder: write_folder(folder, PRE_TOKENIZER, "new")
    )
    return tmp_path


@pytest.mark.parametrize(
    ("there", "weights"),
    [
        pytest.param(None, "new", id="no folder"),
        pytest.param(GPT2_SPLIT, "new", id="one with the wrong tokenizer is replaced"),
        pytest.param(PRE_TOKENIZER, "old", id="one with the right tokenizer stays"),
    ],
)
def test_converts_unless_the_folder_is_right(cache: Path, there: object, weights: str):
    if there is not None:
        write_folder(model_folder(), there, "old")
    assert prepare() == model_folder()
    assert (model_folder() / "model.safetensors").read_text() == weights
    assert folders() == [model_folder().name]


@pytest.mark.parametrize("there", [None, PRE_TOKENIZER], ids=["new", "of an earlier version"])
def test_the_umask_says_who_may_read_the_weights(cache: Path, there: object):
    """safetensors writes them for its own user alone; workers in pods have another."""
    if there is not None:
        write_folder(model_folder(), there, "old")
    prepare()
    weights = model_folder() / "model.safetensors"
    assert weights.stat().st_mode == (model_folder() / "tokenizer.json").stat().st_mode


def test_a_failed_conversion_leaves_the_folder_as_it_was(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(folder: Path) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(prepare_smollm2, "convert", fail)
    write_folder(model_folder(), GPT2_SPLIT, "old")
    with pytest.raises(OSError, match="full"):
        prepare()
    assert (model_folder() / "model.safetensors").read_text() == "old"
    assert folders() == [model_folder().name]


def test_digits_are_split_off_first():
    """The tokens of findings/gguf-pre-tokenizer.sh; the model finds them likelier by 24 nats."""
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    assert tokenizer.encode("|  1 |").tokens == ["|", "ĠĠ", "1", "Ġ|"]
    assert len(tokenizer.encode("|  1 |  2 |\n|  3 |  4 |\n").ids) == 16

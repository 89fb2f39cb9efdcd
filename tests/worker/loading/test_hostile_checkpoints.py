"""Whatever a checkpoint claims: one clear error, never a crash or the memory that it asks for.

One process loads them all in a row, under a limit of memory that is far below their claims.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

import load_each
from hostile_checkpoints import Spoil, config, quantized_model, sound_model
from hostile_configs import CONFIGS, OWN_CODE, PACKED, TOKENIZERS
from hostile_files import FILES

MOST_GROWN = 64 << 20  # bytes of resident memory beyond what the process had


@dataclass(frozen=True)
class Outcome:
    """What became of a load."""

    name: str
    error: str
    message: str
    grown: int
    seconds: float


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """All of them, loaded by one process."""
    root = tmp_path_factory.mktemp("checkpoints")
    asked = [
        {"name": f"sound {kind}", "kind": kind, "folder": str(sound_model(root / f"sound-{kind}"))}
        for kind in ("model", "tokenizer")
    ]
    cases: list[tuple[str, str, Any, Spoil]] = [
        *((name, "model", sound_model, case[0]) for name, case in (FILES | CONFIGS).items()),
        *((name, "tokenizer", sound_model, case[0]) for name, case in TOKENIZERS.items()),
        *((name, "model", quantized_model(case[0]), case[1]) for name, case in PACKED.items()),
    ]
    # It imports most of transformers: once, before what others take is measured.
    cases.insert(0, ("imports", "tokenizer", sound_model, TOKENIZERS[OWN_CODE][0]))
    cases.append(("a long context", "model", sound_model, config(max_position_embeddings=2**30)))
    for number, (name, kind, make, spoil) in enumerate(cases):
        folder = make(root / str(number))
        spoil(folder)
        asked.append({"name": name, "kind": kind, "folder": str(folder)})
    asking = "".join(json.dumps(line) + "\n" for line in asked).encode()
    command = [sys.executable, load_each.__file__]
    try:
        ended = subprocess.run(command, input=asking, capture_output=True, check=False, timeout=120)
        answer, why = ended.stdout, f"ended with {ended.returncode}: {ended.stderr[-1000:]!r}"
    except subprocess.TimeoutExpired as hanging:
        answer, why = hanging.stdout or b"", "hangs"
    found = [Outcome(**json.loads(line)) for line in answer.splitlines()]
    if len(found) < len(asked):
        pytest.fail(f"{asked[len(found)]['name']!r}: the process {why}")
    return {outcome.name: outcome for outcome in found}


def test_a_sound_one_loads(outcomes: dict[str, Outcome]):
    assert outcomes["sound model"].message == ""
    assert outcomes["sound tokenizer"].message == ""


def test_a_context_beyond_the_cache_takes_no_memory(outcomes: dict[str, Outcome]):
    assert outcomes["a long context"].message == ""
    assert outcomes["a long context"].grown < MOST_GROWN


MESSAGES = {
    **{name: case[1] for name, case in (FILES | CONFIGS | TOKENIZERS).items()},
    **{name: case[2] for name, case in PACKED.items()},
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_hostile_checkpoint_is_one_clear_error(name: str, outcomes: dict[str, Outcome]):
    outcome = outcomes[name]
    assert outcome.error in ("ModelError", "TooLargeError"), outcome
    assert "\n" not in outcome.message
    assert len(outcome.message) < 1000
    assert re.search(MESSAGES[name], outcome.message), outcome.message
    assert outcome.grown < MOST_GROWN

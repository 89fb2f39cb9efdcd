"""Ropes that are stretched and attention that slides: tiny random models against transformers."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from engine_run import run_engine
from generic_models import SIZES, VOCAB, greedy, load
from modelfleet_worker.devices.torch.generic_runner import GenericRunner
from modelfleet_worker.devices.torch.runner import TorchRunner
from modelfleet_worker.engine.device import LoadedModel
from modelfleet_worker.engine.request import Request

ORIGINAL = 32  # tokens that the ropes are stretched from
NEW = 12  # tokens of each answer
# Within the original context; across its end while answering; beyond it, two with a prefix of two
# blocks in common; and one of the same length as another.
PROMPTS = [
    tuple((7 * i + 3) % VOCAB for i in range(5)),
    tuple((3 * i + 1) % VOCAB for i in range(27)),
    tuple((11 * i + 5) % VOCAB for i in range(40)),
    tuple((11 * i + 5) % VOCAB for i in range(52)),
    tuple((5 * i * i + 1) % VOCAB for i in range(52)),
    tuple((13 * i + 2) % VOCAB for i in range(90)),
]
HALF = 8  # of the heads' 16 numbers
SHORT = [1.0 + 0.1 * i for i in range(HALF)]
LONG = [2.0 + 0.5 * i for i in range(HALF)]


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 500.0, **parameters}


YARN = rope("yarn", factor=8.0, original_max_position_embeddings=ORIGINAL)
LONGROPE = rope(
    "longrope", short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=ORIGINAL
)


def llama(parameters: dict[str, Any], **changes: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes}, rope_parameters=parameters))


MODELS = {
    "linear": lambda: llama(rope("linear", factor=8.0), max_position_embeddings=ORIGINAL),
    "dynamic": lambda: llama(rope("dynamic", factor=8.0), max_position_embeddings=ORIGINAL),
    "yarn": lambda: llama(YARN),
    "yarn, all fields": lambda: llama(
        {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 16, "truncate": False}
    ),
    "longrope": lambda: llama(LONGROPE),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=20)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    ),
    "qwen2, no layer slides": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=3)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(
            **SIZES,
            head_dim=16,
            use_sliding_window=True,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
}
GENERIC = {
    "phi 3, longrope": lambda: Phi3ForCausalLM(
        Phi3Config(
            **SIZES,
            rope_parameters=LONGROPE,
            original_max_position_embeddings=ORIGINAL,
            pad_token_id=0,
        )
    ),
    "yarn and gelu": lambda: llama(YARN, hidden_act="gelu"),
    "dynamic and gelu": lambda: llama(
        rope("dynamic", factor=8.0), max_position_embeddings=ORIGINAL, hidden_act="gelu"
    ),
    "longrope and gelu": lambda: llama(LONGROPE, hidden_act="gelu"),
    "mistral, a window and gelu": lambda: MistralForCausalLM(
        MistralConfig(**SIZES, sliding_window=20, hidden_act="gelu")
    ),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    ours: LoadedModel
    expected: list[list[int]]  # transformers' greedy answers


def saved(name: str, folder: Path) -> PreTrainedModel:
    torch.manual_seed(len(name))
    model = {**MODELS, **GENERIC}[name]().eval()
    for parameter in model.parameters():  # biases and norms are constants otherwise
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    model.set_attn_implementation("eager")
    return model


@pytest.fixture(scope="module", params=[*MODELS, *GENERIC])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("model")
    theirs = saved(request.param, folder)
    # A copy each: with dynamic rope a model remembers the longest sequence that it has seen.
    expected = [greedy(copy.deepcopy(theirs), prompt, NEW) for prompt in PROMPTS]
    assert all(len(set(answer)) > 1 for answer in expected)
    ours = load(folder)
    assert ours.limits.context_length == 256
    assert isinstance(ours.runner, TorchRunner if request.param in MODELS else GenericRunner)
    return Pair(ours, expected)


def requests() -> list[Request]:
    return [
        Request(request_id=str(i), prompt_ids=prompt, max_tokens=NEW)
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize(
    ("budget", "sequences", "caching"),
    [(1, 8, True), (7, 8, True), (100_000, 8, False), (100_000, 1, True)],
)
def test_says_what_transformers_says(pair: Pair, budget: int, sequences: int, caching: bool):
    # The last two are left out where each of their tokens is a step: one is there to be in a batch
    # with another of its length, and the other to be long, as others are.
    few = requests()[:4] if budget == 1 else requests()
    run = run_engine(
        pair.ours.runner,
        few,
        budget=budget,
        sequences=sequences,
        caching=caching,
        vocab_size=VOCAB,
    )
    assert [run.answers[r.request_id].ids for r in few] == pair.expected[: len(few)]


@pytest.mark.parametrize("done", [1, 4, 6, 11])
def test_says_the_same_after_a_resume(pair: Pair, done: int):
    """Across the end of the original context, too."""
    resumed = [
        dataclasses.replace(request, resumed_ids=tuple(answer[:done]))
        for request, answer in zip(requests(), pair.expected, strict=True)
    ]
    run = run_engine(pair.ours.runner, resumed, budget=64, vocab_size=VOCAB)
    assert [run.answers[str(i)].ids for i in range(len(PROMPTS))] == [
        answer[done:] for answer in pair.expected
    ]

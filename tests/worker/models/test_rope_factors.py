"""Rope without torch, against transformers' own frequencies and torch's cosines and sines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from modelfleet_worker.models.config import parse_config
from modelfleet_worker.models.rope import rope_factors as torchs_factors
from modelfleet_worker.models.rope_factors import (
    attention_factor,
    frequencies,
    rope_factors,
    rope_factors_by_length,
)

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, not truncated": {**YARN, "truncate": False},
}


def configs(kind: str, theta: float, head_dim: int) -> tuple[LlamaConfig, dict[str, Any]]:
    theirs = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=16384,
        rope_parameters={**KINDS[kind], "rope_theta": theta},
        architectures=["LlamaForCausalLM"],
    )
    return theirs, theirs.to_dict()


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_transformers(kind: str, theta: float, head_dim: int):
    """Bit for bit with torch's powers, but for llama3, whose blend is computed in float64."""
    theirs, raw = configs(kind, theta, head_dim)
    ours = parse_config(raw)
    even = torch.arange(0, head_dim, 2, dtype=torch.float) / head_dim
    expected, factor = 1.0 / theta**even, 1.0
    if kind != "default":
        expected, factor = ROPE_INIT_FUNCTIONS[KINDS[kind]["rope_type"]](theirs, "cpu")
    ulps = 8 if kind == "llama3" else 0
    with_torch = frequencies(ours.rope, (theta**even).numpy())
    np.testing.assert_array_max_ulp(with_torch, expected.numpy(), ulps)
    np.testing.assert_array_max_ulp(frequencies(ours.rope), expected.numpy(), ulps + 2)
    assert attention_factor(ours.rope) == factor


@pytest.mark.parametrize("kind", KINDS)
def test_cosines_and_sines_are_right_to_the_last_place(kind: str):
    ours = parse_config(configs(kind, 1e4, 64)[1])
    angles = torch.arange(9000).float()[:, None] * torch.from_numpy(frequencies(ours.rope))
    exact = (angles.double().cos(), angles.double().sin())
    for found, truth in zip(rope_factors(ours.rope, 9000), exact, strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, (truth * attention_factor(ours.rope)).float().numpy())


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 4.0},
        {
            "rope_type": "longrope",
            "short_factor": [1 + 0.1 * i for i in range(16)],
            "long_factor": [2 + 0.5 * i for i in range(16)],
            "original_max_position_embeddings": 64,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_by_length_they_are_those_of_torch(rope: dict[str, Any]):
    raw = {**configs("default", 1e4, 32)[1], "max_position_embeddings": 64}
    ours = parse_config({**raw, "rope_parameters": {**rope, "rope_theta": 1e4}})
    positions, reaches = [0, 5, 63, 64, 200, 200], [40, 64, 64, 65, 201, 900]
    expected = torchs_factors(ours, torch.tensor(positions), torch.tensor(reaches))
    for found, truth in zip(
        rope_factors_by_length(ours.rope, positions, reaches), expected, strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, truth.numpy(), atol=2e-5)

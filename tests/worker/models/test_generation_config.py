"""Defaults of sampling from a checkpoint: which values are taken, and which are refused."""

import json
from pathlib import Path

import pytest

from modelfleet_worker.errors import ModelError
from modelfleet_worker.models.generation_config import (
    NO_DEFAULTS,
    SamplingDefaults,
    sampling_defaults,
)


def written(folder: Path, **content: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(content))
    return folder


def test_without_a_file_and_without_a_value_nothing_is_a_default(tmp_path: Path):
    assert sampling_defaults(tmp_path) == NO_DEFAULTS
    assert sampling_defaults(written(tmp_path, eos_token_id=[1], top_p=None)) == NO_DEFAULTS
    assert str(NO_DEFAULTS) == ""


def test_values_are_float32s_as_those_of_requests_are(tmp_path: Path):
    found = sampling_defaults(
        written(
            tmp_path,
            do_sample=False,
            temperature=0.7,
            top_k=20,
            top_p=0.8,
            min_p=0,
            repetition_penalty=1.05,
            max_new_tokens=7,
        )
    )
    assert found == SamplingDefaults(
        temperature=0.699999988079071,
        top_k=20,
        top_p=0.800000011920929,
        min_p=0.0,
        repetition_penalty=1.0499999523162842,
    )
    assert str(found) == "temperature=0.7 top_k=20 top_p=0.8 min_p=0 repetition_penalty=1.05"


def test_a_top_k_of_minus_one_is_off(tmp_path: Path):
    assert sampling_defaults(written(tmp_path, top_k=-1)) == SamplingDefaults(top_k=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1: a number from 0 to 100 is expected"),
        ({"temperature": True}, "temperature is True"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1e-60}, "top_p is 1e-60"),
        ({"top_p": "0.9"}, "top_p is '0.9'"),
        ({"top_k": 50.0}, "top_k is 50.0: a count of tokens"),
        ({"top_k": -2}, "top_k is -2"),
        ({"min_p": float("nan")}, "min_p is nan"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
    ],
)
def test_what_cannot_be_drawn_by_is_refused_with_the_way_out(
    tmp_path: Path, content: dict[str, object], message: str
):
    with pytest.raises(ModelError, match=f"{message}.*generationDefaults to None"):
        sampling_defaults(written(tmp_path, **content))

"""Which module gets which format."""

from __future__ import annotations

import pytest

from modelfleet_worker.errors import InvalidRequestError
from modelfleet_worker.quantization.scheme import Override, Quantization, Scheme, Weights

INT8 = Scheme(bits=8, group=None, symmetric=True)


def int4(group: int) -> Scheme:
    return Scheme(bits=4, group=group, symmetric=False)


def quantization(weights: Weights, *overrides: str, group_size: int = 128) -> Quantization:
    return Quantization(
        weights=weights,
        group_size=group_size,
        overrides=tuple(Override.parse(o) for o in overrides),
    )


@pytest.mark.parametrize(
    ("asked", "module", "scheme"),
    [
        (quantization(Weights.NONE), "model.layers.0.mlp.up_proj", None),
        (quantization(Weights.INT8), "model.layers.0.mlp.up_proj", INT8),
        (quantization(Weights.INT8), "lm_head", INT8),
        (quantization(Weights.INT4), "model.layers.0.mlp.up_proj", int4(128)),
        (quantization(Weights.INT4), "lm_head", INT8),
        (quantization(Weights.INT4, "lm_head=int4"), "lm_head", int4(128)),
        (quantization(Weights.INT4, "*.down_proj=none"), "model.layers.0.mlp.down_proj", None),
        (quantization(Weights.INT4, "*.layers.0.*=int8", "*=none"), "model.layers.0.a", INT8),
        (quantization(Weights.INT4, "*.layers.0.*=int8", "*=none"), "model.layers.1.a", None),
        (quantization(Weights.NONE, "*.up_proj=int8"), "model.layers.1.mlp.up_proj", INT8),
    ],
)
def test_the_first_override_that_matches_decides(
    asked: Quantization, module: str, scheme: Scheme | None
):
    assert asked.scheme_of(module, 1024) == scheme


@pytest.mark.parametrize(
    ("asked", "inputs", "group"),
    [(128, 1536, 128), (128, 576, 64), (128, 96, 32), (32, 1536, 32)],
)
def test_a_group_is_the_largest_asked_for_that_divides_the_inputs(
    asked: int, inputs: int, group: int
):
    assert quantization(Weights.INT4, group_size=asked).scheme_of("a", inputs) == int4(group)


def test_inputs_that_no_group_divides_stay_as_they_are():
    assert quantization(Weights.INT4).scheme_of("a", 80) is None


def test_names_overrides_that_match_nothing():
    asked = quantization(Weights.INT4, "lm_heed=none", "*.up_proj=int8")
    assert asked.unused_overrides(["model.layers.0.mlp.up_proj", "lm_head"]) == ["lm_heed=none"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lm_head", "PATTERN=FORMAT"),
        ("=int4", "PATTERN=FORMAT"),
        ("lm_head=int3", "none, int8, int4, found 'int3'"),
    ],
)
def test_says_what_an_override_looks_like(text: str, message: str):
    with pytest.raises(InvalidRequestError, match=message):
        Override.parse(text)


def test_equal_settings_and_only_those_read_alike():
    assert str(quantization(Weights.INT4)) == str(quantization(Weights.INT4))
    all_settings = [
        quantization(Weights.INT4),
        quantization(Weights.INT8),
        quantization(Weights.INT4, group_size=32),
        quantization(Weights.INT4, "a=none", "b=int8"),
        quantization(Weights.INT4, "b=int8", "a=none"),
    ]
    assert len({str(q) for q in all_settings}) == len(all_settings)

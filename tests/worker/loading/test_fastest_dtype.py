"""`dtype: Auto` never computes in a type that the processor emulates, where it has the choice."""

from __future__ import annotations

import pytest

from modelfleet_worker.loading.fastest_dtype import fastest_dtype
from modelfleet_worker.models.float_type import FloatType

ZEN_3 = frozenset({"avx2", "fma"})
ICE_LAKE = ZEN_3 | {"avx512_vnni"}
ZEN_4 = ICE_LAKE | {"avx512_bf16"}
SAPPHIRE_RAPIDS = ZEN_4 | {"amx_bf16", "avx512_fp16"}
BF16, FP16, FP32 = FloatType.BFLOAT16, FloatType.FLOAT16, FloatType.FLOAT32


def chosen(
    stored: FloatType,
    features: frozenset[str],
    *,
    compiled: bool = False,
    quantized: bool = False,
    fits: bool = True,
) -> FloatType:
    return fastest_dtype(
        stored, features, compiled=compiled, quantized=quantized, fits_float32=fits
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(chosen(BF16, ZEN_3), FP32, id="torch's bfloat16 is emulated with AVX2"),
        pytest.param(chosen(BF16, ICE_LAKE), FP32, id="and with AVX-512 alone"),
        pytest.param(chosen(BF16, ZEN_4), BF16, id="but not with AVX-512 BF16"),
        pytest.param(chosen(FP16, ZEN_4), FP32, id="which has no float16"),
        pytest.param(chosen(FP16, SAPPHIRE_RAPIDS), FP16, id="and this one has"),
        pytest.param(chosen(FP32, ZEN_3), FP32, id="float32 is float32"),
        pytest.param(chosen(BF16, ZEN_3, compiled=True), BF16, id="the compiled step has its own"),
        pytest.param(chosen(BF16, ZEN_3, quantized=True), BF16, id="quantized kernels too"),
        pytest.param(chosen(BF16, ZEN_3, fits=False), BF16, id="where float32 does not fit"),
        pytest.param(chosen(BF16, frozenset({"asimd", "bf16"})), BF16, id="ARM with bf16"),
        pytest.param(chosen(BF16, frozenset({"asimd"})), FP32, id="ARM without"),
    ],
)
def test_a_type_that_is_emulated_becomes_float32(found: FloatType, expected: FloatType):
    assert found == expected

"""Every kernel against dequantize-then-linear."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn import functional

from modelfleet_worker.quantization.kernels import TorchInt4, TorchInt8, Twin, pack
from modelfleet_worker.quantization.scheme import Scheme
from modelfleet_worker.quantization.weights import QuantizedWeight, quantize

INT8 = Scheme(bits=8, group=None, symmetric=True)
# Of the largest output, per type of activations: what rounding to that type costs.
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def int4(group: int, *, symmetric: bool = False) -> Scheme:
    return Scheme(bits=4, group=group, symmetric=symmetric)


def canonical(scheme: Scheme, outputs: int, inputs: int, *, ordered: bool = False):
    generator = torch.Generator().manual_seed(outputs + inputs)
    weight = quantize(torch.randn(outputs, inputs, generator=generator), scheme)
    if not ordered:
        return weight
    return QuantizedWeight(
        bits=weight.bits,
        codes=weight.codes,
        scales=weight.scales,
        zeros=weight.zeros,
        order=torch.randperm(inputs, generator=generator),
    )


def assert_computes(kernel, weight: QuantizedWeight, dtype: torch.dtype, rows: int):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, weight.inputs, generator=generator).to(dtype)
    expected = functional.linear(x.float(), weight.dequantized())
    found = kernel(x)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = (found.float() - expected).abs().max() / expected.abs().max()
    assert error < BOUNDS[dtype]


@pytest.mark.parametrize(
    ("scheme", "outputs", "inputs"),
    [
        (INT8, 64, 96),
        (INT8, 7, 50),
        (int4(32), 64, 96),
        (int4(64, symmetric=True), 32, 64),
        (int4(128), 48, 256),
        (int4(32), 7, 96),
        (Scheme(bits=8, group=32, symmetric=False), 16, 64),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_the_kernel_chosen_computes_what_the_weights_say(scheme, outputs, inputs, dtype):
    weight = canonical(scheme, outputs, inputs)
    for rows in (0, 1, 5, 33):
        if rows:
            assert_computes(pack(weight, dtype), weight, dtype, rows)
            assert_computes(Twin(weight, dtype), weight, dtype, rows)


@pytest.mark.parametrize("scheme", [INT8, int4(32)], ids=str)
def test_an_order_of_inputs_is_followed(scheme: Scheme):
    weight = canonical(scheme, 32, 64, ordered=True)
    assert_computes(pack(weight, torch.float32), weight, torch.float32, 3)


def test_torch_kernels_are_taken_where_they_are_fast_and_safe():
    shapes = product([INT8, int4(32)], [torch.bfloat16, torch.float32], [(32, 64), (7, 64)])
    for scheme, dtype, (outputs, inputs) in shapes:
        weight = canonical(scheme, outputs, inputs)
        assert TorchInt8.takes(weight, dtype) == (
            scheme == INT8 and dtype == torch.bfloat16 and outputs == 32
        )
        assert TorchInt4.takes(weight, dtype) == (scheme != INT8 and outputs == 32)
    assert not TorchInt8.takes(canonical(INT8, 32, 50), torch.bfloat16)


@pytest.mark.parametrize(("scheme", "most"), [(INT8, 8.2), (int4(32), 6.1), (int4(128), 4.6)])
def test_packed_weights_are_as_small_as_their_bits(scheme: Scheme, most: float):
    weight = canonical(scheme, 256, 1024)
    for kernel in (pack(weight, torch.bfloat16), Twin(weight, torch.bfloat16)):
        assert kernel.nbytes * 8 / weight.codes.numel() < most

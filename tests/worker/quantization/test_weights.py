"""Rounding to the grid, and the canonical form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelfleet_worker.quantization.coded_weight import can_stack
from modelfleet_worker.quantization.scheme import Scheme
from modelfleet_worker.quantization.weights import (
    QuantizedWeight,
    pack_nibbles,
    quantize,
    stacked,
    unpack_nibbles,
)

SCHEMES = [
    Scheme(bits=8, group=None, symmetric=True),
    Scheme(bits=8, group=32, symmetric=False),
    Scheme(bits=4, group=32, symmetric=True),
    Scheme(bits=4, group=32, symmetric=False),
    Scheme(bits=4, group=64, symmetric=False),
]


def weight(outputs: int = 6, inputs: int = 128, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_weight_moves_further_than_half_a_step(scheme: Scheme):
    original = weight()
    rounded = quantize(original, scheme)
    steps = rounded.scales.repeat_interleave(rounded.group, dim=1)
    # Scales are rounded to bfloat16's 8 bits: the ends of the range may be cut by that much.
    # A zero point is a whole step: the grid may lie half a step beside the range.
    slack = 2**-8 * 2 ** (scheme.bits - 1) + (0 if scheme.symmetric else 0.5)
    assert ((rounded.dequantized() - original).abs() <= steps * (0.5 + slack)).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_is_on_the_grid_stays(scheme: Scheme):
    on_grid = quantize(weight(), scheme).dequantized()
    again = quantize(on_grid, scheme)
    if scheme.symmetric and scheme.bits == 4:
        return  # which of its 16 codes are used does not tell its step
    assert torch.allclose(again.dequantized(), on_grid, rtol=2**-7, atol=0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_zero_stays_zero_and_an_empty_group_is_no_division_by_zero(scheme: Scheme):
    original = weight()
    original[:, ::7] = 0
    original[2] = 0
    rounded = quantize(original, scheme).dequantized()
    assert rounded.isfinite().all()
    assert (rounded[original == 0] == 0).all()


@given(st.integers(0, 2**31), st.sampled_from([4, 8]), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_codes_stay_in_their_range(seed: int, bits: int, outputs: int):
    original = weight(outputs, 64, seed) * 10.0 ** (seed % 9 - 4) + seed % 3
    for symmetric in (True, False):
        rounded = quantize(original, Scheme(bits=bits, group=32, symmetric=symmetric))
        assert int(rounded.codes.min()) >= -(2 ** (bits - 1))
        assert int(rounded.codes.max()) < 2 ** (bits - 1)


def test_an_order_of_inputs_is_undone_by_dequantizing():
    plain = quantize(weight(), SCHEMES[3])
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    ordered = QuantizedWeight(
        bits=4, codes=plain.codes, scales=plain.scales, zeros=plain.zeros, order=order
    )
    assert ordered.dequantized()[:, order].equal(plain.dequantized())


def test_projections_of_one_grid_are_stacked():
    parts = [quantize(weight(n, seed=n), SCHEMES[3]) for n in (2, 3)]
    assert can_stack(parts)
    assert stacked(parts).dequantized().equal(torch.cat([p.dequantized() for p in parts]))


def test_projections_of_different_grids_are_not():
    kinds = [quantize(weight(), scheme) for scheme in SCHEMES]
    assert not any(can_stack([a, b]) for a in kinds for b in kinds if a is not b)
    plain = kinds[3]
    order = torch.arange(128).flip(0)
    ordered = QuantizedWeight(
        bits=4, codes=plain.codes, scales=plain.scales, zeros=plain.zeros, order=order
    )
    assert not can_stack([plain, ordered])


def test_nibbles_come_back():
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(3, 2)
    packed = pack_nibbles(codes)
    assert packed.shape == (3, 16)
    assert unpack_nibbles(packed).equal(codes)

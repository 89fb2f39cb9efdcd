"""Weights laid out by compiled code, against the layout and the rounding written in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modelfleet_worker.devices.native.library import load_library
from modelfleet_worker.devices.native.packed import Grid, PackedLinear, PlainNumbers, Rows, pack
from modelfleet_worker.quantization.scheme import Scheme
from modelfleet_worker.quantization.weights import quantize

pytestmark = pytest.mark.skipif(load_library() is None, reason="needs the compiled step")

SCHEMES = [
    Scheme(bits=8, group=None, symmetric=True),
    Scheme(bits=8, group=32, symmetric=False),
    Scheme(bits=4, group=None, symmetric=True),
    Scheme(bits=4, group=32, symmetric=False),
    Scheme(bits=4, group=64, symmetric=True),
    Scheme(bits=4, group=128, symmetric=False),
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def weights(dtype: torch.dtype, outputs: int = 77, inputs: int = 384) -> Tensor:
    """Rows of all sizes, of zeros, of one sign, and of what rounds to nothing."""
    numbers = torch.Generator().manual_seed(outputs)
    made = torch.randn(outputs, inputs, generator=numbers)
    made *= torch.logspace(-6, 4, outputs)[:, None]
    made[0] = 0
    made[1] = made[1].abs()
    made[2] = -made[2].abs()
    made[3] = 1e-40
    made[4, ::2] = -0.0
    made[5] = torch.linspace(-1, 1, inputs)
    return made.to(dtype)


def rows(*parts: Tensor) -> list[Rows]:
    def array(part: Tensor):
        return (part.view(torch.int16) if part.dtype == torch.bfloat16 else part).numpy()

    return [Rows(str(p.dtype).removeprefix("torch."), array(p)) for p in parts]


def blocks(values: Tensor, together: int) -> Tensor:
    """[N, K] as [N / 32, K / together, 32, together], padded to whole pairs."""
    padded = torch.nn.functional.pad(values, (0, 0, 0, -len(values) % 32))
    return padded.view(-1, 32, values.shape[1] // together, together).transpose(1, 2)


def lanes(values: Tensor) -> Tensor:
    """[N, G] as [N / 16, G, 16]."""
    padded = torch.nn.functional.pad(values, (0, 0, 0, -len(values) % 32))
    return padded.view(-1, 16, values.shape[1]).transpose(1, 2)


def equal(found, expected: Tensor) -> bool:
    return torch.from_numpy(found).view(expected.dtype).equal(expected.contiguous().flatten())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_weights_are_laid_out_as_bfloat16(dtype: torch.dtype, threads: int):
    whole = weights(dtype)
    linear = PackedLinear(rows(whole[:50], whole[50:]), None)
    pack([linear], threads)
    assert equal(linear._codes, blocks(whole.to(torch.bfloat16), 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rounds_as_torch_does_bit_for_bit(scheme: Scheme, dtype: torch.dtype):
    whole = weights(dtype)
    group = scheme.group or whole.shape[1]
    grid = Grid(bits=scheme.bits, group=group, symmetric=scheme.symmetric)
    linears = [PackedLinear(rows(part), grid) for part in (whole, whole[:32])]
    linears.append(PackedLinear(rows(whole[:19], whole[19:]), grid))
    pack(linears, 2)
    for linear, rounded in zip(linears, (whole, whole[:32], whole), strict=True):
        expected = quantize(rounded.to(torch.bfloat16), scheme)
        middle = 2 ** (scheme.bits - 1)
        codes = blocks((expected.codes.to(torch.int16) + middle).to(torch.uint8), 4)
        if scheme.bits == 4:
            codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
        assert equal(linear._codes, codes)
        assert equal(linear._scales, lanes(expected.scales))
        if expected.zeros is not None:
            assert equal(linear._zeros, lanes_of_zeros(expected.zeros, middle))


def lanes_of_zeros(zeros: Tensor, middle: int) -> Tensor:
    return lanes(zeros.to(torch.int32) + middle)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_become_bfloat16_as_torch_rounds_them(dtype: torch.dtype):
    values = weights(dtype)
    values[7, :5] = torch.tensor([float("inf"), 3e38, -float("inf"), 6e-8, -1e-7])
    for shaped in (values, values[7]):
        [given] = rows(shaped)
        numbers = PlainNumbers(given.dtype, given.array)
        pack([numbers], 2)
        assert numbers.array.shape == shaped.shape
        assert equal(numbers.array.ravel(), shaped.to(torch.bfloat16))


def test_weights_that_lie_at_an_odd_address_are_read_right():
    whole = weights(torch.bfloat16, 32, 64)
    memory = torch.zeros(whole.nbytes + 1, dtype=torch.uint8)
    memory[1:] = whole.flatten().view(torch.uint8)
    odd = memory.numpy()[1:].view("uint16").reshape(whole.shape)
    linear = PackedLinear([Rows("bfloat16", odd)], None)
    pack([linear], 1)
    assert equal(linear._codes, blocks(whole, 2))

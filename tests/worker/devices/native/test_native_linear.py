"""The compiled kernel against its own arithmetic written in torch, and without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from modelfleet_worker.devices.native import linear
from modelfleet_worker.devices.native.instruction_sets import SETS
from modelfleet_worker.devices.native.library import compile_library
from modelfleet_worker.devices.native.linear import NativeLinear
from modelfleet_worker.quantization.kernels import TorchInt4, TorchInt8, Twin, pack
from modelfleet_worker.quantization.scheme import Scheme
from modelfleet_worker.quantization.weights import QuantizedWeight, quantize

needs_library = pytest.mark.usefixtures("instruction_set")
SCHEMES = [
    Scheme(bits=8, group=None, symmetric=True),
    Scheme(bits=8, group=32, symmetric=False),
    Scheme(bits=4, group=None, symmetric=True),
    Scheme(bits=4, group=32, symmetric=False),
    Scheme(bits=4, group=64, symmetric=True),
    Scheme(bits=4, group=128, symmetric=False),
]


def weight(scheme: Scheme, outputs: int, inputs: int) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(outputs)
    return quantize(torch.randn(outputs, inputs, generator=generator), scheme)


def activations(rows: int, inputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, inputs, generator=generator).to(torch.bfloat16)


def rounded(x: Tensor) -> Tensor:
    """Activations on the kernel's grid: 8 bits for each 32 inputs of a row."""
    steps = x.float().unflatten(1, (-1, 32))
    most = steps.abs().amax(-1, keepdim=True)
    # Divided, as the kernel does; torch turns 127 / most into a product with the reciprocal.
    inverse = torch.full_like(most, 127.0) / most
    return ((steps * inverse).round() * (most / 127)).flatten(1)


@needs_library
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 128), (70, 384), (128, 256)])
def test_computes_exactly_what_it_says(scheme: Scheme, outputs: int, inputs: int):
    packed = weight(scheme, outputs, inputs)
    kernel = NativeLinear(packed)
    for rows in (1, 2, 3, 4, 5, 6, 7, 13, 40):
        x = activations(rows, inputs)
        expected = functional.linear(rounded(x), packed.dequantized())
        # What is left is the rounding of the result to bfloat16.
        assert torch.allclose(kernel(x).float(), expected, rtol=2**-8, atol=1e-3)


@needs_library
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_rounding_activations_costs_less_than_one_percent(scheme: Scheme):
    packed = weight(scheme, 256, 512)
    x = activations(32, 512)
    exact = functional.linear(x.float(), packed.dequantized())
    found = NativeLinear(packed)(x).float()
    assert (found - exact).norm() / exact.norm() < 0.01


@needs_library
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_row_does_not_depend_on_its_batch(scheme: Scheme):
    """Bit for bit: what `deterministic` needs."""
    kernel = NativeLinear(weight(scheme, 70, 384))
    x = activations(40, 384)
    together = kernel(x)
    for size in (1, 2, 5, 6, 7, 39):
        assert kernel(x[-size:].contiguous()).equal(together[-size:])


@needs_library
def test_rows_of_zeros_nans_and_large_numbers_stay_in_their_rows():
    kernel = NativeLinear(weight(SCHEMES[3], 64, 128))
    x = activations(4, 128)
    clean = kernel(x)
    x[0] = 0
    x[2] *= 1e30
    found = kernel(x)
    assert (found[0] == 0).all()
    assert found[1].equal(clean[1])
    assert found[3].equal(clean[3])
    assert found[2].isfinite().all()


@needs_library
def test_an_order_of_inputs_is_followed():
    plain = weight(SCHEMES[3], 64, 128)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    ordered = QuantizedWeight(
        bits=4, codes=plain.codes, scales=plain.scales, zeros=plain.zeros, order=order
    )
    x = activations(3, 128)
    found = NativeLinear(ordered)(x)
    assert found.equal(NativeLinear(plain)(x[:, order]))


@needs_library
def test_it_is_chosen_for_bfloat16_and_not_for_float32():
    packed = weight(SCHEMES[3], 64, 128)
    assert isinstance(pack(packed, torch.bfloat16), NativeLinear)
    assert isinstance(pack(packed, torch.float32), TorchInt4)
    odd = quantize(torch.randn(64, 48), Scheme(bits=8, group=None, symmetric=True))
    assert isinstance(pack(odd, torch.bfloat16), Twin)


@pytest.mark.parametrize(
    ("scheme", "kernel"), [(SCHEMES[0], TorchInt8), (SCHEMES[3], TorchInt4)], ids=str
)
def test_without_it_torch_computes(monkeypatch, scheme: Scheme, kernel: type):
    monkeypatch.setattr(linear, "load_library", lambda: None)
    assert isinstance(pack(weight(scheme, 64, 128), torch.bfloat16), kernel)


def test_without_a_compiler_it_says_so_and_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="no C\\+\\+ compiler"):
        compile_library(tmp_path / "native.so", SETS[0])


@needs_library
def test_threads_are_torchs_own(tmp_path: Path):
    """A second OpenMP would have a pool of its own, and the two would fight for the cores."""
    script = (
        "import torch; from modelfleet_worker.devices.native.library import load_library;"
        "assert load_library();"
        "print(len({l.split()[-1] for l in open('/proc/self/maps') if 'libgomp' in l}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert found.stdout.splitlines()[-1] == "1"

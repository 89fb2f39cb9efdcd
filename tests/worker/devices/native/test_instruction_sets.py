"""Which set of instructions is chosen, and that all of one arithmetic give equal bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.instruction_sets import SETS, candidates
from modelfleet_worker.devices.native.linear import NativeLinear
from modelfleet_worker.devices.native.runner import NativeRunner
from modelfleet_worker.quantization.scheme import KVFormat, Scheme
from modelfleet_worker.quantization.weights import quantize
from native_sets import FMA, HERE
from quantized_models import load, native_logits, tiny

HASWELL = frozenset(["fma", "movbe", "f16c", "abm", "bmi1", "bmi2", "avx2"])
ALDER_LAKE = HASWELL | {"avx_vnni"}
SKYLAKE = HASWELL | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
ICE_LAKE = SKYLAKE | {"avx512_vnni"}
ZEN_4 = ICE_LAKE | {"avx512_bf16"}
SAPPHIRE_RAPIDS = ZEN_4 | {"avx_vnni", "amx_bf16", "amx_int8", "avx512_fp16"}
GRAVITON_2 = frozenset({"asimd", "asimdhp", "asimddp"})
GRAVITON_3 = GRAVITON_2 | {"i8mm", "bf16"}


@pytest.mark.parametrize(
    ("machine", "features", "names"),
    [
        pytest.param("x86_64", frozenset({"sse4_2", "avx"}), [], id="no AVX2: torch"),
        pytest.param("x86_64", HASWELL, ["avx2"], id="Haswell to Zen 3"),
        pytest.param("x86_64", HASWELL - {"fma"}, [], id="AVX2 without FMA: torch"),
        pytest.param("x86_64", ALDER_LAKE, ["avx2_vnni", "avx2"], id="Intel's clients"),
        pytest.param("x86_64", SKYLAKE, ["avx2"], id="AVX-512 without VNNI"),
        pytest.param("x86_64", ICE_LAKE, ["avx512_vnni", "avx2"], id="Ice Lake"),
        pytest.param("x86_64", ZEN_4, ["avx512_bf16", "avx512_vnni", "avx2"], id="Zen 4"),
        pytest.param(
            "x86_64",
            SAPPHIRE_RAPIDS,
            ["avx512_bf16", "avx512_vnni", "avx2_vnni", "avx2"],
            id="Sapphire Rapids",
        ),
        pytest.param("aarch64", frozenset({"asimd"}), [], id="ARM without dot products: torch"),
        pytest.param("aarch64", GRAVITON_2, ["neon"], id="Graviton 2"),
        pytest.param("aarch64", GRAVITON_3, ["neon_i8mm", "neon"], id="Graviton 3"),
        pytest.param("riscv64", ZEN_4, [], id="another architecture: torch"),
    ],
)
def test_what_the_processor_has_is_tried_from_the_fastest(
    machine: str, features: frozenset[str], names: list[str]
):
    assert [s.name for s in candidates(machine, features)] == names


@pytest.mark.parametrize(
    ("highest", "names"),
    [
        ("avx512_bf16", ["avx512_bf16", "avx512_vnni", "avx2"]),
        ("avx512_vnni", ["avx512_vnni", "avx2"]),
        ("avx2_vnni", ["avx2"]),
        ("avx2", ["avx2"]),
        ("neon", []),
        ("off", []),
    ],
)
def test_a_lower_set_can_be_asked_for(highest: str, names: list[str]):
    assert [s.name for s in candidates("x86_64", ZEN_4, highest)] == names


def test_an_unknown_set_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"avx512_bf16, .*, neon or off, found 'sse9'"):
        candidates("x86_64", ZEN_4, "sse9")


@pytest.mark.skipif(not HERE, reason="no set of this processor")
def test_an_unknown_set_fails_no_worker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFLEET_ISA", "sse9")
    with capture_logs() as logs:
        chosen = library.instruction_set()
    assert chosen is not None
    assert chosen.name == HERE[0]
    assert next(entry["event"] for entry in logs) == "the switch is ignored"


@pytest.mark.skipif(len(HERE) < 2, reason="needs a processor with two sets")
def test_a_set_that_cannot_be_compiled_is_one_line_and_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As with a compiler that is older than the processor."""
    compiler = tmp_path / "bin" / "c++"
    compiler.parent.mkdir()
    refused = next(s for s in SETS if s.name == HERE[0]).flags[-1]
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *{refused}*) echo "unrecognized {refused}" >&2; exit 1;; esac\n'
    )
    compiler.chmod(0o755)
    known = library.load_set(HERE[1])  # what is compiled already is not compiled again
    kernels = Path(known.library._name)
    home = tmp_path / "home"
    if kernels.parent.name == "kernels":
        (home / ".cache/modelfleet/kernels").mkdir(parents=True)
        (home / ".cache/modelfleet/kernels" / kernels.name).symlink_to(kernels)
    script = (
        "from modelfleet_worker.devices.native import library as l; print(l.instruction_set().name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(home), "PATH": f"{compiler.parent}:/bin:/usr/bin"},
    )
    *lines, name = done.stdout.splitlines()
    assert name == HERE[1]
    warned = [line for line in lines if "warning" in line]
    assert len(warned) == 1
    assert f"unrecognized {refused}" in warned[0]


def test_the_step_needs_no_torch():
    script = (
        "import sys; from modelfleet_worker.devices.native.library import load_library;"
        "load_library(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


PROMPT = [int(i) for i in torch.randint(96, (70,), generator=torch.Generator().manual_seed(2))]
MODELS = {
    "heads of 32": {"head_dim": 32},
    "five queries share a head of 64": {
        "head_dim": 64,
        "hidden_size": 160,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "attention_bias": True,
    },
}


@pytest.mark.skipif(len(FMA) < 2, reason="needs a processor with two sets of one arithmetic")
@pytest.mark.parametrize("kv_cache", [KVFormat.AUTO, KVFormat.INT8], ids=str)
@pytest.mark.parametrize("weights", ["none", "int8", "int4"])
@pytest.mark.parametrize("model", MODELS)
def test_sets_of_one_arithmetic_give_equal_bits(
    model: str, weights: str, kv_cache: KVFormat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny(**MODELS[model]).save_pretrained(tmp_path)
    found, digests = dict[str, Tensor](), set[str]()
    for name in FMA:
        monkeypatch.setenv("MODELFLEET_ISA", name)
        loaded = load(tmp_path, dtype="BFloat16", weights=weights, kv_cache=kv_cache)
        assert isinstance(loaded.runner, NativeRunner)
        assert f"({name}, " in loaded.computed_by
        found[name] = native_logits(loaded.runner, PROMPT)
        digests.add(loaded.digest)
    first, *others = found.values()
    assert all(other.equal(first) for other in others)
    assert len(digests) == 1


@pytest.mark.skipif("avx512_bf16" not in HERE, reason="needs two kinds of arithmetic")
def test_another_arithmetic_is_another_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiny(head_dim=32).save_pretrained(tmp_path)
    digests = []
    for name in ("avx512_bf16", "avx2"):
        monkeypatch.setenv("MODELFLEET_ISA", name)
        digests.append(load(tmp_path, dtype="BFloat16").digest)
    assert digests[0] != digests[1]


@pytest.mark.skipif(len(HERE) < 2, reason="needs a processor with two sets")
@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(bits=8, group=None, symmetric=True),
        Scheme(bits=8, group=32, symmetric=False),
        Scheme(bits=4, group=64, symmetric=True),
        Scheme(bits=4, group=128, symmetric=False),
    ],
    ids=str,
)
def test_products_of_quantized_weights_are_equal_on_all_sets(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
):
    """Those of bfloat16 too, in that no set but the native one multiplies bfloat16."""
    generator = torch.Generator().manual_seed(4)
    # The largest codes and activations, too: their sums leave 16 bits.
    values = torch.randn(70, 256, generator=generator)
    values[3], values[5] = 9.0, -9.0
    weight = quantize(values, scheme)
    x = torch.randn(9, 256, generator=generator).to(torch.bfloat16)
    x[1], x[2], x[3, ::2] = 4.0, -4.0, 4.0
    found = []
    for name in HERE:
        monkeypatch.setenv("MODELFLEET_ISA", name)
        found.append(NativeLinear(weight).in_float32(x))
    assert all(other.equal(found[0]) for other in found)

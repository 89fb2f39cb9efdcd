"""Sets of instructions that other processors have, under qemu-user where that is installed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from modelfleet_worker.devices.native import library
from modelfleet_worker.devices.native.instruction_sets import SETS
from native_sets import HERE

PROGRAM = Path(__file__).parent / "step_bits.cpp"
SOURCES = Path(library.__file__).parent
FLAGS = ("-O0", "-std=c++20", "-ffp-contract=off", "-pthread", "-static")
ARM_COMPILER, ARM_EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
X86_EMULATOR = shutil.which("qemu-x86_64")
needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or X86_EMULATOR is None,
    reason="needs qemu-x86_64, on such a machine",
)


def built(compiler: str, name: str, folder: Path) -> Path:
    """The program that prints checksums of the step's logits, for one set."""
    chosen = next(s for s in SETS if s.name == name)
    program = folder / name
    command = [compiler, *FLAGS, *chosen.flags, f"-I{SOURCES}", str(PROGRAM), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def said(*command: str | Path) -> list[str]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout.splitlines()


@pytest.mark.skipif("MODELFLEET_TEST_ARM" not in os.environ, reason="takes a minute: ask for it")
@pytest.mark.skipif(
    ARM_COMPILER is None or ARM_EMULATOR is None or "avx2" not in HERE,
    reason="needs aarch64-linux-gnu-g++, qemu-aarch64 and a processor with AVX2",
)
@pytest.mark.parametrize(("name", "processor"), [("neon", "neoverse-n1"), ("neon_i8mm", "max")])
def test_arm_gives_the_bits_of_avx2(name: str, processor: str, tmp_path: Path):
    here = built("c++", "avx2", tmp_path)
    arm = built(ARM_COMPILER or "", name, tmp_path)
    expected = said(here)
    assert len(set(expected)) == len(expected) == 10
    assert not any(line.endswith(": 0000000000000000") for line in expected)
    assert said(ARM_EMULATOR or "", "-cpu", processor, arm) == expected


def chosen_on(processor: str) -> Sequence[str]:
    """A worker's log and the set that it takes there, where /proc/cpuinfo is this machine's."""
    script = (
        "from modelfleet_worker.devices.native import library as l;"
        "s = l.instruction_set(); print(s and s.name)"
    )
    return said(X86_EMULATOR or "", "-cpu", processor, sys.executable, "-c", script)


@needs_x86
@pytest.mark.skipif("avx2" not in HERE, reason="needs a processor with AVX2")
def test_a_lesser_processor_than_proc_cpuinfo_says_takes_what_it_has():
    for name in HERE:
        library.load_set(name)  # compiled here: a compiler would take minutes in the emulator
    *lines, name = chosen_on("Haswell")
    assert name == "avx2"
    refused = [line for line in lines if "the processor says that it lacks" in line]
    assert len(refused) == HERE.index("avx2")


@needs_x86
@pytest.mark.skipif("avx2" not in HERE, reason="needs a processor with AVX2")
def test_a_processor_without_any_set_runs_on_torch():
    assert chosen_on("Nehalem")[-1] == "None"

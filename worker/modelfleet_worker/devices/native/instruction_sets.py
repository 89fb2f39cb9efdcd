"""Sets of instructions that the compiled step is built for, and which of them a processor has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OFF = "off"

_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "abm", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
_NEON = frozenset({"asimd", "asimddp"})


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionSet:
    """One build of the step.

    `arithmetic` says how bfloat16 is multiplied. Builds of one arithmetic give equal bits.
    """

    name: str
    machine: str  # of platform.machine()
    needs: frozenset[str]  # by the names of /proc/cpuinfo
    flags: tuple[str, ...]  # of the compiler
    arithmetic: str


# From the fastest to the slowest.
SETS = (
    InstructionSet(
        name="avx512_bf16",
        machine="x86_64",
        needs=_AVX512 | {"avx512_bf16"},
        flags=("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"),
        arithmetic="bf16-dot",
    ),
    InstructionSet(
        name="avx512_vnni",
        machine="x86_64",
        needs=_AVX512,
        flags=("-march=x86-64-v4", "-mavx512vnni"),
        arithmetic="fma",
    ),
    InstructionSet(
        name="avx2_vnni",
        machine="x86_64",
        needs=_AVX2 | {"avx_vnni"},
        flags=("-march=x86-64-v3", "-mavxvnni"),
        arithmetic="fma",
    ),
    InstructionSet(
        name="avx2",
        machine="x86_64",
        needs=_AVX2,
        flags=("-march=x86-64-v3",),
        arithmetic="fma",
    ),
    InstructionSet(
        name="neon_i8mm",
        machine="aarch64",
        needs=_NEON | {"i8mm"},
        flags=("-march=armv8.2-a+dotprod+i8mm",),
        arithmetic="fma",
    ),
    InstructionSet(
        name="neon",
        machine="aarch64",
        needs=_NEON,
        flags=("-march=armv8.2-a+dotprod",),
        arithmetic="fma",
    ),
)


def candidates(
    machine: str, features: Iterable[str], highest: str | None = None
) -> Sequence[InstructionSet]:
    """Those to try, one after another: what the processor has, from `highest` down.

    Raises ValueError where that name is unknown.
    """
    sets = list(SETS)
    if highest == OFF:
        return []
    if highest is not None:
        names = [s.name for s in sets]
        if highest not in names:
            raise ValueError(f"expected one of {', '.join(names)} or {OFF}, found {highest!r}")
        sets = sets[names.index(highest) :]
    has = frozenset(features)
    return [s for s in sets if s.machine == machine and s.needs <= has]

"""The C++ files of this folder as a library, compiled when they are first needed.

One library for each set of instructions; a process loads the best one that its processor has, and
that can be compiled and loaded. No part of it needs torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from ctypes import POINTER, c_char_p, c_int, c_int64, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path

import structlog

from .instruction_sets import OFF, SETS, InstructionSet, candidates
from .layouts import (
    BatchStruct,
    EncoderBatchStruct,
    EncoderStruct,
    LinearStruct,
    ModelStruct,
    PackingStruct,
)

log = structlog.get_logger()

_FOLDER = Path(__file__).parent
_UNITS = ("forward.cpp", "packing.cpp", "encoder.cpp")
_PROCESSOR = "processor.cpp"  # compiled for every processor: it says what this one has
_FLAGS = (
    "-O3",
    "-std=c++20",
    "-fPIC",
    # Several libraries in one process have the same names inside, and not the same code.
    "-fvisibility=hidden",
    # A compiler that fuses a product and a sum where it likes gives each set bits of its own.
    "-ffp-contract=off",
)
_COMPILE_SECONDS = 600
_SWITCH = "MODELFLEET_ISA"  # the highest set to use, or `off`: torch's operations
_OLD_SWITCH = "MODELFLEET_COMPILED_STEP"  # `off` is the same


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A library, and the set of instructions that it is compiled for."""

    library: ctypes.CDLL
    instruction_set: InstructionSet


def load_library() -> ctypes.CDLL | None:
    """The compiled step; None where it cannot be, or shall not."""
    return None if (step := compiled_step()) is None else step.library


def instruction_set() -> InstructionSet | None:
    """The set that the compiled step uses here; None: there is no compiled step."""
    return None if (step := compiled_step()) is None else step.instruction_set


def arithmetic() -> str:
    """How the compiled step multiplies: equal bits where this is equal. Empty: there is none."""
    return "" if (step := compiled_step()) is None else step.instruction_set.arithmetic


def compiled_step() -> CompiledStep | None:
    """Of the best set of instructions that this process may use."""
    if os.environ.get(_OLD_SWITCH) == OFF:
        return None
    return _best(os.environ.get(_SWITCH) or None)


@functools.cache
def _best(highest: str | None) -> CompiledStep | None:
    try:
        sets = candidates(platform.machine(), processor_features(), highest)
    except ValueError as error:
        log.warning("the switch is ignored", switch=_SWITCH, error=str(error))
        sets = candidates(platform.machine(), processor_features())
    for one in sets:
        try:
            step = load_set(one.name)
        except OSError as error:
            log.warning(
                "a set of instructions cannot be used, the step is slower than it could be",
                instruction_set=one.name,
                error=str(error),
            )
        else:
            log.info("compiled step", instruction_set=one.name, arithmetic=one.arithmetic)
            return step
    if highest != OFF:
        log.warning(
            "the model runs on torch's operations, which are slower: there is no compiled step for"
            " this processor",
            tried=[one.name for one in sets],
        )
    return None


@functools.cache
def load_set(name: str) -> CompiledStep:
    """Of one set. Raises OSError: it cannot be compiled or loaded, or the processor lacks it."""
    chosen = next(s for s in SETS if s.name == name)
    path = _built_in(chosen)
    if not path.exists():
        # Not $MODELFLEET_CACHE: others may write to a node's cache of models, and this is code.
        path = Path("~/.cache/modelfleet/kernels").expanduser() / path.name
    if not path.exists():
        compile_library(path, chosen)
    library = ctypes.CDLL(str(path))
    _declare(library)
    # The processor itself: /proc/cpuinfo is the host's where this runs in an emulator.
    has = frozenset(library.modelfleet_processor().decode().split())
    if lacking := chosen.needs - has:
        raise OSError(f"the processor says that it lacks {', '.join(sorted(lacking))}")
    return CompiledStep(library, chosen)


def _declare(library: ctypes.CDLL) -> None:
    for project in (library.modelfleet_project, library.modelfleet_project_float32):
        project.argtypes = [POINTER(LinearStruct), c_void_p, c_int64, c_void_p]
        project.restype = None
    library.modelfleet_pack.argtypes = [POINTER(PackingStruct), c_int64, c_int]
    library.modelfleet_pack.restype = None
    library.modelfleet_processor.argtypes = []
    library.modelfleet_processor.restype = c_char_p
    library.modelfleet_start.argtypes = [POINTER(ModelStruct), c_int]
    library.modelfleet_start.restype = c_void_p
    library.modelfleet_launch.argtypes = [c_void_p, POINTER(BatchStruct)]
    library.modelfleet_launch.restype = None
    library.modelfleet_supply.argtypes = [c_void_p]
    library.modelfleet_supply.restype = None
    library.modelfleet_wait.argtypes = [c_void_p, c_uint32]
    library.modelfleet_wait.restype = None
    library.modelfleet_stop.argtypes = [c_void_p]
    library.modelfleet_stop.restype = None
    library.modelfleet_has_tiles.argtypes = []
    library.modelfleet_has_tiles.restype = c_int
    library.modelfleet_encoder_pack.argtypes = [c_void_p, c_int64, c_int64, *[c_void_p] * 3]
    library.modelfleet_encoder_pack.restype = None
    library.modelfleet_encoder_start.argtypes = [POINTER(EncoderStruct), c_int]
    library.modelfleet_encoder_start.restype = c_void_p
    library.modelfleet_encoder_encode.argtypes = [c_void_p, POINTER(EncoderBatchStruct)]
    library.modelfleet_encoder_encode.restype = None
    library.modelfleet_encoder_stop.argtypes = [c_void_p]
    library.modelfleet_encoder_stop.restype = None


def _built_in(chosen: InstructionSet) -> Path:
    """Where an image has it: beside the sources, named by all that is in it."""
    files = sorted(p for p in _FOLDER.iterdir() if p.suffix in (".h", ".cpp"))
    source = b"".join(p.read_bytes() for p in files)
    digest = hashlib.sha256(source + " ".join((*_FLAGS, *chosen.flags)).encode()).hexdigest()
    return _FOLDER / f"{chosen.name}-{digest[:16]}.so"


def compile_library(path: Path, chosen: InstructionSet, compiler: str | None = None) -> None:
    """Seconds. Raises OSError with what the compiler said, or that there is none."""
    found = compiler or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        raise FileNotFoundError("there is no C++ compiler: install g++ to have the fast ones")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects = {unit: str(Path(folder, unit).with_suffix(".o")) for unit in _UNITS}
        say, library = str(Path(folder, "processor.o")), Path(folder, "library.so")
        commands = [
            *(
                [found, *_FLAGS, *chosen.flags, "-c", str(_FOLDER / unit), "-o", to]
                for unit, to in objects.items()
            ),
            [found, *_FLAGS, "-c", str(_FOLDER / _PROCESSOR), "-o", say],
        ]
        _run_all(commands)
        # Two steps: nothing that torch has, too, is to be linked here.
        _run_all([[found, "-shared", "-Wl,-Bsymbolic", *objects.values(), say, "-o", str(library)]])
        library.replace(path)  # another worker may compile it too: both are the same


def _run_all(commands: list[list[str]]) -> None:
    """At the same time."""
    running = [
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # with what the compiler starts, to end all of it
        )
        for command in commands
    ]
    try:
        for process in running:
            _, said = process.communicate(timeout=_COMPILE_SECONDS)
            if process.returncode:
                raise OSError(f"{commands[0][0]}: {said.strip()[-500:]}")
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{commands[0][0]} took longer than {_COMPILE_SECONDS} s") from error
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@functools.cache
def processor_features() -> frozenset[str]:
    """What the system says that the processor has, by the names of /proc/cpuinfo."""
    if platform.machine() == "aarch64":
        first, second = ctypes.CDLL(None).getauxval, 26
        first.restype, first.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        bits = first(16) | first(second) << 64
        names = {1: "asimd", 10: "asimdhp", 20: "asimddp", 64 + 13: "i8mm", 64 + 14: "bf16"}
        return frozenset(name for bit, name in names.items() if bits >> bit & 1)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def build_all(folder: Path = _FOLDER) -> None:
    """All of this machine's architecture, whatever its processor has: in the build of an image."""
    for one in SETS:
        if one.machine == platform.machine():
            compile_library(folder / _built_in(one).name, one)


if __name__ == "__main__":
    build_all()

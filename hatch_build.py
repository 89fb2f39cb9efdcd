"""Builds the gRPC code from proto/ before a wheel or an editable install is made."""

from __future__ import annotations

import importlib.resources
import shutil
import sys
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent


def generate() -> None:
    """Writes messages, services and their type stubs beside each .proto file."""
    # The plugins of an isolated build stand beside its own packages, not on PATH.
    scripts = str(Path(sys.executable).parent)
    plugins = []
    for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        found = shutil.which(plugin) or shutil.which(plugin, path=scripts)
        if found is None:
            raise RuntimeError(f"{plugin} is missing: pip install mypy-protobuf")
        plugins.append(f"--plugin={plugin}={found}")
    protos = sorted(str(p) for p in (ROOT / "proto" / "modelfleet_proto").glob("*.proto"))
    includes = importlib.resources.files("grpc_tools") / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'proto'}",
            f"-I{includes}",
            *plugins,
            *(
                f"--{kind}_out={ROOT / 'proto'}"
                for kind in ("python", "grpc_python", "mypy", "mypy_grpc")
            ),
            *protos,
        ]
    )
    if code != 0:
        raise RuntimeError(f"protoc ended with {code}")


class ProtoBuildHook(BuildHookInterface):
    """Runs for `pip install .`, `pip install -e .` and `hatch build` alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate()


if __name__ == "__main__":
    generate()

"""What the folder layout promises (see CONTRIBUTING.md)."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    """Runs code at the root, where a careless layout would shadow the standard library."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_operator_folder_does_not_shadow_the_standard_library():
    assert "itemgetter" in python("import operator; print(operator.itemgetter)")


IMPORT_ALL = """
import importlib, pkgutil, sys, {package}
for module in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sorted(sys.modules))
"""


@pytest.mark.parametrize(
    "package", ["modelfleet_gateway", "modelfleet_operator", "modelfleet_process"]
)
def test_only_the_worker_imports_torch(package: str):
    loaded = python(IMPORT_ALL.format(package=package))
    assert package in loaded
    assert "'torch'" not in loaded
    assert "'transformers'" not in loaded


@pytest.mark.parametrize("part", ["modelfleet_gateway.cli", "modelfleet_worker.cli"])
def test_help_needs_nothing_heavy(part: str):
    loaded = python(f"import sys, {part}; print(sorted(sys.modules))")
    for heavy in ("torch", "transformers", "kopf", "kubernetes", "huggingface_hub"):
        assert f"'{heavy}'" not in loaded


def test_no_package_marker_stands_where_a_source_root_is():
    for folder in ("operator", "gateway", "worker", "process", "proto", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()

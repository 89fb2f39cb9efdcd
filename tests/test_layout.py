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


@pytest.mark.parametrize(
    "part",
    ["modelfleet_gateway.__main__", "modelfleet_operator.cli", "modelfleet_worker.__main__"],
)
def test_no_command_line_imports_torch(part: str):
    loaded = python(f"import sys, {part}; print(sorted(sys.modules))")
    assert "'torch'" not in loaded
    assert "'transformers'" not in loaded


def test_no_package_marker_stands_where_a_source_root_is():
    for folder in ("operator", "gateway", "worker", "proto", "tests"):
        assert not (ROOT / folder / "__init__.py").exists()

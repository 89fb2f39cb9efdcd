"""What `make` and `.ci/run` call; pytest and make are scripts in their place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SIDE_BY_SIDE = "e2e --numprocesses 2 --dist loadfile --no-loadscope-reorder"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def called(folder: Path, target: str, *variables: str, **environment: str) -> str:
    """The arguments that pytest gets from `make TARGET`, one in brackets each."""
    script(folder / "pytest", f"printf '[%s]' \"$@\" > {folder}/called")
    script(folder / "python", "")
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "DURATIONS", "KUBECONFIG", "T")}
    subprocess.run(
        ["make", "-o", "install", "-o", "model", target, f"BIN={folder}", *variables],
        cwd=ROOT, env={**clean, **environment}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return (folder / "called").read_text()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        pytest.param(
            ["test"],
            "[--numprocesses][2][--dist][loadfile][--no-loadscope-reorder]",
            id="all tests",
        ),
        pytest.param(["test", "T=tests/worker"], "[tests/worker]", id="a folder"),
        pytest.param(
            ["test", "T=tests/test_layout.py::test_x[a b]"],
            "[tests/test_layout.py::test_x[a b]]",
            id="one test of a file",
        ),
        pytest.param(["test", "T=asleep and not up"], "[-k][asleep and not up]", id="words"),
        pytest.param(["e2e"], f"[{SIDE_BY_SIDE.replace(' ', '][')}]", id="two clusters"),
        pytest.param(["e2e", "T=e2e/test_story.py"], "[e2e/test_story.py]", id="one cluster"),
        pytest.param(["e2e", "T=rollout"], "[e2e][-k][rollout]", id="words, in e2e only"),
    ],
)
def test_make_runs_what_was_asked_for(tmp_path: Path, call: list[str], arguments: str):
    assert called(tmp_path, *call) == arguments


def test_a_given_cluster_is_not_used_twice_at_once(tmp_path: Path):
    assert called(tmp_path, "e2e", KUBECONFIG="/given") == "[e2e]"


def test_ci_lists_the_slowest_tests(tmp_path: Path):
    assert called(tmp_path, "test", CI="true").startswith("[--durations=15]")


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        pytest.param("none", ["check", "build", "test", "e2e", "down", "down-1"], id="all pass"),
        pytest.param("check", ["check 3", "down", "down-1"], id="no tests after a failed check"),
        pytest.param("test", ["check", "build", "test 3", "down", "down-1"], id="a failed test"),
        pytest.param(
            "cluster-down",
            ["check", "build", "test", "e2e", "down 3", "down-1 3"],
            id="every cluster is taken down, or tried",
        ),
    ],
)
def test_each_stage_of_ci_tells_its_seconds(tmp_path: Path, failing: str, told: list[str]):
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    script(tmp_path / "bin" / "make", f'[ "$1" != {failing} ] || exit 3')
    script(tmp_path / ".venv" / "bin" / "python", "")
    done = subprocess.run(
        [tmp_path / ".ci" / "run"],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    line = r"^stage ([\w-]+): \d+ s(?:, failed with (\d+))?$"
    stages = re.findall(line, done.stdout, re.MULTILINE)
    assert [" ".join(filter(None, stage)) for stage in stages] == told
    assert re.search(r"^total: \d+ s$", done.stdout, re.MULTILINE)
    assert done.returncode == (0 if failing == "none" else 3)

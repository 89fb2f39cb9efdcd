"""What `make` and `.ci/run` call; pytest and make are scripts in their place."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = (
    "CI",
    "CLUSTERS",
    "DURATIONS",
    "KUBECONFIG",
    "ONLY",
    "PROCESSES",
    "T",
)  # variables that change what is called
BUT_KEDA = "[-m][not keda][e2e]"
SIDE_BY_SIDE = "[--numprocesses][2][--dist][loadfile][--no-loadscope-reorder]"


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def called(folder: Path, target: str, *variables: str, **environment: str) -> str:
    """The arguments that pytest gets from `make TARGET`, one in brackets each."""
    script(folder / "pytest", f"printf '[%s]' \"$@\" > {folder}/called")
    script(folder / "python", "")
    clean = {k: v for k, v in os.environ.items() if k not in OURS}
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
            "[--numprocesses][3][--dist][loadfile][--no-loadscope-reorder]",
            id="all tests",
        ),
        pytest.param(["test", "T=tests/worker"], "[tests/worker]", id="a folder"),
        pytest.param(
            ["test", "T=tests/test_layout.py::test_x[a b]"],
            "[tests/test_layout.py::test_x[a b]]",
            id="one test of a file",
        ),
        pytest.param(
            ["test", "ONLY=not untimed"],
            "[--numprocesses][3][--dist][loadfile][--no-loadscope-reorder][-m][not untimed]",
            id="what may not be late",
        ),
        pytest.param(["test", "T=asleep and not up"], "[-k][asleep and not up]", id="words"),
        pytest.param(["e2e"], BUT_KEDA + SIDE_BY_SIDE, id="two clusters"),
        pytest.param(["e2e", "T=e2e/test_story.py"], "[e2e/test_story.py]", id="one cluster"),
        pytest.param(["e2e", "T=rollout"], "[e2e][-k][rollout]", id="words, in e2e only"),
    ],
)
def test_make_runs_what_was_asked_for(tmp_path: Path, call: list[str], arguments: str):
    assert called(tmp_path, *call) == arguments


def test_a_given_cluster_is_not_used_twice_at_once(tmp_path: Path):
    assert called(tmp_path, "e2e", KUBECONFIG="/given") == BUT_KEDA


def test_ci_lists_the_slowest_tests(tmp_path: Path):
    assert called(tmp_path, "test", CI="true").startswith("[--durations=15]")


IN_TURN = ("check", "build", "test", "clients", "e2e")
BESIDE = ("check", "build", "e2e", "clients", "test", "untimed")
DOWN = ("down", "down-1")


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        pytest.param("none", [*IN_TURN, *DOWN], id="all pass"),
        pytest.param("check", ["check 3", *DOWN], id="no tests after a failed check"),
        pytest.param("test", ["check", "build", "test 3", *DOWN], id="a failed test"),
        pytest.param(
            "cluster-down",
            [*IN_TURN, "down 3", "down-1 3"],
            id="every cluster is taken down, or tried",
        ),
    ],
)
def test_each_stage_of_ci_tells_its_seconds(tmp_path: Path, failing: str, told: list[str]):
    assert stages(tmp_path, failing, "none") == told


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        pytest.param("none", [*BESIDE, *DOWN], id="all pass"),
        pytest.param("e2e", ["check", "build", "e2e 3", *DOWN], id="a failed test on a cluster"),
        pytest.param("untimed", [*BESIDE[:-1], "untimed 3", *DOWN], id="a failed one beside it"),
    ],
)
def test_what_cannot_be_late_runs_beside_the_rest(tmp_path: Path, failing: str, told: list[str]):
    groups = [root for root in ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup") if can_hold_idle(root)]
    if not groups:
        pytest.skip("no cgroup can be made here: it takes root on Linux")
    before = set(Path(groups[0]).iterdir())
    assert stages(tmp_path, failing, groups[0]) == told
    left = set(Path(groups[0]).iterdir()) - before
    assert not [group for group in left if group.name.startswith("modelfleet-ci-")]


def can_hold_idle(root: str) -> bool:
    group = Path(root) / f"modelfleet-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        return False
    try:
        return (group / "cpu.idle").exists()
    finally:
        group.rmdir()


def stages(folder: Path, failing: str, groups: str) -> list[str]:
    """Those that `.ci/run` tells of, with the exit code of those that failed."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    fails = f'case "$1 ${{ONLY:-}}" in "{failing} "* | "test {failing}") exit 3; esac'
    script(folder / "bin" / "make", fails)
    script(folder / ".venv" / "bin" / "python", "")
    ours = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "CGROUPS": groups, "ONLY": ""}
    done = subprocess.run(
        [folder / ".ci" / "run"],
        env={**os.environ, **ours},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    line = r"^stage ([\w-]+): \d+ s(?:, failed with (\d+))?$"
    told = re.findall(line, done.stdout, re.MULTILINE)
    assert re.search(r"^total: \d+ s$", done.stdout, re.MULTILINE)
    assert done.returncode == (0 if failing == "none" else 3)
    return [" ".join(filter(None, stage)) for stage in told]

"""What `make` and `.ci/run` call; pytest and make are scripts in their place."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
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
        pytest.param(["test"], "[--numprocesses][2][--dist][loadfile]", id="all tests"),
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


def ci(folder: Path, recipe: str) -> subprocess.Popen[str]:
    """Starts `.ci/run` in a session of its own; `recipe` is what all targets of make run."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    script(folder / "recipe", f'echo "output of $1"\n{recipe}')
    (folder / "Makefile").write_text("check test e2e cluster-down: ; @exec ./recipe $@\n")
    script(folder / ".venv" / "bin" / "python", "")
    (folder / "tmp").mkdir()
    return subprocess.Popen(
        [folder / ".ci" / "run"], env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def stages(output: str) -> list[str]:
    """What the lines of the stages tell: `NAME`, or `NAME CODE` of one that failed."""
    line = r"^(?:stage )?([\w-]+): \d+ s(?:, failed with (\d+))?$"
    return [" ".join(filter(None, told)) for told in re.findall(line, output, re.MULTILINE)]


DOWN = ["down", "down-1", "total"]


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        pytest.param("none", ["check", "build", "e2e", "test", *DOWN], id="all pass"),
        pytest.param("check", ["check 2", *DOWN], id="no tests after a failed check"),
        pytest.param("test", ["check", "build", "e2e", "test 2", *DOWN], id="only test fails"),
        pytest.param("e2e", ["check", "build", "e2e 2", "test", *DOWN], id="only e2e fails"),
        pytest.param(
            "cluster-down",
            ["check", "build", "e2e", "test", "down 2", "down-1 2", "total"],
            id="every cluster is taken down, or tried",
        ),
    ],
)
def test_ci_tells_the_seconds_and_the_failures_of_its_stages(
    tmp_path: Path, failing: str, told: list[str]
):
    run = ci(tmp_path, f"[ $1 != {failing} ] || exit 3")  # which make makes 2
    output, _ = run.communicate(timeout=60)
    assert stages(output) == told
    assert run.returncode == (0 if failing == "none" else 2)
    for target in ("test", "e2e"):
        assert (f"output of {target}" in output) == (failing != "check")
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(os.killpg, signal.SIGINT, id="Ctrl-C"),
        pytest.param(os.kill, signal.SIGTERM, id="TERM to the script alone"),
    ],
)
def test_an_interrupted_ci_leaves_nothing_running_and_prints_what_the_tests_said(
    tmp_path: Path, send: Callable[[int, int], None], number: int
):
    run = ci(tmp_path, "case $1 in e2e | test) echo $$ >$1.pid; exec sleep 60 ;; esac")
    pids = [tmp_path / "e2e.pid", tmp_path / "test.pid"]
    until = time.monotonic() + 30
    while not all(pid.exists() and pid.read_text() for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.02)
    send(run.pid, number)
    output, _ = run.communicate(timeout=30)
    assert run.returncode != 0
    assert "output of test" in output
    assert stages(output)[-3:] == DOWN
    assert not list((tmp_path / "tmp").iterdir())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)

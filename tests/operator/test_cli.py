from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["kopf", "kubernetes", "grpc", "google.protobuf", "pydantic", "asyncio", "httpx"]


def modelfleet(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["modelfleet", *arguments],
        check=False, capture_output=True, text=True, timeout=30, **options,
    )  # fmt: skip


def imported_by(code: str) -> list[str]:
    """Which heavy modules a fresh interpreter has after this code."""
    script = (
        f"{code}\nimport json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=30
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_help_imports_nothing_heavy():
    code = """
import sys
sys.argv = ["modelfleet", "--help"]
from modelfleet_operator.cli import main
try:
    main()
except SystemExit:
    pass
"""
    assert imported_by(code) == []


def test_decisions_import_nothing_that_acts():
    code = "import modelfleet_operator.decisions.plan"
    assert imported_by(code) == []


def test_every_command_explains_itself():
    for command in ("up", "status", "explain", "operator", "gateway", "worker", "quantize"):
        done = modelfleet(command, "--help")
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()


def test_gateway_and_worker_are_the_parts_own_command_lines():
    assert "--operator" in modelfleet("gateway", "--help").stdout
    assert "--worker-id" in modelfleet("worker", "--help").stdout
    assert "--calibration" in modelfleet("quantize", "--help").stdout


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["up", "a.yaml"], id="up"),
        pytest.param(["operator", "--worker-image=worker:1"], id="operator"),
        pytest.param(["gateway", "--operator=127.0.0.1:1"], id="gateway"),
        pytest.param(["worker"], id="worker"),
    ],
)
def test_every_part_takes_the_same_options_for_its_logs(command: list[str], tmp_path: Path):
    explained = modelfleet(command[0], "--help").stdout
    for option in ("--log-format", "--log-level", "-v", "--verbose", "-q", "--quiet"):
        assert option in explained
    wrong: list[tuple[list[str], dict[str, str]]] = [
        (["--log-level=loud"], {}),
        ([], {"MODELFLEET_LOG_LEVEL": "loud"}),
    ]
    for flags, environment in wrong:
        done = modelfleet(*command, *flags, cwd=tmp_path, env={**os.environ, **environment})
        assert done.returncode == 2
        assert "'loud' is not one of" in " ".join(done.stderr.replace("│", " ").split())
        assert "Traceback" not in done.stderr
    both = modelfleet(*command, "-v", "-q", cwd=tmp_path)
    assert both.returncode == 2
    assert "choose one of -v and -q" in both.stderr


def test_says_its_version():
    assert modelfleet("--version").stdout.startswith("modelfleet 0.")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["up"], "FILE", id="no file"),
        pytest.param(
            ["up", "absent.yaml"], "absent.yaml: no such file", id="a file that is absent"
        ),
        pytest.param(["up", "a.yaml", "--port", "99999"], "65535", id="an impossible port"),
        pytest.param(["up", "a.yaml", "--device", "tpu"], "paced", id="an unknown device"),
        pytest.param(
            ["up", "a.yaml", "--drain-timeout", "-1"], "drain-timeout", id="a negative time"
        ),
        pytest.param(["operator"], "--worker-image", id="no image for workers"),
        pytest.param(["dance"], "dance", id="an unknown command"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(arguments, says, tmp_path: Path):
    done = modelfleet(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_status_without_a_fleet_says_how_to_start_one(tmp_path: Path):
    done = modelfleet("status", "--state-dir", str(tmp_path))
    assert done.returncode == 1
    assert "modelfleet up" in done.stderr

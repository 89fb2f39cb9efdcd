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


COMMANDS = (
    *("up", "status", "simulate", "chat", "models", "logs", "explain", "validate"),
    *("operator", "gateway", "worker", "quantize", "key"),
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_in_one_style(command: str):
    helps = [modelfleet(command, flag) for flag in ("--help", "-h")]
    for done in helps:
        assert done.returncode == 0, done.stderr
        assert f"Usage: modelfleet {command} " in done.stdout
        assert "─ Options ─" in done.stdout
        assert "python -m" not in done.stdout


def test_help_names_every_command():
    told = modelfleet("--help").stdout
    for command in (*COMMANDS, "--install-completion"):
        assert f" {command} " in told


def completed(words: str, folder: Path) -> list[str]:
    """What bash would offer for this line."""
    environment = {
        "_MODELFLEET_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "MODELFLEET_STATE_DIR": str(folder),
    }
    return modelfleet(env={**os.environ, **environment}).stdout.split()


def test_the_shell_completes_commands_options_and_the_names_of_models(tmp_path: Path):
    status = tmp_path / "status" / "default"
    status.mkdir(parents=True)
    (status / "smollm2.yaml").write_text("metadata: {namespace: default, name: smollm2}")
    assert completed("modelfleet va", tmp_path) == ["validate"]
    assert completed("modelfleet status --wa", tmp_path) == ["--watch"]
    for command in ("chat", "explain", "logs", "status"):
        assert completed(f"modelfleet {command} smo", tmp_path) == ["smollm2"]


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
        assert "'loud' is not one of" in done.stderr
        assert len(done.stderr.splitlines()) == 1
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
    assert len(done.stderr.splitlines()) == 1


def test_status_without_a_fleet_says_how_to_start_one(tmp_path: Path):
    done = modelfleet("status", "--state-dir", str(tmp_path))
    assert done.returncode == 1
    assert "modelfleet up" in done.stderr


GOOD = """\
apiVersion: modelfleet.dev/v1alpha1
kind: ModelDeployment
metadata: {name: smol}
spec: {model: {source: "hf://owner/name"}}
"""


def test_validate_lists_every_problem_and_ends_with_1(tmp_path: Path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(f"{GOOD}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: hub}}\n")
    done = modelfleet("validate", str(good))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"default/smol is valid ({good}, document 1)",
        "not looked at: Secret default/hub",
    ]
    template = "podTemplate: {spec: {hostNetwork: true}}"
    bad.write_text(
        GOOD.replace("smol", "a").replace("hf://owner/name", "name")
        + "---\n"
        + GOOD.replace("smol", "b").replace("spec: {", "spec: {scaling: {minReplica: 1}, ")
        + "---\n"
        + GOOD.replace("smol", "c").replace("spec: {", f"spec: {{{template}, ")
    )
    done = modelfleet("validate", str(good), str(bad), str(tmp_path / "absent.yaml"))
    assert done.returncode == 1
    for said in (
        f"{bad}, document 1: spec.model.source: expected hf://OWNER/NAME",
        f"{bad}, document 2: spec.scaling.minReplica: there is no such field",
        f"{bad}, document 3: spec.podTemplate.spec.hostNetwork",
        "absent.yaml: no such file",
    ):
        assert said in done.stderr
    assert len(done.stderr.splitlines()) == 4


@pytest.mark.parametrize("command", [["chat", "smol", "-m", "Hi"], ["models"]])
def test_without_a_fleet_a_client_says_how_to_have_one(command: list[str], tmp_path: Path):
    done = modelfleet(*command, "--state-dir", str(tmp_path))
    assert done.returncode == 1
    assert "modelfleet up" in done.stderr
    assert "--endpoint" in done.stderr


def test_logs_without_a_fleet_and_without_a_cluster_say_so(tmp_path: Path):
    done = modelfleet(
        "logs", "smol", env={**os.environ, "MODELFLEET_STATE_DIR": str(tmp_path),
                             "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "no fleet runs here" in done.stderr
    assert "kubeconfig" in done.stderr

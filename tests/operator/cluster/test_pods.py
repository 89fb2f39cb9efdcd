"""Worker pods as they are built, and as they are read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.cluster import pods
from modelfleet_operator.cluster.environment import tracing_variables
from modelfleet_operator.cluster.observing import observed_worker
from modelfleet_operator.cluster.pods import PodSettings, pod_template, worker_pod
from modelfleet_process.options import LogLevel

OWNER = {"name": "smol", "namespace": "team", "uid": "owner"}
SETTINGS = PodSettings(image="worker:1", device="cpu", drain_timeout=60)


def deployment(**spec: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {"model": {"source": "hf://owner/name"}, **spec},
        }
    )


def pod(manifest: ModelDeployment | None = None, settings: PodSettings = SETTINGS) -> Any:
    template = pod_template(manifest or deployment(), settings)
    return worker_pod(OWNER, template, revision="abc", ordinal=2)


def revision(manifest: ModelDeployment, settings: PodSettings) -> str:
    return pods.template_revision(pod_template(manifest, settings))


def container(manifest: ModelDeployment | None = None) -> Any:
    return pod(manifest)["spec"]["containers"][0]


def test_the_name_says_what_is_in_it():
    assert pod()["metadata"]["name"] == "smol-abc-2"
    assert pod()["metadata"]["namespace"] == "team"


@pytest.mark.parametrize(
    ("manifest", "settings"),
    [
        pytest.param(
            deployment(model={"source": "hf://owner/other"}), SETTINGS, id="another model"
        ),
        pytest.param(deployment(engine={"maxSequences": 8}), SETTINGS, id="other limits"),
        pytest.param(deployment(), PodSettings(image="worker:2", device="cpu"), id="another image"),
        pytest.param(deployment(), PodSettings(image="worker:1"), id="another device"),
    ],
)
def test_another_content_is_another_revision(manifest: ModelDeployment, settings: PodSettings):
    assert revision(manifest, settings) != revision(deployment(), SETTINGS)


def test_scaling_and_names_change_no_pod():
    scaled = deployment(
        scaling={"maxReplicas": 9},
        coldStart={"maxQueue": 1},
        routing={"policy": "LeastOutstanding"},
        model={"source": "hf://owner/name", "servedNames": ["x"]},
    )
    assert revision(scaled, SETTINGS) == revision(deployment(), SETTINGS)


def test_the_worker_is_told_everything_by_flags():
    manifest = deployment(
        model={
            "source": "hf://owner/name",
            "revision": "v1",
            "dtype": "BFloat16",
            "contextLength": 4096,
            "generationDefaults": "None",
            "toolParser": "Llama",
            "reasoningParser": "None",
            "task": "Embed",
        },
        engine={"kvCacheMemory": "2Gi", "prefixCaching": False, "deterministic": True},
    )
    assert container(manifest)["command"] == ["python", "-m", "modelfleet_worker"]
    assert container(manifest)["args"] == [
        "--listen=[::]:9000",
        "--worker-id=$(POD_NAMESPACE)/$(POD_NAME)",
        "--device=cpu",
        "--drain-timeout=60",
        "--log-format=json",
        "--model=team/smol",
        "--source=hf://owner/name",
        "--dtype=BFloat16",
        "--revision=v1",
        "--context-length=4096",
        "--generation-defaults=None",
        "--tool-parser=Llama",
        "--reasoning-parser=None",
        "--task=Embed",
        "--max-sequences=64",
        "--max-batch-tokens=2048",
        "--kv-cache-memory=2Gi",
        "--no-prefix-caching",
        "--deterministic",
    ]


def test_another_log_level_reaches_new_pods_and_is_no_new_revision():
    template = pod_template(deployment(), PodSettings(image="worker:1", log_level=LogLevel.DEBUG))
    assert template == pod_template(deployment(), PodSettings(image="worker:1"))

    def env(manifest: ModelDeployment, level: LogLevel) -> list[Any]:
        template = pod_template(manifest, SETTINGS)
        built = worker_pod(OWNER, template, revision="abc", ordinal=2, log_level=level)
        return built["spec"]["containers"][0]["env"]

    told = {"name": "MODELFLEET_LOG_LEVEL", "value": "debug"}
    assert env(deployment(), LogLevel.DEBUG) == [*env(deployment(), LogLevel.INFO), told]
    own = {"name": "MODELFLEET_LOG_LEVEL", "value": "error"}
    chosen = deployment(podTemplate={"spec": {"containers": [{"name": "worker", "env": [own]}]}})
    assert env(chosen, LogLevel.DEBUG) == env(chosen, LogLevel.INFO)
    assert env(chosen, LogLevel.DEBUG)[-1] == own


def test_new_pods_send_traces_where_the_operator_was_told_and_it_is_no_new_revision():
    told = tracing_variables(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_HEADERS": "key=secret"}
    )
    assert told == ({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://c:4317"},)
    template = pod_template(deployment(), SETTINGS)
    assert template == pod_template(deployment(), replace(SETTINGS, tracing=told))
    built = worker_pod(OWNER, template, revision="abc", ordinal=2, tracing=told)
    assert built["spec"]["containers"][0]["env"][-1] == told[0]


def test_without_a_chosen_device_the_pod_may_choose_by_environment():
    built = pod(settings=PodSettings(image="worker:1"))
    arguments = built["spec"]["containers"][0]["args"]
    assert not [argument for argument in arguments if argument.startswith("--device")]


def test_the_token_comes_from_the_secret_and_stands_nowhere_else():
    token = {"name": "hub", "key": "token"}
    manifest = deployment(model={"source": "hf://owner/name", "tokenSecretRef": token})
    variables = {v["name"]: v for v in container(manifest)["env"]}
    assert variables["HF_TOKEN"]["valueFrom"] == {"secretKeyRef": token}
    assert "HF_TOKEN" not in {v["name"] for v in container()["env"]}


def test_the_kubelet_waits_for_the_drain():
    assert pod()["spec"]["terminationGracePeriodSeconds"] > SETTINGS.drain_timeout


def test_only_readiness_asks_for_health_so_that_a_loading_worker_lives():
    assert "grpc" in container()["readinessProbe"]
    assert "tcpSocket" in container()["livenessProbe"]
    assert "tcpSocket" in container()["startupProbe"]


def test_runs_with_the_least_rights():
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_folder_of_the_node_is_mounted_where_it_is_and_read_only():
    manifest = deployment(model={"source": "file:///models/smol"})
    volumes = {v["name"]: v for v in pod(manifest)["spec"]["volumes"]}
    assert volumes["model"]["hostPath"] == {"path": "/models/smol", "type": "Directory"}
    (mount,) = [m for m in container(manifest)["volumeMounts"] if m["name"] == "model"]
    read_only = {"readOnly": True, "recursiveReadOnly": "IfPossible"}
    assert mount == {"name": "model", "mountPath": "/models/smol", **read_only}


def seen(status: dict[str, Any] | None = None, **metadata: Any) -> Any:
    """A pod as the API server shows it."""
    built = pod()
    built["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-21T17:00:00Z", **metadata}
    return {**built, "status": status or {}}


def test_a_pod_is_read_back_as_the_worker_that_was_asked_for():
    worker = observed_worker(seen({"phase": "Running", "podIP": "10.0.0.7"}))
    assert worker is not None
    assert (worker.id, worker.uid, worker.revision, worker.ordinal) == (
        "team/smol-abc-2",
        "u",
        "abc",
        2,
    )
    assert worker.address == "10.0.0.7:9000"
    assert (worker.stopping, worker.failure, worker.problem) == (False, None, None)


def test_an_address_of_the_newer_family_gets_its_brackets():
    worker = observed_worker(seen({"podIP": "fd00::7"}))
    assert worker is not None
    assert worker.address == "[fd00::7]:9000"


def test_a_stranger_with_our_label_is_no_worker():
    assert observed_worker({"metadata": {"name": "x", "labels": {}}}) is None

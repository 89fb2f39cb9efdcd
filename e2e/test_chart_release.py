"""The life of a release of the chart: test, upgrade, another scope, uninstall, install again."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import httpx
import yaml

from helm import CHART, succeed
from installation import Installation
from kube import Kube, eventually, model_deployment
from renderings import TEMPLATE, VALUES
from traffic import Traffic

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
FOREIGN = {"HTTPRoute", "ServiceMonitor"}
CRD = "modeldeployments.modelfleet.dev"


def test_helm_test_asks_the_gateway(installation: Installation):
    told = succeed(
        *("test", installation.release, "--namespace", installation.namespace, "--logs"),
        kubeconfig=installation.kube.kubeconfig,
    )
    assert "Phase:          Succeeded" in told
    assert "/readyz: ready" in told


def test_metrics_are_apart_from_what_clients_reach(installation: Installation, gateway: str):
    assert httpx.get(f"{gateway}/metrics", timeout=10).status_code == httpx.codes.NOT_FOUND
    for pod in installation.pods("gateway"):
        metrics = httpx.get(f"http://{pod['status']['podIP']}:9091/metrics", timeout=10)
        assert "modelfleet_gateway_requests" in metrics.text


def test_an_upgrade_changes_crd_and_pods_and_loses_no_request(
    installation: Installation, gateway: str, kube: Kube, tmp_path: Path
):
    """Where only restricted pods may start: gateways, operators and workers."""
    chart = shutil.copytree(CHART, tmp_path / "chart")
    crd = chart / "files" / "crds" / "modelfleet.dev_modeldeployments.yaml"
    definition = yaml.safe_load(crd.read_text())
    definition["spec"]["names"]["categories"].append("upgraded")
    crd.write_text(yaml.safe_dump(definition, sort_keys=False))
    kube("label", "namespace", installation.namespace, kube.namespace, RESTRICTED, "--overwrite")
    kube.apply(model_deployment("steady"))
    kube.wait("Ready", "modeldeployment/steady")
    before = uids(installation)
    with Traffic(gateway, f"{kube.namespace}/steady", clients=4) as traffic:
        traffic.wait_for_answers(8)
        values, other = installation.values(), {"podAnnotations": {"e2e/at": str(time.time_ns())}}
        changes = {part: {**values[part], **other} for part in ("operator", "gateway")}
        changes["gateway"]["autoscaling"] = {"enabled": True}
        installation.install(chart, changes)
        eventually("the old pods are gone", lambda: not uids(installation) & before, 180)
        system = installation.kube.within(installation.namespace)
        autoscaler = f"horizontalpodautoscaler/{installation.release}-gateway"
        system.wait("ScalingActive", autoscaler, 120)
        traffic.wait_for_answers(8)
    traffic.check()
    assert "upgraded" in installation.kube.get("crd", CRD)["spec"]["names"]["categories"]


def test_the_api_server_takes_all_that_the_chart_can_render(
    installation: Installation, tmp_path: Path
):
    """But for the kinds of others (Prometheus operator, Gateway API), which need not be there."""
    values = tmp_path / "values.yaml"
    images = {"images": installation.values()["images"]}
    values.write_text(yaml.safe_dump({**VALUES["everything"], **images}))
    text = succeed(*TEMPLATE, "--no-hooks", "--values", str(values))
    ours = [each for each in yaml.safe_load_all(text) if each and each["kind"] not in FOREIGN]
    assert {"Ingress", "NetworkPolicy", "HorizontalPodAutoscaler"} <= {
        each["kind"] for each in ours
    }
    stdin = yaml.safe_dump_all(ours)
    installation.kube.within(installation.namespace)(
        "apply", "--dry-run=server", "-f", "-", stdin=stdin
    )


def test_one_namespace_is_all_it_looks_at(
    installation: Installation, kube: Kube, other_namespace: Kube
):
    try:
        installation.install(changes={"scope": {"namespaces": [kube.namespace]}})
        for namespace in (kube, other_namespace):
            namespace.apply(model_deployment("scoped"))
        kube.wait("Ready", "modeldeployment/scoped")
        assert "conditions" not in other_namespace.model("scoped").get("status", {})
        operator = f"system:serviceaccount:{installation.namespace}:{installation.release}-operator"
        for namespace, answer in ((kube, "yes"), (other_namespace, "no")):
            asked = namespace.run("auth", "can-i", "create", "pods", "--as", operator)
            assert asked.stdout.strip() == answer
    finally:
        installation.install()
    other_namespace.wait("Ready", "modeldeployment/scoped")


def test_a_key_opens_the_door_and_a_revoked_one_does_not(installation: Installation, kube: Kube):
    gateway = installation.values()["gateway"]
    try:
        installation.install(changes={"gateway": {**gateway, "auth": {"required": True}}})
        door = installation.endpoint()
        assert status_of(door, "") == status_of(door, "mf-not-a-key") == httpx.codes.UNAUTHORIZED
        key = modelfleet_key(installation, "create", "e2e").strip()
        eventually("the key works", lambda: status_of(door, key) == httpx.codes.OK, 10)
        secrets = installation.kube.within(installation.namespace)(
            "get", "secret", "e2e", "-o=yaml"
        )
        assert key not in secrets
        modelfleet_key(installation, "revoke", "e2e")
        eventually("it is revoked", lambda: status_of(door, key) == httpx.codes.UNAUTHORIZED, 10)
        for component in ("operator", "gateway"):
            for pod in installation.pods(component):
                name = pod["metadata"]["name"]
                logs = installation.kube.within(installation.namespace)("logs", name)
                assert key not in logs
    finally:
        installation.install()


def test_uninstalled_it_leaves_what_users_made_and_comes_back_to_it(
    installation: Installation, kube: Kube
):
    kube.apply(model_deployment("kept"))
    kube.wait("Ready", "modeldeployment/kept")
    (worker,) = kube.workers("kept")

    installation.uninstall()
    assert installation.pods("operator") == []
    assert kube.model("kept")["metadata"]["uid"]
    assert kube.workers("kept")[0]["metadata"]["uid"] == worker["metadata"]["uid"]
    kube.apply(model_deployment("unseen"))
    kube("delete", "modeldeployment", "unseen", "--timeout=20s")  # no finalizer holds it

    started = time.monotonic()
    installation.install()
    kube.apply(model_deployment("new"))
    kube.wait("Ready", "modeldeployment/new")
    assert ask(installation.endpoint(), f"{kube.namespace}/new")
    took = time.monotonic() - started
    print(f"helm install to first token: {took:.1f} s")  # read by people: docs/performance.md
    assert took < 60
    kube.wait("Ready", "modeldeployment/kept")
    assert kube.workers("kept")[0]["metadata"]["uid"] == worker["metadata"]["uid"]


def ask(endpoint: str, model: str) -> str:
    body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello!"}]}
    answer = httpx.post(f"{endpoint}/v1/chat/completions", json=body, timeout=30).raise_for_status()
    return str(answer.json()["choices"][0]["message"]["content"])


def status_of(gateway: str, key: str) -> int:
    """Of a request for the list of models, on a connection of its own."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return httpx.get(f"{gateway}/v1/models", headers=headers, timeout=10).status_code


def modelfleet_key(installation: Installation, *arguments: str) -> str:
    done = subprocess.run(
        ["modelfleet", "key", *arguments, "--namespace", installation.namespace,
         "--kubeconfig", str(installation.kube.kubeconfig)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def uids(installation: Installation) -> set[str]:
    pods = [*installation.pods("operator"), *installation.pods("gateway")]
    return {pod["metadata"]["uid"] for pod in pods}

"""What the chart renders, by the real helm. `UPDATE_GOLDEN=1 pytest e2e/test_chart_rendering.py`
writes the golden files anew: read the difference before you commit it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm import CHART, helm, succeed
from modelfleet_operator.cluster.pods import DEPLOYMENT
from modelfleet_operator.cluster.worker_policies import read_peers, worker_policy
from policy_semantics import Pod, may_connect
from renderings import NO_CRDS, REGISTRY, TEMPLATE, VALUES

GOLDEN = Path(__file__).parent / "golden"
CRDS = Path(__file__).parents[1] / "crds"


def render(values: dict[str, Any], folder: Path) -> str:
    return succeed(*TEMPLATE, "-f", str(written(values, folder)))


def written(values: dict[str, Any], folder: Path) -> Path:
    """The values as a file, with a registry."""
    images = {"registry": REGISTRY, **values.get("images", {})}
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump({**values, "images": images}))
    return file


def objects(values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(render(values, folder)) if each]


@pytest.mark.parametrize("name", VALUES)
def test_renders_what_the_golden_file_holds(name: str, tmp_path: Path):
    text = render(VALUES[name] | NO_CRDS, tmp_path)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text(), "look at the difference; UPDATE_GOLDEN=1 accepts it"


@pytest.mark.parametrize("name", VALUES)
def test_lint_finds_nothing_even_where_it_is_strict(name: str, tmp_path: Path):
    file = written(VALUES[name], tmp_path)
    assert "0 chart(s) failed" in succeed("lint", "--strict", str(CHART), "-f", str(file))


def test_crds_are_rendered_as_they_are_and_kept_when_the_chart_goes(tmp_path: Path):
    rendered = {
        each["metadata"]["name"]: each
        for each in objects({}, tmp_path)
        if each["kind"] == "CustomResourceDefinition"
    }
    ours = [yaml.safe_load(file.read_text()) for file in CRDS.glob("*.yaml")]
    assert {crd["metadata"]["name"]: crd["spec"] for crd in ours} == {
        name: crd["spec"] for name, crd in rendered.items()
    }
    for crd in rendered.values():
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_crds_go_with_the_chart_where_that_is_wished(tmp_path: Path):
    crds = [
        each
        for each in objects({"crds": {"keep": False}}, tmp_path)
        if each["kind"] == "CustomResourceDefinition"
    ]
    assert crds
    assert all("annotations" not in crd["metadata"] for crd in crds)


def pod_specs(rendered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        each["spec"] if each["kind"] == "Pod" else each["spec"]["template"]["spec"]
        for each in rendered
        if each["kind"] in {"Pod", "Deployment"}
    ]


def test_every_pod_meets_the_restricted_standard_on_a_read_only_root(tmp_path: Path):
    pods = pod_specs(objects(VALUES["everything"], tmp_path))
    assert len(pods) == 4  # operator, gateways with and without batches, `helm test`
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert all("hostPath" not in volume for volume in pod.get("volumes", []))


def test_only_the_operator_gets_a_token(tmp_path: Path):
    tokens = [pod["automountServiceAccountToken"] for pod in pod_specs(objects({}, tmp_path))]
    assert sorted(tokens) == [False, False, True]


def test_nothing_asks_for_every_right(tmp_path: Path):
    for each in objects(VALUES["everything"], tmp_path):
        for rule in each.get("rules", []) if "Role" in each["kind"] else []:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]


@pytest.mark.parametrize("nodes", [True, False])
def test_one_namespace_needs_no_right_elsewhere_but_to_read_classes_and_nodes(
    nodes: bool, tmp_path: Path
):
    rights = {"aggregate": False, "nodes": nodes}
    values = {"scope": {"namespaces": ["a", "b"]}, "rbac": rights}
    rendered = objects(values, tmp_path)
    (cluster,) = [each for each in rendered if each["kind"] == "ClusterRole"]
    read = ["list", "watch"]
    assert {rule["resources"][0]: rule["verbs"] for rule in cluster["rules"]} == {
        "acceleratorclasses": read,
        "tokenreviews": ["create"],  # it reads nothing but whose a token is that is shown to it
        **({"nodes": read} if nodes else {}),
    }
    roles = {each["metadata"]["namespace"] for each in rendered if each["kind"] == "Role"}
    assert roles == {"a", "b", "modelfleet-system"}


def test_all_users_may_read_classes_unless_other_groups_are_named(tmp_path: Path):
    def readers(values: dict[str, Any]) -> list[str]:
        return [
            subject["name"]
            for each in objects(values, tmp_path)
            if each["kind"] == "ClusterRoleBinding"
            and each["roleRef"]["name"] == "modelfleet-system:modelfleet-classes-view"
            for subject in each["subjects"]
        ]

    assert readers({}) == ["system:authenticated"]
    assert readers({"rbac": {"classReaders": ["data-science"]}}) == ["data-science"]
    assert readers({"rbac": {"classReaders": []}}) == []
    assert readers({"rbac": {"aggregate": False}}) == []


def test_metrics_are_for_those_who_are_named(tmp_path: Path):
    prometheus = {"podSelector": {"matchLabels": {"app": "prometheus"}}}
    policy = {"enabled": True, "metricsFrom": [prometheus]}
    rules = [
        rule
        for each in objects({"networkPolicy": policy}, tmp_path)
        if each["kind"] == "NetworkPolicy"
        for rule in each["spec"]["ingress"]
        if rule["ports"] == [{"port": 9091}]
    ]
    assert len(rules) == 2
    assert all(rule["from"] == [prometheus] for rule in rules)


SYSTEM = "modelfleet-system"
PROBE = Pod("elsewhere", {"app": "probe"})


def parts(rendered: list[dict[str, Any]]) -> dict[str, Pod]:
    """The pods of operator and gateway as policies see them, by component."""
    pods = {}
    for each in rendered:
        if each["kind"] == "Deployment":
            (container,) = each["spec"]["template"]["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            labels = each["spec"]["template"]["metadata"]["labels"]
            pods[labels["app.kubernetes.io/component"]] = Pod(SYSTEM, labels, ports)
    return pods


@pytest.mark.parametrize("scope", [[], ["team-a"]])
def test_a_probe_pod_reaches_only_the_gateways_http_port(scope: list[str], tmp_path: Path):
    """In a cluster-wide installation, too: the operator writes the policies of workers."""
    rendered = objects({"scope": {"namespaces": scope}}, tmp_path)
    policies = [each for each in rendered if each["kind"] == "NetworkPolicy"]
    pods = parts(rendered)
    (operator,) = [
        pod["containers"][0]
        for pod in pod_specs(rendered)
        if "operator" in pod["containers"][0]["args"]
    ]
    (flag,) = [arg for arg in operator["args"] if arg.startswith("--worker-ingress-from=")]
    peers = read_peers(flag.partition("=")[2], "flag")
    owner = {"namespace": "team-a", "name": "model", "uid": "1"}
    policies.append(worker_policy(owner, "ModelDeployment", DEPLOYMENT, peers))
    names = {"app.kubernetes.io/name": "modelfleet-worker", DEPLOYMENT: "model"}
    worker = Pod("team-a", names)

    assert may_connect(policies, PROBE, pods["gateway"], 8080)
    for source in (PROBE, Pod("team-a", {}), Pod(SYSTEM, {})):
        for target, port in [
            *((pods["operator"], port) for port in (9090, 9091, 9092, 9093)),
            *((worker, port) for port in (9000, 9001)),
            (pods["gateway"], 9091),
        ]:
            assert not may_connect(policies, source, target, port), (source, target, port)
    for source, target, port in [
        (pods["gateway"], pods["operator"], 9090),
        (pods["gateway"], worker, 9000),
        (pods["operator"], worker, 9000),
    ]:
        assert may_connect(policies, source, target, port), (source, target, port)
    assert not may_connect(policies, worker, worker, 9000)
    assert not may_connect(policies, pods["gateway"], PROBE, 443)


def test_service_monitors_ask_who_reads_metrics(tmp_path: Path):
    file = written({"metrics": {"serviceMonitor": {"enabled": True}}}, tmp_path)
    done = helm(*TEMPLATE, "-f", str(file))
    assert "networkPolicy.metricsFrom" in done.stderr


def test_no_service_that_clients_reach_has_metrics(tmp_path: Path):
    monitors, everyone = {"serviceMonitor": {"enabled": True}}, [{"namespaceSelector": {}}]
    values = {"metrics": monitors, "networkPolicy": {"metricsFrom": everyone}}
    rendered = objects(values, tmp_path)
    services = {e["metadata"]["name"]: e for e in rendered if e["kind"] == "Service"}
    assert [port["name"] for port in services["modelfleet-gateway"]["spec"]["ports"]] == ["http"]
    scraped = {"modelfleet-operator", "modelfleet-gateway-metrics"}
    for monitor in (each for each in rendered if each["kind"] == "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        found = {n for n, s in services.items() if wanted <= s["metadata"]["labels"].items()}
        (name,) = found & scraped
        scraped.remove(name)
        assert found == {name}
        ports = [port["name"] for port in services[name]["spec"]["ports"]]
        assert monitor["spec"]["endpoints"][0]["port"] in ports
    assert not scraped


def test_a_mirror_stands_before_every_image(tmp_path: Path):
    text = render(VALUES["air-gapped"], tmp_path)
    images = {
        c["image"] for pod in pod_specs(list(yaml.safe_load_all(text))) for c in pod["containers"]
    }
    assert {image.partition("/models/")[0] for image in images} == {"mirror.example"}
    assert "--worker-image=mirror.example/models/" in text


def test_a_gateway_gets_the_time_that_its_drain_may_take(tmp_path: Path):
    values = {"gateway": {"drainTimeout": 600, "preStopSleep": 10}}
    (gateway,) = [
        pod
        for pod in pod_specs(objects(values, tmp_path))
        if pod["containers"][0]["name"] == "gateway"
    ]
    assert gateway["terminationGracePeriodSeconds"] >= 610
    assert gateway["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 10}}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        pytest.param("gatway.replicas=3", "gatway", id="a misspelt value is named"),
        pytest.param("worker.nodeCache=/srv", "hostPaths", id="a node cache needs a host path"),
        pytest.param("operator.replicas=0", "replicas", id="there must be an operator"),
        pytest.param(
            "gateway.maxBodyBytes=134217728", "maxHeldBytes", id="bodies of more than all"
        ),
        pytest.param("images.registry=", "docs/images.md", id="no registry has our images"),
        pytest.param(
            "worker.allowedEndpoints={http://minio:9000}", "allowedEndpoints", id="no URL"
        ),
    ],
)
def test_refuses_wrong_values(setting: str, named: str):
    done = helm(*TEMPLATE, "--set", f"images.registry={REGISTRY}", "--set", setting)
    assert done.returncode != 0
    assert named in done.stderr


def test_batches_are_one_gateway_more_with_a_volume_and_the_routes_lead_there(tmp_path: Path):
    rendered = objects(VALUES["everything"], tmp_path)
    deployments = {
        each["metadata"]["name"]: each for each in rendered if each["kind"] == "Deployment"
    }
    batches, gateway = deployments["modelfleet-batches"], deployments["modelfleet-gateway"]
    assert (batches["spec"]["replicas"], batches["spec"]["strategy"]) == (1, {"type": "Recreate"})
    selectors = [each["spec"]["selector"]["matchLabels"] for each in (batches, gateway)]
    assert [each["app.kubernetes.io/component"] for each in selectors] == ["batches", "gateway"]
    pod = batches["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {each["name"]: each.get("value", "") for each in container["env"]}
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "batches"]
    assert env["MODELFLEET_GATEWAY_BATCH_DIR"].startswith(mount["mountPath"])
    assert pod["securityContext"]["fsGroup"] == 65532
    assert container["args"] == gateway["spec"]["template"]["spec"]["containers"][0]["args"]
    (claim,) = [each for each in rendered if each["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (ingress,) = [each for each in rendered if each["kind"] == "Ingress"]
    leads = {
        path["path"]: path["backend"]["service"]["name"]
        for path in ingress["spec"]["rules"][0]["http"]["paths"]
    }
    assert leads == {
        "/v1/files": "modelfleet-batches",
        "/v1/batches": "modelfleet-batches",
        "/v1": "modelfleet-gateway",
        "/api": "modelfleet-gateway",
    }
    (route,) = [each for each in rendered if each["kind"] == "HTTPRoute"]
    backends = [rule["backendRefs"][0]["name"] for rule in route["spec"]["rules"]]
    assert backends == ["modelfleet-batches", "modelfleet-gateway"]


def test_batches_use_a_claim_that_is_there(tmp_path: Path):
    rendered = objects({"batches": {"enabled": True, "existingClaim": "mine"}}, tmp_path)
    assert not [each for each in rendered if each["kind"] == "PersistentVolumeClaim"]
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pod_specs(rendered)
        for volume in pod.get("volumes", [])
        if "persistentVolumeClaim" in volume
    ]
    assert claims == ["mine"]

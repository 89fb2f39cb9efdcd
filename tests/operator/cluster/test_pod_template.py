"""spec.podTemplate under our pods: what it may say, what it gets, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.cluster.pods import (
    PodSettings,
    pod_template,
    protection,
    template_problems,
    template_refusal,
    template_revision,
    worker_pod,
)
from modelfleet_operator.decisions.reasons import Reason

SETTINGS = PodSettings(image="worker:1", host_paths=("/data",), image_pull_secrets=("ours",))
OWNER = {"name": "smol", "namespace": "team", "uid": "owner"}


def deployment(*, source: str = "hf://owner/name", **template: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {"model": {"source": source}, "podTemplate": template},
        }
    )


def pod(**spec: Any) -> dict[str, Any]:
    manifest = deployment(spec=spec)
    assert template_problems(manifest, SETTINGS) == []
    return worker_pod(OWNER, pod_template(manifest, SETTINGS), revision="abc", ordinal=0)


def worker(**fields: Any) -> dict[str, Any]:
    (container,) = pod(containers=[{"name": "worker", **fields}])["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def problems(**spec: Any) -> list[tuple[Reason, str]]:
    return template_problems(deployment(spec=spec), SETTINGS)


def test_an_empty_template_changes_nothing():
    empty = pod_template(deployment(spec={}), SETTINGS)
    nulls = pod_template(deployment(spec={"nodeSelector": None}), SETTINGS)
    assert (
        template_revision(empty)
        == template_revision(nulls)
        == template_revision(pod_template(deployment(), SETTINGS))
    )


def test_where_and_as_whom_a_worker_runs_is_the_users():
    asked = {
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "serviceAccountName": "puller",
        "priorityClassName": "high",
        "runtimeClassName": "nvidia",
        "schedulerName": "volcano",
    }
    spec = pod(**asked)["spec"]
    theirs = [t for t in spec["tolerations"] if not t["key"].startswith("node.kubernetes.io/")]
    assert {name: spec[name] for name in asked} | {"tolerations": theirs} == asked


def test_labels_and_annotations_stand_beside_ours():
    template = {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}
    manifest = deployment(**template)
    metadata = worker_pod(OWNER, pod_template(manifest, SETTINGS), revision="abc", ordinal=0)[
        "metadata"
    ]
    assert metadata["labels"]["team"] == "a"
    assert metadata["labels"]["modelfleet.dev/revision"] == "abc"
    assert metadata["annotations"] == {"note": "b", **protection(is_on=True)}
    assert metadata["name"] == "smol-abc-0"


def test_the_worker_gets_the_users_environment_after_ours():
    names = [
        variable["name"] for variable in worker(env=[{"name": "A", "value": "$(POD_NAME)"}])["env"]
    ]
    assert names[-1] == "A"
    assert "POD_NAME" in names[:-1]


def test_the_worker_gets_resources_mounts_and_a_user():
    container = worker(
        resources={"limits": {"memory": "8Gi", "cpu": 2}},
        volumeMounts=[{"name": "mine", "mountPath": "/mine"}],
        securityContext={"runAsUser": 1000},
    )
    assert container["resources"] == {"limits": {"memory": "8Gi", "cpu": "2"}}
    assert container["volumeMounts"][-1] == {"name": "mine", "mountPath": "/mine"}
    assert container["securityContext"]["runAsUser"] == 1000
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["image"] == "worker:1"


def test_pull_secrets_and_volumes_are_joined():
    spec = pod(
        imagePullSecrets=[{"name": "ours"}, {"name": "mine"}],
        volumes=[{"name": "scratch", "emptyDir": {}}],
    )["spec"]
    assert spec["imagePullSecrets"] == [{"name": "ours"}, {"name": "mine"}]
    assert [volume["name"] for volume in spec["volumes"]][-1] == "scratch"


@pytest.mark.parametrize("field", ["containers", "initContainers"])
def test_other_containers_get_the_least_rights(field: str):
    sidecar = {"name": "side", "image": "side:1", "restartPolicy": "Always"}
    found = pod(**{field: [sidecar]})["spec"][field][-1]
    assert found["name"] == "side"
    assert found["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_pod_stays_one_that_the_restricted_standard_takes():
    spec = pod(securityContext={"fsGroup": 1000, "runAsUser": 1000})["spec"]
    assert spec["securityContext"] == {
        "fsGroup": 1000,
        "runAsUser": 1000,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"hostPID": True}, "hostPID"),
        ({"restartPolicy": "Always"}, "restartPolicy is set by Modelfleet"),
        ({"terminationGracePeriodSeconds": 1}, "terminationGracePeriodSeconds is set by"),
        ({"nodeName": "n"}, "nodeName"),
        ({"nodeSelektor": {}}, "nodeSelektor: there is no such field"),
        ({"host_network": True}, "host_network: there is no such field"),
        ({"nodeSelector": {"a": 1}}, "nodeSelector.a: input should be a valid string, found 1"),
        ({"tolerations": [{"key": 1}]}, "Toleration.key"),
        ({"containers": "worker"}, "Container"),
        ({"containers": [{"image": "x"}]}, "Container.name"),
        ({"containers": [{"name": "worker", "image": "x"}]}, "[worker].image is set by"),
        ({"containers": [{"name": "worker", "args": []}]}, "[worker].args is set by"),
        ({"containers": [{"name": "worker", "env": [{"name": "POD_NAME"}]}]}, "env[POD_NAME]"),
        ({"containers": [{"name": "s", "securityContext": {"privileged": True}}]}, "privileged"),
        ({"containers": [{"name": "s", "securityContext": {"runAsUser": 0}}]}, "runAsUser"),
        (
            {"initContainers": [
                {"name": "s", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}
            ]},
            "capabilities.add",
        ),
        ({"securityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
        ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile"),
        ({"volumes": [{"name": "cache", "emptyDir": {}}]}, "volumes[cache]"),
        ({"priority": 2_000_000_000}, "priority is not allowed"),
        ({"evictionResponders": []}, "evictionResponders is not allowed"),
        ({"priorityClassName": "system-node-critical"}, "priorityClassName"),
        ({"tolerations": [{"operator": "Exists"}]}, "tolerations[0]"),
        ({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}, "tolerations[0]"),
        ({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, "sysctls"),
        ({"securityContext": {"windowsOptions": {"hostProcess": True}}}, "windowsOptions"),
        ({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, "appArmorProfile"),
        ({"securityContext": {"seLinuxOptions": {"type": "spc_t"}}}, "seLinuxOptions"),
        ({"securityContext": {"seLinuxOptions": {"user": "system_u"}}}, "seLinuxOptions"),
        ({"containers": [{"name": "s", "ports": [{"containerPort": 1, "hostPort": 2}]}]},
         "ports[1].hostPort"),
        ({"containers": [{"name": "s", "securityContext": {"procMount": "Unmasked"}}]},
         "procMount"),
        ({"containers": [{"name": "s", "livenessProbe": {"tcpSocket": {"host": "h", "port": 1}}}]},
         "livenessProbe.tcpSocket.host"),
        ({"containers": [{"name": "s", "lifecycle": {"preStop": {"httpGet": {
            "host": "h", "port": 1}}}}]}, "lifecycle.preStop.httpGet.host"),
        ({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, "volumes[v].nfs"),
        ({"volumes": [{"name": "v", "iscsi": {
            "iqn": "i", "lun": 0, "targetPortal": "p"}}]}, "volumes[v].iscsi"),
    ],
)  # fmt: skip
def test_what_is_refused_says_why(spec: dict[str, Any], says: str):
    found = problems(**spec)
    assert [reason for reason, _ in found] == [Reason.INVALID_SPEC]
    assert says in found[0][1]
    assert "spec.podTemplate" in found[0][1]


@pytest.mark.parametrize("name", ["modelfleet.dev/revision", "app.kubernetes.io/name"])
@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_our_own_labels_are_refused(field: str, name: str):
    template = {"metadata": {field: {name: "x"}}}
    ((reason, sentence),) = template_problems(deployment(**template), SETTINGS)
    assert reason is Reason.INVALID_SPEC
    assert f"[{name}]" in sentence


def test_our_labels_win_over_those_of_a_kept_template():
    kept = pod_template(deployment(), SETTINGS)
    kept["metadata"]["labels"] = {"app.kubernetes.io/name": "web", "team": "a"}
    made = worker_pod(OWNER, kept, revision="abc", ordinal=0)["metadata"]["labels"]
    assert (made["app.kubernetes.io/name"], made["team"]) == ("modelfleet-worker", "a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("container.apparmor.security.beta.kubernetes.io/worker", "unconfined"),
        ("container.seccomp.security.alpha.kubernetes.io/worker", "unconfined"),
    ],
)
def test_profiles_in_their_older_spelling_obey_the_same_rule(name: str, value: str):
    ((_, sentence),) = template_problems(
        deployment(metadata={"annotations": {name: value}}), SETTINGS
    )
    assert name in sentence


def test_what_restricted_allows_is_let_through():
    spec = {
        "securityContext": {
            "appArmorProfile": {"type": "RuntimeDefault"},
            "seLinuxOptions": {"level": "s0:c1,c2", "type": "container_t"},
            "supplementalGroups": [7],
            "sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}],
        },
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "driver", "csi": {"driver": "d"}},
        ],
        "containers": [{"name": "side", "image": "s:1", "ports": [{"containerPort": 8080}]}],
    }
    assert problems(**spec) == []


def test_a_kept_revision_obeys_the_rules_of_today():
    sidecar = {"containers": [{"name": "side", "image": "s"}]}
    kept = pod_template(deployment(spec=sidecar), SETTINGS)
    assert template_refusal(kept, SETTINGS) == ""
    kept["spec"]["containers"][1]["ports"] = [{"containerPort": 80, "hostPort": 80}]
    assert "hostPort" in template_refusal(kept, SETTINGS)


SECRET = "hunter2-hunter2"
VARIABLES = [{"name": "KEY", "value": SECRET}]


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [{"name": "worker", "env": [{"name": "KEY", "value": [SECRET]}]}]},
        {"containers": [{"name": "worker", "env": [{"name": "KEY", "value": {"a": SECRET}}]}]},
        {"containers": [{"name": "worker", "env": [{"name": "KEY", SECRET: "x"}]}]},
        {"containers": [{"name": "worker", "env": SECRET}]},
        {"containers": [{"name": "worker", "env": {"KEY": SECRET}}]},
        {"containers": [{"name": "worker", "envFrom": [{"prefix": [SECRET]}]}]},
        {"containers": [{"name": "worker", "env": [
            {"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": [SECRET]}}}]}]},
        {"containers": {"name": "worker", "env": VARIABLES}},
        {"containers": f"env: {SECRET}"},
        {"initContainers": [{"name": "i", "env": [{"name": "KEY", "value": [SECRET]}]}]},
    ],
)  # fmt: skip
def test_no_condition_quotes_a_variable(spec: dict[str, Any]):
    found = problems(**spec)
    assert found
    assert SECRET not in str(found)


def test_a_number_for_a_variable_is_not_told_either():
    found = problems(containers=[{"name": "worker", "env": [{"name": "PIN", "value": 731842}]}])
    assert found
    assert "731842" not in str(found)
    assert "EnvVar.value" in str(found)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/data", True),
        ("/data/models", True),
        ("/data//models/", True),
        ("/database", False),
        ("/data/../etc", False),
        ("/data/../data/models", True),
        ("/", False),
        ("//etc", False),
        ("data", False),
    ],
)
def test_folders_of_the_node_are_those_that_the_administrator_named(path: str, allowed: bool):
    assert SETTINGS.allows_host_path(path) is allowed
    found = problems(volumes=[{"name": "disk", "hostPath": {"path": path}}])
    assert [reason for reason, _ in found] == ([] if allowed else [Reason.HOST_PATH_NOT_ALLOWED])


def test_a_folder_as_the_source_obeys_the_same_rule():
    ((reason, sentence),) = template_problems(
        deployment(source="file:///data/../etc/model"), SETTINGS
    )
    assert reason is Reason.HOST_PATH_NOT_ALLOWED
    assert "/data" in sentence
    assert template_problems(deployment(source="file:///data/model"), SETTINGS) == []


def test_a_kept_template_may_mount_a_folder_no_longer():
    kept = pod_template(deployment(source="file:///data/model"), SETTINGS)
    assert template_refusal(kept, SETTINGS) == ""
    assert "/data/model" in template_refusal(kept, PodSettings(image="worker:1"))

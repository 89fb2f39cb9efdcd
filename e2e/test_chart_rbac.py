"""The operator's rights: enough, no more, each of them used."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cluster import Cluster
from cluster.layout import AUDIT_LOG
from installation import Installation
from kube import Kube, eventually, model_deployment

THEIRS = "rbac-theirs"
Right = tuple[str, str, str]  # API group, resource, verb

# Rights that a life without accidents does not use, and when they are.
ONLY_SOMETIMES: dict[Right, str] = {
    ("modelfleet.dev", "modeldeployments/finalizers", "update"): "asked for by an admission plugin "
    "(OwnerReferencesPermissionEnforcement), where a cluster has it",
    ("modelfleet.dev", "warmpools/finalizers", "update"): "asked for by the same plugin",
    ("modelfleet.dev", "warmpools/status", "patch"): "where there are warm pools",
    ("", "pods", "get"): "after a 409: whose pod has the name?",
    ("policy", "poddisruptionbudgets", "get"): "before a change of one, and after a 409",
    ("policy", "poddisruptionbudgets", "patch"): "when another number of workers is wanted",
    ("networking.k8s.io", "networkpolicies", "create"): "a server-side apply that creates is asked "
    "for as a patch",
    ("apps", "controllerrevisions", "get"): "after a 409: whose revision has the name?",
    **{
        ("resource.k8s.io", "resourceclaimtemplates", verb): "where a class has a deviceClaim"
        for verb in ("get", "list", "create", "delete")
    },
    ("lifecycle.k8s.io", "evictions", "list"): "where the API server has them (1.37, alpha)",
    ("lifecycle.k8s.io", "evictions", "watch"): "the same",
    ("lifecycle.k8s.io", "evictions/status", "patch"): "the same, when a worker is asked to go",
    ("coordination.k8s.io", "leases", "create"): "once in the life of an installation",
    ("", "secrets", "update"): "for a new certificate authority: once a year",
    ("", "configmaps", "update"): "the same",
}


@pytest.fixture
def operator(administrator: Kube, installation: Installation, tmp_path: Path) -> Kube:
    """The cluster as the operator may use it: with its token, and with nothing else."""
    system = administrator.within(installation.namespace)
    return system.as_account(f"{installation.release}-operator", tmp_path)


@pytest.fixture(scope="module")
def theirs(administrator: Kube, installation: Installation) -> Iterator[Kube]:
    """A namespace of users, with a pod that is no worker."""
    administrator("create", "namespace", THEIRS)
    theirs = administrator.within(THEIRS)
    theirs.apply(model_deployment("rbac", scaling={"minReplicas": 0}), sleeper("rbac"))
    yield theirs
    administrator("delete", "namespace", THEIRS, timeout=120)


@pytest.mark.parametrize(
    "deed",
    [
        pytest.param(["get", "secrets"], id="reading secrets"),
        pytest.param(["get", "configmaps"], id="reading config maps"),
        pytest.param(["cordon", "node-1"], id="changing nodes"),
        pytest.param(["get", "namespaces"], id="listing namespaces"),
        pytest.param(["get", "deployments.apps"], id="reading others' workloads"),
        pytest.param(["get", "serviceaccounts"], id="reading service accounts"),
        pytest.param(["get", "leases.coordination.k8s.io"], id="reading the Leases of others"),
        pytest.param(["delete", "modeldeployment", "rbac"], id="deleting what users made"),
        pytest.param(["label", "modeldeployment", "rbac", "a=b"], id="changing what users wrote"),
        pytest.param(["scale", "modeldeployment", "rbac", "--replicas=3"], id="scaling for users"),
        pytest.param(
            ["delete", "--raw", f"/api/v1/namespaces/{THEIRS}/pods"], id="deleting all pods"
        ),
        pytest.param(["exec", "rbac", "--", "true"], id="running commands in pods"),
        pytest.param(["logs", "rbac"], id="reading logs"),
        pytest.param(["create", "configmap", "rbac"], id="writing config maps"),
        pytest.param(["create", "token", "default"], id="making tokens"),
        pytest.param(["create", "role", "r", "--verb=get", "--resource=pods"], id="making roles"),
        pytest.param(["delete", "crd", "modeldeployments.modelfleet.dev"], id="deleting CRDs"),
    ],
)
def test_the_api_server_refuses_the_operator(deed: list[str], theirs: Kube, operator: Kube):
    refused = operator.within(theirs.namespace).run(*deed)
    assert refused.returncode != 0, refused.stdout
    assert "orbidden" in refused.stderr, refused.stderr


def test_of_its_own_namespaces_leases_one_is_its_own(installation: Installation, operator: Kube):
    operator("get", "lease", f"{installation.release}-operator")
    assert "orbidden" in operator.run("get", "lease", "another").stderr
    assert "orbidden" in operator.run("get", "leases").stderr


def test_users_may_read_which_accelerators_there_are_and_change_none(theirs: Kube):
    """Who has no right of the cluster's: the classes belong to no namespace."""
    for verb, answer in (("list", "yes"), ("update", "no")):
        asked = theirs.run("auth", "can-i", verb, "acceleratorclasses.modelfleet.dev", "--as=user")
        assert asked.stdout.strip().splitlines()[-1] == answer


def test_gateways_and_workers_have_no_token(kube: Kube, installation: Installation):
    kube.apply(model_deployment("tokenless"))
    kube.wait("Ready", "modeldeployment/tokenless")
    for pod in [*installation.pods("gateway"), *kube.workers("tokenless")]:
        volumes = [volume["name"] for volume in pod["spec"]["volumes"]]
        assert not [name for name in volumes if name.startswith("kube-api-access")], volumes


def test_each_right_is_used(machine: Cluster, installation: Installation, kube: Kube):
    """By the API server's own account of what was asked; `machine`, because only ours has one."""
    del machine
    kube.apply(model_deployment("life", rollout={"revisionHistoryLimit": 0}))
    kube.wait("Ready", "modeldeployment/life")
    first = kube.model("life")["status"]["revision"]
    for batch in (1024, 2048, 1024):  # forth, and back to a revision that may still be recorded
        kube.patch("modeldeployment", "life", {"spec": {"engine": {"maxBatchTokens": batch}}})
        eventually("the change has rolled", lambda: has_rolled(kube), 120)
    assert kube.model("life")["status"]["revision"] != first
    account = f"system:serviceaccount:{installation.namespace}:{installation.release}-operator"
    rights = granted(kube, installation)
    assert set(ONLY_SOMETIMES) <= rights, "no longer granted: remove the excuse"
    unused = rights - set(ONLY_SOMETIMES)

    def each_is_used() -> bool:
        unused.difference_update(asked(account))
        return not unused

    with contextlib.suppress(AssertionError):
        eventually("each right is used", each_is_used)
    assert sorted(unused) == []


def asked(account: str) -> Iterator[Right]:
    for line in AUDIT_LOG.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        what = event.get("objectRef", {})
        if event["user"]["username"] == account and "resource" in what:
            resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
            yield what.get("apiGroup", ""), resource, event["verb"]


def granted(kube: Kube, installation: Installation) -> set[Right]:
    """Of all roles that are bound to the operator's ServiceAccount."""
    label = (
        f"app.kubernetes.io/instance={installation.release},app.kubernetes.io/component=operator"
    )
    roles = kube.items("clusterroles", label)
    roles += kube.within(installation.namespace).items("roles", label)
    return {
        (group, resource, verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def has_rolled(kube: Kube) -> bool:
    model = kube.model("life")
    status = model["status"]
    revisions = {
        pod["metadata"]["labels"]["modelfleet.dev/revision"] for pod in kube.workers("life")
    }
    return (
        status["observedGeneration"] == model["metadata"]["generation"]
        and revisions == {status["revision"]}
        and kube.condition("life", "Ready")["status"] == "True"
    )


def sleeper(name: str) -> dict[str, Any]:
    """A pod that is not ours; it need not start."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "localhost/modelfleet/pause:1"}],
        },
    }

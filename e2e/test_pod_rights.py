"""Who may not create pods gets at no Secret and no ServiceAccount through a ModelDeployment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from installation import Installation
from kube import Kube, Object, eventually, model_deployment

VAULT = {"name": "vault", "key": "key"}
VARIABLE = {"name": "TOKEN", "valueFrom": {"secretKeyRef": VAULT}}


def with_pod(**spec: Any) -> dict[str, Any]:
    return {"podTemplate": {"spec": spec}}


ASKS = [
    pytest.param(with_pod(serviceAccountName="robot"), "ServiceAccount", id="service account"),
    pytest.param(with_pod(serviceAccount="robot"), "ServiceAccount", id="its old name"),
    pytest.param(
        {"model": {"source": "hf://a/b", "tokenSecretRef": VAULT}}, "tokenSecretRef", id="token"
    ),
    pytest.param(
        with_pod(imagePullSecrets=[{"name": "vault"}]), "imagePullSecrets", id="pull secret"
    ),
    pytest.param(
        with_pod(containers=[{"name": "worker", "env": [VARIABLE]}]), "variable", id="variable"
    ),
    pytest.param(
        with_pod(initContainers=[{"name": "a", "envFrom": [{"secretRef": {"name": "vault"}}]}]),
        "variable",
        id="all variables",
    ),
    pytest.param(
        with_pod(volumes=[{"name": "v", "secret": {"secretName": "vault"}}]), "volume", id="volume"
    ),
    pytest.param(
        with_pod(
            volumes=[{"name": "v", "projected": {"sources": [{"secret": {"name": "vault"}}]}}]
        ),
        "volume",
        id="projected volume",
    ),
]


@pytest.fixture(scope="module")
def place(administrator: Kube, installation: Installation) -> Iterator[Kube]:
    """A namespace in which `writer` may write ModelDeployments, and `builder` pods, too."""
    administrator("create", "namespace", "pod-rights")
    place = administrator.within("pod-rights")
    verbs = "--verb=create,update,patch,get"
    place("create", "role", "models", verbs, "--resource=modeldeployments.modelfleet.dev")
    place("create", "role", "pods", "--verb=create", "--resource=pods")
    place("create", "rolebinding", "models", "--role=models", "--user=writer", "--user=builder")
    place("create", "rolebinding", "pods", "--role=pods", "--user=builder")
    yield place
    administrator("delete", "namespace", "pod-rights", "--wait=false")


def refusal(place: Kube, user: str, model: Object) -> str:
    """What the API server says to it; empty: it takes it."""
    asked = place.run(
        *("create", f"--as={user}", "--dry-run=server", "--filename=-"), stdin=json.dumps(model)
    )
    return asked.stderr if asked.returncode else ""


@pytest.mark.parametrize(("spec", "named"), ASKS)
def test_only_who_may_create_pods_names_them(place: Kube, spec: dict[str, Any], named: str):
    model = model_deployment("asks", **spec)
    assert refusal(place, "builder", model) == ""
    refused = refusal(place, "writer", model)
    assert named in refused, refused
    assert "you may not create pods in this namespace" in refused


def test_what_names_none_is_for_everyone_who_may_write_it(place: Kube):
    plain = model_deployment("plain", **with_pod(serviceAccountName="default"))
    assert refusal(place, "writer", plain) == ""
    assert refusal(place, "writer", model_deployment("paced")) == ""


def test_what_the_administrator_lists_is_free(installation: Installation, place: Kube):
    listed = {
        "serviceAccounts": [f"{place.namespace}/robot"],
        "secrets": ["vault", "elsewhere/other"],
    }
    worker = {**installation.values()["worker"], **listed}
    try:
        installation.install(changes={"worker": worker})
        spec = with_pod(
            serviceAccountName="robot", containers=[{"name": "worker", "env": [VARIABLE]}]
        )
        # The API server reads a changed policy within seconds.
        listed_model = model_deployment("listed", **spec)
        eventually("the list counts", lambda: refusal(place, "writer", listed_model) == "", 30)
        spec = with_pod(imagePullSecrets=[{"name": "other"}])
        assert "imagePullSecrets" in refusal(place, "writer", model_deployment("other", **spec))
    finally:
        installation.install()


def test_an_object_that_names_one_may_be_changed_but_not_its_spec(place: Kube):
    place.apply(
        model_deployment(
            "theirs", scaling={"minReplicas": 0}, **with_pod(serviceAccountName="another")
        )
    )
    metadata = ["annotate", "--as=writer", "modeldeployment/theirs", "a=b"]
    place(*metadata)
    scaling = json.dumps({"spec": {"scaling": {"maxReplicas": 2}}})
    patched = place.run(
        *("patch", "--as=writer", "modeldeployment", "theirs", "--type=merge", "-p", scaling)
    )
    assert "ServiceAccount" in patched.stderr
    place("delete", "modeldeployment", "theirs")

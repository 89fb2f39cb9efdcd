"""A worker's pod with TLS: how it gets a certificate, and by which name gateways find it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.cluster.observing import observed_worker
from modelfleet_operator.cluster.pod_tls import AUTHORITIES, ISSUER, TOKEN, WorkerTls
from modelfleet_operator.cluster.pods import (
    PodSettings,
    pod_template,
    template_problems,
    template_refusal,
    template_revision,
    worker_pod,
)
from modelfleet_proto.mtls.names import Identity, Role

OWNER = {"name": "smol", "namespace": "team", "uid": "owner"}
PLAIN = PodSettings(image="worker:1")
SETTINGS = replace(PLAIN, tls=WorkerTls("mf-operator.mf.svc:9093"))


def deployment(**spec: Any) -> ModelDeployment:
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {"model": {"source": "hf://owner/name"}, **spec},
        }
    )


def pod(settings: PodSettings = SETTINGS, bundle: bytes = b"PEM") -> Any:
    template = pod_template(deployment(), settings)
    assert template_refusal(template, settings) == ""
    made = worker_pod(OWNER, template, revision="abc", ordinal=0, bundle=bundle)
    made["metadata"] |= {"uid": "u", "creationTimestamp": "2026-11-21T17:00:00Z"}
    return {**made, "status": {"podIP": "fd00::7"}}


def variables(made: Any) -> dict[str, str]:
    return {v["name"]: v.get("value", "") for v in made["spec"]["containers"][0]["env"]}


def test_it_shows_a_token_that_is_for_the_operator_only():
    made = pod()
    sources = [v["projected"]["sources"] for v in made["spec"]["volumes"] if "projected" in v]
    ((source,),) = sources
    assert source["serviceAccountToken"]["audience"] == "modelfleet"
    assert made["spec"]["automountServiceAccountToken"] is False
    found = variables(made)
    assert (found[ISSUER], found[AUTHORITIES]) == ("mf-operator.mf.svc:9093", "PEM")
    mounts = {m["mountPath"] for m in made["spec"]["containers"][0]["volumeMounts"]}
    assert any(found[TOKEN].startswith(f"{path}/") for path in mounts)


def test_gateways_find_it_by_its_uid_at_the_port_with_tls():
    worker = observed_worker(pod())
    assert worker is not None
    identity = Identity(role=Role.WORKER, namespace="team", pod="smol-abc-0", uid="u")
    assert worker.tls_name == identity.server_name
    assert (worker.tls_address, worker.address) == ("[fd00::7]:9001", "[fd00::7]:9000")


def test_other_authorities_are_no_other_revision_and_tls_is_one():
    template = pod_template(deployment(), SETTINGS)
    assert "PEM" not in str(template)
    assert template_revision(template) != template_revision(pod_template(deployment(), PLAIN))


@pytest.mark.parametrize(
    ("settings", "bundle"),
    [
        pytest.param(PLAIN, b"PEM", id="a revision without"),
        pytest.param(SETTINGS, b"", id="a revision with it, after it was turned off"),
    ],
)
def test_a_worker_without_tls_is_found_where_it_always_was(settings: PodSettings, bundle: bytes):
    made = pod(settings, bundle)
    worker = observed_worker(made)
    assert worker is not None
    assert (worker.tls_name, worker.tls_address) == ("", "")
    assert not variables(made).keys() & {ISSUER, AUTHORITIES}


def test_a_pod_template_may_not_say_where_certificates_come_from():
    env = [{"name": ISSUER, "value": "evil:1"}, {"name": AUTHORITIES, "value": "x"}]
    template = {"spec": {"containers": [{"name": "worker", "env": env}]}}
    for settings in (SETTINGS, PLAIN):
        assert len(template_problems(deployment(podTemplate=template), settings)) == 2

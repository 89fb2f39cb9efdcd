"""Variables of worker pods: the chart's, the list of allowed endpoints, and none in a condition."""

from __future__ import annotations

from typing import Any

import pytest

from cluster_body import KEY, a_body
from kube_cluster import ApiServer
from modelfleet_operator.api.model_deployment import ModelDeployment
from modelfleet_operator.cluster.api import ClusterApi
from modelfleet_operator.cluster.environment import (
    DiscreetGateways,
    plain_values,
    read_variables,
    without_values,
)
from modelfleet_operator.cluster.observing import observed_worker
from modelfleet_operator.cluster.pods import PodSettings, pod_template, template_problems
from modelfleet_operator.decisions.actions import Create
from modelfleet_operator.decisions.observed import Signals, WorkerState, WorkerStats
from modelfleet_operator.decisions.view import ModelView
from modelfleet_operator.errors import PassingError, StartError

LIST = "MODELFLEET_ALLOWED_ENDPOINTS"
SECRET = "hunter2-hunter2"


def deployment(*env: dict[str, Any], **container: Any) -> ModelDeployment:
    worker = {"name": "worker", "env": list(env), **container}
    return ModelDeployment.model_validate(
        {
            "apiVersion": "modelfleet.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smol", "namespace": "team", "uid": "owner"},
            "spec": {
                "model": {"source": "hf://owner/name"},
                "podTemplate": {"spec": {"containers": [worker]}},
            },
        }
    )


def env(manifest: ModelDeployment, **settings: Any) -> list[dict[str, Any]]:
    template = pod_template(manifest, PodSettings(**{"image": "w", **settings}))
    found: list[dict[str, Any]] = template["spec"]["containers"][0]["env"]
    return found


def value(variables: list[dict[str, Any]], name: str) -> str:
    (found,) = [v["value"] for v in variables if v["name"] == name]
    return str(found)


PROXY = {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}


def test_the_charts_variables_reach_every_worker_and_the_users_own_win():
    told = env(deployment(), env=(PROXY,))
    assert PROXY in told
    own = {"name": "HTTPS_PROXY", "value": "http://mine.example"}
    assert value(env(deployment(own), env=(PROXY,)), "HTTPS_PROXY") == "http://mine.example"


def test_the_list_is_always_said_so_that_no_config_map_can_say_it():
    assert value(env(deployment()), LIST) == ""
    listed = env(deployment(), allowed_endpoints=("minio.storage:9000", "10.96.0.9"))
    assert value(listed, LIST) == "minio.storage:9000,10.96.0.9"


def test_what_the_administrator_chose_is_listed_and_what_a_user_chose_is_not():
    told = env(
        deployment({"name": "AWS_ENDPOINT_URL", "value": "http://theirs.svc:1"}),
        hub_endpoint="http://user:pass@hub.svc:8080/path",
        env=(
            {"name": "AWS_ENDPOINT_URL_S3", "value": "https://minio.storage.svc"},
            {"name": "https_proxy", "value": "10.0.0.9:3128"},
            {"name": "HF_HUB_ETAG_TIMEOUT", "value": "60"},
        ),
    )
    assert value(told, LIST) == "hub.svc:8080,minio.storage.svc,10.0.0.9:3128"


def test_a_podtemplate_may_not_list_endpoints():
    ((_, sentence),) = template_problems(
        deployment({"name": LIST, "value": "169.254.169.254"}), PodSettings(image="w")
    )
    assert f"env[{LIST}] is set by Modelfleet" in sentence


@pytest.mark.parametrize("wrong", ["x", "{}", '[{"value": "a"}]', '[{"name": "A", "valeu": "b"}]'])
def test_the_flag_is_a_list_as_a_container_has_it(wrong: str):
    with pytest.raises(StartError, match="--worker-env: expected JSON"):
        read_variables(wrong, "--worker-env")


def test_the_chart_sets_nothing_of_ours():
    with pytest.raises(StartError, match="HOME is set by Modelfleet"):
        read_variables('[{"name": "HOME", "value": "/"}]', "--worker-env")


def test_a_value_in_a_message_becomes_its_name():
    spec = {
        "containers": [
            {"env": [{"name": "KEY", "value": SECRET}, {"name": "N", "value": "16"}]},
            {"env": [{"name": "CERTIFICATE", "value": "-----BEGIN\nMIIabc\n-----END"}]},
        ]
    }
    values = plain_values(spec)
    assert without_values(f"no {SECRET}, 16 times", values) == "no $KEY, 16 times"
    assert without_values("found MIIabc there", values) == "found $CERTIFICATE there"
    assert without_values("nothing of it", values) == "nothing of it"


@pytest.mark.parametrize(
    "message",
    [
        'spec.containers[0].env[5].name: Invalid value: "hunter2-hunter2": a valid name',
        'spec.containers[0].env[5].valueFrom.fieldRef.fieldPath: Invalid value: "hunter2-hunter2"',
        'spec.initContainers[1].envFrom[0].configMapRef.name: Invalid value: "hunter2-hunter2"',
        r'spec.containers[0].env[1].name: Invalid value: "a\"hunter2-hunter2": no',
        "spec.containers[0].env[5].valueFrom: Invalid value: {hunter2-hunter2}: may not",
    ],
)
def test_what_the_api_server_quotes_of_env_is_left_out(message: str):
    told = without_values(message, ())
    assert "hunter2" not in told
    assert told.startswith(message.partition(":")[0])


async def test_a_refusal_that_quotes_a_variable_stands_in_the_condition_without_it(
    api: ApiServer, kubernetes: ClusterApi
):
    worker = {"name": "worker", "env": [{"name": "KEY", "value": SECRET}]}
    body, seen = await a_body(api, kubernetes, podTemplate={"spec": {"containers": [worker]}})
    api.refuse_pods = f'admission webhook "keys" denied the request: KEY={SECRET} is forbidden'
    revision = seen.deployment.revision
    with pytest.raises(PassingError):
        await body.carry_out(Create(f"smol-{revision}-0", revision, 0, "because"), seen)
    again = body.observe(KEY)
    assert again is not None
    assert again.deployment.refusal is not None
    assert again.deployment.refusal.message.endswith("KEY=$KEY is forbidden")


@pytest.mark.parametrize(
    "state",
    [
        {"terminated": {"exitCode": 2, "message": f"no such file: '{SECRET}'"}},
        {"waiting": {"reason": "CreateContainerError", "message": f"bad value {SECRET}"}},
    ],
)
def test_what_a_container_says_stands_in_the_condition_without_it(state: dict[str, Any]):
    status = {
        "phase": "Running",
        "conditions": [{"type": "PodScheduled", "status": "True"}],
        "containerStatuses": [{"name": "worker", "image": "w", "state": state}],
    }
    labels = {"modelfleet.dev/revision": "abc", "modelfleet.dev/ordinal": "0"}
    pod = {
        "metadata": {
            "name": "smol-abc-0",
            "namespace": "team",
            "uid": "u",
            "creationTimestamp": "2026-11-21T17:00:00Z",
            "labels": labels,
        },
        "spec": {"containers": [{"name": "worker", "env": [{"name": "KEY", "value": SECRET}]}]},
        "status": status,
    }
    worker = observed_worker(pod)
    assert worker is not None
    said = worker.failure or (worker.problem.message if worker.problem else "")
    assert "$KEY" in said
    assert SECRET not in said


def test_what_a_worker_says_of_its_load_stands_in_the_condition_without_it():
    class Fleet:
        def signals(self, model: str) -> Signals:
            failed = WorkerStats(state=WorkerState.FAILED, message=f"{model}: no {SECRET}")
            return Signals(stats={"team/a": failed, "team/b": WorkerStats(state=WorkerState.READY)})

        def publish(self, view: ModelView) -> None: ...

        def withdraw(self, model: str) -> None: ...

    discreet = DiscreetGateways(Fleet(), lambda _: {"team/a": (("KEY", SECRET),)})
    assert discreet.signals("m").stats["team/a"].message == "m: no $KEY"
    assert discreet.signals("m").stats["team/b"].message == ""

"""Inside an installation everybody shows a certificate, and who has none is told nothing."""

from __future__ import annotations

import base64
import json

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from installation import Installation
from kube import Kube, eventually, model_deployment
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2, worker_pb2_grpc
from traffic import Traffic


def test_without_a_certificate_there_is_nothing_to_be_had(
    kube: Kube, gateway: str, installation: Installation
):
    kube.apply(model_deployment("secret"))
    kube.wait("Ready", "modeldeployment/secret")
    with Traffic(gateway, f"{kube.namespace}/secret", clients=2) as traffic:
        traffic.wait_for_answers(4)
        (worker,) = kube.workers("secret")
        address = worker["status"]["podIP"]
        with grpc.insecure_channel(f"{address}:9000") as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            assert refused(stub.Drain, worker_pb2.DrainRequest()) == "PERMISSION_DENIED"
            assert refused(stub.GetStats, worker_pb2.StatsRequest()) == "PERMISSION_DENIED"
            health = health_pb2_grpc.HealthStub(channel)  # as the kubelet asks
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1

        # Everybody may know the authorities; it takes a certificate of theirs.
        trusted = authorities(installation)
        assert [x509.load_pem_x509_certificate(trusted)]
        known = grpc.ssl_channel_credentials(trusted)
        name = f"{worker['metadata']['uid']}.{kube.namespace}.worker.modelfleet.internal"
        target = [("grpc.ssl_target_name_override", name)]
        with grpc.secure_channel(f"{address}:9001", known, target) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            assert refused(stub.GetStats, worker_pb2.StatsRequest()) == "UNAVAILABLE"

        leader = installation.leader()["status"]["podIP"]
        target = [("grpc.ssl_target_name_override", "operator.modelfleet.internal")]
        with grpc.secure_channel(f"{leader}:9092", known, target) as channel:
            assert no_view(channel)
        with grpc.insecure_channel(f"{leader}:9090") as channel:
            assert no_view(channel)

        # A new leader issues and serves with the same authorities.
        kube.within(installation.namespace)(
            "delete", "pod", installation.leader()["metadata"]["name"], "--wait=false"
        )
        kube.patch("modeldeployment", "secret", {"spec": {"scaling": {"minReplicas": 2}}})
        eventually("another worker is there", lambda: ready(kube) == 2, 60)
        assert authorities(installation) == trusted
        traffic.wait_for_answers(4)
    traffic.check()


def ready(kube: Kube) -> int:
    return int(kube.model("secret")["status"].get("readyReplicas", 0))


def authorities(installation: Installation) -> bytes:
    """What the operator published, which is no secret, as its Secret has it."""
    system = installation.kube.within(installation.namespace)
    name = f"{installation.release}-tls"
    published = system.get("configmap", name)["data"]["ca.crt"]
    kept = base64.b64decode(system.get("secret", name)["data"]["authorities.json"])
    assert published == "".join(entry["certificate"] for entry in json.loads(kept))
    return published.encode()


def refused(call, request) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return caught.value.code().name


def no_view(channel: grpc.Channel) -> str:
    hello = fleet_pb2.GatewayMessage(hello=fleet_pb2.GatewayHello(gateway_id="nobody"))
    with pytest.raises(grpc.RpcError) as caught:
        next(fleet_pb2_grpc.FleetStub(channel).Connect(iter([hello]), timeout=10))
    return caught.value.code().name

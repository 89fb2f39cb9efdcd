"""`modelfleet explain` on a cluster: through the API server to the replica that leads."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from modelfleet_operator.cluster.explain import fetch_snapshot
from modelfleet_operator.decisions.memory import Memory
from modelfleet_operator.decisions.observed import Observed, Signals
from modelfleet_operator.errors import ExplainError
from modelfleet_operator.explain.service import add_explain
from modelfleet_operator.explain.snapshot import Snapshot
from simulated_fleet import deployment

SNAPSHOT = Snapshot(
    modelfleet="0.1.0",
    now=1000.0,
    observed=Observed(deployment=deployment()),
    signals=Signals(),
    memory=Memory(target=3),
    status=None,
)
POD = {"spec": {"containers": [{"ports": [{"name": "metrics", "containerPort": 9091}]}]}}


@contextlib.asynccontextmanager
async def api_server(tmp_path: Path, *, holder: str = "operator-1@10.0.0.7:9090", **answers):
    """Lease, pod, and the pod's own answers at its proxy path; yields a kubeconfig."""

    def answer(name: str, document: dict):
        async def handle(_: web.Request) -> web.Response:
            status = answers.get(name, 200)
            return web.json_response(
                document if status == 200 else {"message": name}, status=status
            )

        return handle

    operator = web.Application()
    add_explain(operator, {"default/tiny": SNAPSHOT}.get)
    app = web.Application()
    lease = {"spec": {"holderIdentity": holder}}
    app.router.add_get(
        "/apis/coordination.k8s.io/v1/namespaces/system/leases/modelfleet-operator",
        answer("lease", lease),
    )
    pods = "/api/v1/namespaces/system/pods"
    app.router.add_get(f"{pods}/operator-1", answer("pod", POD))
    app.add_subapp(f"{pods}/operator-1:9091/proxy", operator)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": url}}],
                "users": [{"name": "test", "user": {"token": "secret"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    try:
        yield kubeconfig
    finally:
        await runner.cleanup()


async def fetch(kubeconfig: Path, key: str = "default/tiny", lease: str = "modelfleet-operator"):
    return await fetch_snapshot(
        key, kubeconfig=kubeconfig, context=None, namespace="system", lease=lease
    )


async def test_asks_the_replica_that_holds_the_lease(tmp_path):
    async with api_server(tmp_path) as kubeconfig:
        assert await fetch(kubeconfig) == SNAPSHOT


@pytest.mark.parametrize(
    ("server", "asked", "says"),
    [
        pytest.param({}, {"lease": "other"}, "--operator-namespace", id="not installed there"),
        pytest.param({"holder": ""}, {}, "no operator leads", id="nothing leads"),
        pytest.param({"lease": 403}, {}, "403 Forbidden: lease", id="no right to read it"),
        pytest.param({"pod": 404}, {}, "reading pod system/operator-1", id="the leader is gone"),
    ],
)
async def test_says_what_is_missing(tmp_path, server, asked, says):
    async with api_server(tmp_path, **server) as kubeconfig:
        with pytest.raises(ExplainError, match=says):
            await fetch(kubeconfig, **asked)


def test_without_a_fleet_and_without_a_cluster_it_says_so(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}
    done = subprocess.run(
        ["modelfleet", "explain", "tiny"],
        env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no fleet runs here" in done.stderr
    assert "Traceback" not in done.stderr

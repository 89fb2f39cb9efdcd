"""`modelfleet operator` as a process: it begins, it ends on SIGTERM, it says why it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

from kube_cluster import ApiServer, Cluster, eventually


@contextlib.asynccontextmanager
async def operator(*flags: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        "modelfleet",
        "operator",
        "--worker-image=worker:1",
        *flags,
        stdout=PIPE,
        stderr=STDOUT,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: Process) -> tuple[int, str]:
    async with asyncio.timeout(20):
        said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_runs_until_sigterm_and_leaves_the_pods(api: ApiServer, kubeconfig: Path):
    flags = (f"--kubeconfig={kubeconfig}", "--fleet-listen=127.0.0.1:0", "--log-format=json")
    proxy = {"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}
    of_workers = (
        f"--worker-env={json.dumps([proxy])}",
        '--worker-resources={"requests": {"memory": "7Gi"}}',
        "--allowed-endpoint=minio.storage:9000",
    )
    async with operator(*flags, *of_workers, MODELFLEET_LOG_LEVEL="debug") as process:
        await Cluster(api).apply()
        await eventually(api.pods, within=30)
        process.send_signal(signal.SIGTERM)
        code, said = await ended(process)
    assert code == 0, said
    assert "Traceback" not in said
    [pod] = api.running().values()
    (worker,) = pod["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in worker["env"]}
    assert environment["MODELFLEET_LOG_LEVEL"] == "debug"
    assert environment["HTTPS_PROXY"] == proxy["value"]
    allowed = "minio.storage:9000,proxy.example:3128"
    assert environment["MODELFLEET_ALLOWED_ENDPOINTS"] == allowed
    assert worker["resources"]["requests"] == {"cpu": "500m", "memory": "7Gi"}
    lines = [json.loads(line) for line in said.splitlines()]  # kopf's own, too
    assert "plan: create" in [line["event"] for line in lines]
    assert any(line.get("logger", "").startswith("kopf") for line in lines)


async def test_a_port_that_is_taken_is_said_plainly(api: ApiServer, kubeconfig: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with operator(f"--kubeconfig={kubeconfig}", f"--fleet-listen={listen}") as process:
            code, said = await ended(process)
    assert code != 0
    assert f"listen on {listen}" in " ".join(said.split())
    assert "Traceback" not in said


async def test_no_cluster_to_talk_to_is_said_plainly(tmp_path: Path):
    async with operator(KUBECONFIG=str(tmp_path / "none"), HOME=str(tmp_path)) as process:
        code, said = await ended(process)
    assert code != 0
    assert "kubeconfig" in said
    assert "Traceback" not in said

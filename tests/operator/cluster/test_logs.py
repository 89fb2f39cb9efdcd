"""`modelfleet logs` on a cluster: through the API server, of all pods of a deployment."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from aiohttp import web

from modelfleet_operator.cluster.logs import read_logs
from modelfleet_operator.errors import LogsError, StartError

PODS = "/api/v1/namespaces/default/pods"


@contextlib.asynccontextmanager
async def api_server(tmp_path: Path, logs: dict[str, str], status: int = 200):
    """Lists these pods and has their logs; yields a kubeconfig, and what was asked for."""
    asked: list[str] = []

    async def pods(request: web.Request) -> web.Response:
        asked.append(request.query["labelSelector"])
        items = [{"metadata": {"name": name}} for name in logs]
        return web.json_response({"items": items})

    async def log(request: web.Request) -> web.Response:
        asked.append(request.path_qs)
        if status != 200:
            return web.json_response({"message": "pods/log is forbidden"}, status=status)
        return web.Response(text=logs[request.match_info["pod"]])

    app = web.Application()
    app.router.add_get(PODS, pods)
    app.router.add_get(PODS + "/{pod}/log", log)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = tmp_path / "kubeconfig"
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": {"server": server}}],
                "users": [{"name": "test", "user": {"token": "secret"}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    try:
        yield kubeconfig, asked
    finally:
        await runner.cleanup()


async def shown(kubeconfig: Path, *, tail: int = 5, follows: bool = False) -> list[tuple[str, str]]:
    lines = read_logs(
        "default/tiny", kubeconfig=kubeconfig, context=None, tail=tail, follows=follows
    )
    return [line async for line in lines]


@pytest.mark.parametrize("follows", [False, True])
async def test_shows_the_workers_lines_of_every_pod(tmp_path: Path, follows: bool):
    logs = {"tiny-a-0": "one\ntwo\n", "tiny-a-1": "no newline"}
    async with api_server(tmp_path, logs) as (kubeconfig, asked):
        found = await shown(kubeconfig, follows=follows)
    assert sorted(found) == [
        ("tiny-a-0", "one"),
        ("tiny-a-0", "two"),
        ("tiny-a-1", "no newline"),
    ]
    assert asked[0] == "modelfleet.dev/deployment=tiny"
    assert all("container=worker" in path and "tailLines=5" in path for path in asked[1:])


@pytest.mark.parametrize("follows", [False, True])
async def test_a_refusal_is_told_in_the_api_servers_words(tmp_path: Path, follows: bool):
    async with api_server(tmp_path, {"tiny-a-0": ""}, status=403) as (kubeconfig, _):
        with pytest.raises(LogsError, match=r"tiny-a-0: 403 .*pods/log is forbidden"):
            await shown(kubeconfig, follows=follows)


async def test_without_a_worker_it_says_who_knows_why(tmp_path: Path):
    async with api_server(tmp_path, {}) as (kubeconfig, _):
        with pytest.raises(LogsError, match="modelfleet explain default/tiny"):
            await shown(kubeconfig)


async def test_without_a_cluster_there_is_nothing_to_ask(tmp_path: Path):
    with pytest.raises(StartError, match="kubeconfig"):
        await shown(tmp_path / "none")

"""The gateway as a process: starting, refusing to start, draining."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from clients import tls
from gateway_doubles import ScriptedWorker, eventually, expected_text
from gateway_processes import GatewayProcess, gateway_process, operator_of

pytestmark = pytest.mark.integration


async def read(gateway: GatewayProcess) -> str:
    stream = await gateway.client.completions.create(
        model="tiny", prompt="p", seed=7, max_tokens=1000, stream=True
    )
    return "".join([chunk.choices[0].text async for chunk in stream])


async def test_sigterm_finishes_what_runs_and_takes_nothing_new(tmp_path):
    worker = ScriptedWorker(tokens=40, pace=0.02)
    async with operator_of(worker) as operator, gateway_process(operator, tmp_path) as gateway:
        asked = [asyncio.create_task(read(gateway)) for _ in range(3)]
        await eventually(lambda: worker.running == 3)
        gateway.process.send_signal(signal.SIGTERM)
        refused = False
        while not refused and worker.running:
            try:
                async with httpx.AsyncClient(verify=tls()) as other:
                    answer = await other.get(f"{gateway.url}/readyz")
                    refused = answer.status_code == 503
            except httpx.ConnectError:
                refused = True
        assert refused, "it took new connections while it drained"
        assert await asyncio.gather(*asked) == [expected_text("p", 40)] * 3
        assert await asyncio.wait_for(gateway.process.wait(), 5) == 0


async def test_a_gateway_that_lingers_answers_and_lets_each_client_go(tmp_path):
    worker = ScriptedWorker(tokens=2)
    async with (
        operator_of(worker) as operator,
        gateway_process(operator, tmp_path, "--linger", "1") as gateway,
        httpx.AsyncClient(
            base_url=gateway.url, verify=tls()
        ) as client,  # one connection, kept alive
    ):
        assert "connection" not in (await client.get("/v1/models")).headers
        gateway.process.send_signal(signal.SIGTERM)

        async def told_to_go() -> bool:
            answer = await client.get("/v1/models")
            assert answer.status_code == 200
            return answer.headers.get("connection") == "close"

        while not await told_to_go():
            pass
        assert (await client.get("/v1/models")).status_code == 200, "a new connection is taken"
        assert (await client.get("/readyz")).status_code == 503
        assert await asyncio.wait_for(gateway.process.wait(), 5) == 0


async def test_the_drain_timeout_ends_what_still_runs_with_an_error(tmp_path):
    worker = ScriptedWorker(tokens=100_000, pace=0.01)
    async with (
        operator_of(worker) as operator,
        gateway_process(operator, tmp_path, "--drain-timeout", "0.3") as gateway,
    ):
        asked = asyncio.create_task(
            gateway.client.completions.create(model="tiny", prompt="p", max_tokens=9**9)
        )
        streamed = asyncio.create_task(read(gateway))
        await eventually(lambda: worker.running == 2)
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.InternalServerError, match="drain timeout"):
            await asked
        with pytest.raises(openai.APIError, match="drain timeout"):
            await streamed
        assert await asyncio.wait_for(gateway.process.wait(), 8) == 0
        await eventually(lambda: not worker.running)


@pytest.mark.parametrize("flags", [("-v",), ()])
async def test_verbose_tells_each_request(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], flags: tuple[str, ...]
):
    async with (
        operator_of(ScriptedWorker(tokens=2)) as operator,
        gateway_process(operator, tmp_path, "--log-format=json", *flags) as gateway,
    ):
        asked = await gateway.client.completions.with_raw_response.create(model="tiny", prompt="p")
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(gateway.process.wait(), 5) == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    request = [line for line in lines if line.get("request") == asked.headers["x-request-id"]]
    assert "listening" in [line["event"] for line in lines]
    if not flags:
        assert request == []
        return
    assert [line["event"] for line in request] == ["queued", "dispatched", "answered"]
    assert all(line["level"] == "debug" and line["seconds"] >= 0 for line in request)
    assert request[1]["worker"] == asked.headers["x-modelfleet-worker"]
    assert request[2]["status"] == 200


async def test_metrics_have_a_port_of_their_own(tmp_path):
    at = tmp_path / "metrics.address"
    flags = ("--metrics-listen", "127.0.0.1:0", "--metrics-address-file", str(at))
    async with (
        operator_of(ScriptedWorker(tokens=2)) as operator,
        gateway_process(operator, tmp_path, *flags) as gateway,
        httpx.AsyncClient(base_url=f"http://{at.read_text()}", verify=tls()) as probes,
    ):
        await gateway.client.completions.create(model="tiny", prompt="p")
        text = (await probes.get("/metrics")).text
        assert 'modelfleet_gateway_requests_total{code="200",model="default/tiny"} 1.0' in text
        for path in ("/healthz", "/readyz"):
            assert (await probes.get(path)).status_code == 200
            assert (await gateway.http.get(path)).status_code == 200
        assert (await gateway.http.get("/metrics")).status_code == 404
        long = await probes.get("/" + "x" * 9000)
        assert (long.status_code, long.json()["error"]["code"]) == (404, "unknown_url")
        assert (await probes.get("/v1/models")).status_code == 404


async def test_a_port_that_is_taken_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = await asyncio.to_thread(start, "--listen", address, "--operator", "127.0.0.1:1")
    assert started.returncode == 1
    assert started.stderr == (
        f"modelfleet gateway: cannot listen on {address}: Address already in use. "
        "Choose another address or port with --listen.\n"
    )


def test_a_wrong_address_is_one_clear_line():
    started = start("--listen", "8080", "--operator", "127.0.0.1:1")
    assert started.returncode == 2
    assert started.stderr.count("\n") == 1
    assert "'--listen': expected HOST:PORT" in started.stderr


def test_a_wrong_origin_is_a_usage_error():
    started = start("--operator", "127.0.0.1:1", "--cors-origin", "chat.example.com")
    assert started.returncode == 2
    assert "expected an origin" in started.stderr


def test_help_is_quick_and_imports_no_torch():
    began = time.monotonic()
    shown = start("--help")
    assert time.monotonic() - began < 2, "0.3 s on an idle machine"
    assert "--drain-timeout" in shown.stdout
    imports = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import modelfleet_gateway.main"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in imports.splitlines()}
    assert "modelfleet_gateway" in loaded
    assert not loaded & {"torch", "transformers", "kubernetes", "kopf"}


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelfleet_gateway", *flags],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel call is Linux's")
async def test_dies_with_its_parent(tmp_path):
    address = tmp_path / "address"
    command = [
        *(sys.executable, "-m", "modelfleet_gateway", "--die-with-parent"),
        *("--listen", "127.0.0.1:0", "--operator", "127.0.0.1:1", "--address-file", str(address)),
    ]
    code = f"import subprocess; p = subprocess.Popen({command}); print(p.pid, flush=True); p.wait()"
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    child = psutil.Process(int(await parent.stdout.readline()))
    await eventually(address.exists, within=20)
    parent.kill()
    await parent.wait()
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

"""Gateways as processes, with an operator and workers that do what a test says."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai

from clients import openai_client, tls
from gateway_doubles import OperatorDouble, ScriptedWorker, eventually, model_view


@dataclass
class GatewayProcess:
    process: asyncio.subprocess.Process
    url: str
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient


@contextlib.asynccontextmanager
async def gateway_process(
    operator: OperatorDouble, folder: Path, *flags: str
) -> AsyncIterator[GatewayProcess]:
    """A gateway that is ready; it is killed in the end if it still runs."""
    address = folder / "gateway.address"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "modelfleet_gateway", "--listen", "127.0.0.1:0", "--operator", operator.address),
        *("--address-file", str(address), "--die-with-parent", *flags),
    )
    try:
        await eventually(address.exists, within=20)
        url = f"http://{address.read_text()}"
        async with (
            openai_client(url) as client,
            httpx.AsyncClient(base_url=url, verify=tls()) as http,
        ):
            deadline = time.monotonic() + 10
            while (await http.get("/readyz")).status_code != 200:
                assert time.monotonic() < deadline
            yield GatewayProcess(process, url, client, http)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def operator_of(*workers: ScriptedWorker) -> AsyncIterator[OperatorDouble]:
    for worker in workers:
        await worker.start()
    operator = OperatorDouble()
    await operator.start()
    operator.view.models.append(model_view(*workers))
    yield operator
    await operator.stop()
    for worker in workers:
        await worker.kill()

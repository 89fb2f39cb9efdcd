"""HTTPS at the door: what clients see, before and after the files change."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from certificates import self_signed
from gateway_doubles import DEFAULTS, ScriptedWorker, eventually, expected_text, running_fleet
from modelfleet_gateway.errors import StartupError
from modelfleet_gateway.http import door
from modelfleet_gateway.http.door import Door
from modelfleet_gateway.options import DoorCertificate
from modelfleet_proto.mtls.keys import key_pem, new_key


def trusting(files: DoorCertificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files.certificate))


async def shown(port: int) -> str:
    """The name in the certificate that a new connection gets."""
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anything)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    return str(name.value)


async def test_a_new_certificate_is_shown_and_open_connections_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(door, "PAUSE", 0.02)
    files = self_signed(tmp_path, "first")
    gate = asyncio.Event()

    async def at_the_third(_context, _request, position: int) -> None:
        if position == 3:
            await gate.wait()

    worker = ScriptedWorker(before_token=at_the_third)
    body = {"model": "tiny", "prompt": "p", "seed": 7}
    async with running_fleet(worker, options=replace(DEFAULTS, door=files)) as fleet:
        port = httpx.URL(fleet.url).port
        assert port is not None
        url = f"https://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, verify=trusting(files), timeout=30) as client:
            assert (await client.get("/healthz")).status_code == 200
            running = asyncio.create_task(client.post("/v1/completions", json=body))
            await eventually(lambda: worker.running == 1)
            assert await shown(port) == "first"

            files.key.write_bytes(b"half written")
            await asyncio.sleep(0)
            assert await shown(port) == "first"
            self_signed(tmp_path, "second")
            async with asyncio.timeout(10):
                while await shown(port) != "second":
                    await asyncio.sleep(0.02)
            gate.set()
            answer = (await running).json()
        assert answer["choices"][0]["text"] == expected_text("p", 8)

        with pytest.raises(httpx.TransportError):  # plain HTTP is not served beside it
            async with httpx.AsyncClient(base_url=fleet.url, trust_env=False) as plain:
                await plain.get("/healthz")


def test_what_is_no_certificate_with_its_key_is_said_at_the_start(tmp_path: Path):
    files = self_signed(tmp_path, "first")
    files.key.write_bytes(key_pem(new_key()))
    with pytest.raises(StartupError, match="--tls-certificate"):
        Door(files)
    files.key.unlink()
    with pytest.raises(StartupError, match="--tls-key"):
        Door(files)

"""The operator's HTTP ports: what is no request is a 400, and no traceback in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from prometheus_client import CollectorRegistry

from modelfleet_operator.cluster.probes import probes
from modelfleet_operator.explain.service import serve_explain


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        writer.write(request)
        return await reader.read(100)


@pytest.mark.parametrize("port", ["metrics", "explain"])
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", id="a long line"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", id="a long header"),
        pytest.param(b"GET / HTTP/9.9.9\r\n\r\n", id="no version"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
    ],
)
async def test_what_is_no_request_is_a_400_and_nothing_in_the_log(
    port: str, request_: bytes, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    if port == "metrics":
        listen = f"127.0.0.1:{unused_tcp_port}"
        async with probes(listen, CollectorRegistry(), lambda: True, lambda _: "none"):
            answer = await ask(unused_tcp_port, request_)
    else:
        async with serve_explain(lambda _: "none") as address:
            answer = await ask(int(address.rpartition(":")[2]), request_)
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert caplog.records == []

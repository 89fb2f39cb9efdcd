"""The HTTP server of snapshots, and of an operator's metrics."""

import asyncio

import pytest

from modelfleet_operator.explain.service import serve_explain


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", id="a long line"),
        pytest.param(
            b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 9000 + b"\r\n\r\n", id="a header"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", id="no length"),
    ],
)
async def test_what_is_no_http_is_a_400_without_a_traceback(
    sent: bytes, caplog: pytest.LogCaptureFixture
):
    async with serve_explain(lambda key: f"no {key}") as address, asyncio.timeout(20):
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]

"""HTTP as bytes: what well-behaved clients never send, and answers that they would hide."""

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

TIMEOUT = 20  # seconds; what never comes fails


@dataclass
class RawAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in OpenAI's shape; anything else fails."""
        assert self.headers["content-type"] == "application/json", self
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"]
        return dict(error)


def parse(raw: bytes) -> RawAnswer:
    """One answer, its body as it came."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return RawAnswer(int(status_line.split()[1]), {n.lower(): v for n, _, v in pairs}, body)


async def connect(
    url: str, *, receive_buffer: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to http://HOST:PORT; with a small receive buffer it is soon full."""
    host, port = url.removeprefix("http://").split(":")
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    return await asyncio.open_connection(sock=sock, limit=2**16)


async def until_closed(url: str, data: bytes) -> bytes:
    """Sends all of `data` first; then what the server wrote until it ended the connection."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await connect(url)
        writer.write(data)
        await writer.drain()
        raw = await reader.read()
        writer.close()
        return raw


async def ask(url: str, data: bytes) -> RawAnswer:
    """The only answer of a connection that the server then ends."""
    return parse(await until_closed(url, data))


def request(
    line: str = "POST /v1/completions", *headers: str, body: bytes = b"", version: str = "1.1"
) -> bytes:
    """A request with `Connection: close`, so that `ask` sees its end."""
    lines = [f"{line} HTTP/{version}", "host: gateway", "connection: close", *headers]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body

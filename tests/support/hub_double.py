"""Answers as a Hugging Face hub does, with the faults that a real one has now and then.

What a hub is like otherwise is tested with a real one (see storage_servers.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

SHA = "0123456789abcdef0123456789abcdef01234567"
_CHUNK = 64 << 10


class Hub(http.server.ThreadingHTTPServer):
    """One repository, owner/name; `gated` and private ones need the token."""

    daemon_threads = True

    def __init__(
        self,
        files: dict[str, bytes],
        *,
        token: str = "",
        gated: bool = False,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__((host, 0), HubHandler)
        self.files, self.token, self.gated = files, token, gated
        self.cut_after: int | None = None  # bytes of a body after which the connection breaks, once
        self.pace: float | None = None  # bytes a second
        self.sha: object = SHA  # the commit that it says the branch is at
        self.declared: dict[str, object] = {}  # sizes that are not those of the files
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.sent = 0  # bytes of bodies

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"

    def allows(self, authorization: str | None) -> bool:
        return not self.token or authorization == f"Bearer {self.token}"


class HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        api = re.match(r"/api/models/owner/name/revision/([^/?]+)", self.path)
        check = self.path == "/api/models/owner/name/auth-check"
        file = re.match(rf"/owner/name/resolve/{SHA}/(.+)", self.path)
        if api is None and file is None and not check:
            return self.refuse(404, "RepoNotFound")
        if not hub.allows(self.headers.get("Authorization")):
            if not hub.gated:
                return self.refuse(401, "RepoNotFound")
            if api is None:  # what a gated repository holds can be seen by everyone
                return self.refuse(403, "GatedRepo")
        if check:
            return self.send(b"{}", {}, with_body=with_body)
        if api is not None:
            if api[1] not in ("main", SHA):
                return self.refuse(404, "RevisionNotFound")
            siblings = [
                {"rfilename": n, "size": hub.declared.get(n, len(c))} for n, c in hub.files.items()
            ]
            info: dict[str, object] = {"id": "owner/name", "sha": hub.sha, "siblings": siblings}
            info["gated"] = "auto" if hub.gated else False
            return self.send(json.dumps(info).encode(), {}, with_body=with_body)
        assert file is not None
        return self.send_file(hub.files[file[1]], with_body=with_body)

    def send_file(self, content: bytes, *, with_body: bool) -> None:
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        status = 200
        wanted = self.headers.get("Range")
        if wanted and with_body:
            self.server.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        cut, self.server.cut_after = self.server.cut_after, None
        if with_body and cut is not None and len(content) > cut:
            self.send(content, headers, status=status, with_body=True, cut=cut)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.server.cut_after = cut
        self.send(content, headers, status=status, with_body=with_body)

    def send(
        self,
        content: bytes,
        headers: dict[str, str],
        *,
        with_body: bool,
        status: int = 200,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            with contextlib.suppress(ConnectionError):  # a client that was killed
                self.send_body(content[:cut])

    def send_body(self, content: bytes) -> None:
        for start in range(0, len(content), _CHUNK):
            chunk = content[start : start + _CHUNK]
            self.wfile.write(chunk)
            self.server.sent += len(chunk)
            if self.server.pace is not None:
                time.sleep(len(chunk) / self.server.pace)

    def refuse(self, status: int, code: str) -> None:
        self.send(b"", {"X-Error-Code": code}, status=status, with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()

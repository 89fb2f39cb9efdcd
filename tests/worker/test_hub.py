"""Downloads from a server that answers as the Hugging Face hub does, on loopback."""

import contextlib
import errno
import hashlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfleet_worker.errors import LoadCancelledError, ModelError
from modelfleet_worker.hub import download, wanted_files

SHA = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "onnx/model.safetensors": b"another runtime's",
    "README.md": b"# read me",
}


class Hub(http.server.ThreadingHTTPServer):
    """One repository, owner/name; `gated` and `private` need the token."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], *, token: str = "", gated: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files, self.token, self.gated = files, token, gated
        self.cut_after: int | None = None  # bytes of weights after which the connection breaks
        self.requests: list[str] = []
        self.ranges: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


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
        file = re.match(rf"/owner/name/resolve/{SHA}/(.+)", self.path)
        if api is None and file is None:
            return self.refuse(404, "RepoNotFound")
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            if not hub.gated:
                return self.refuse(401, "RepoNotFound")
            if file is not None:  # what a gated repository holds can be seen by everyone
                return self.refuse(403, "GatedRepo")
        if api is not None:
            if api[1] not in ("main", SHA):
                return self.refuse(404, "RevisionNotFound")
            siblings = [{"rfilename": n, "size": len(c)} for n, c in hub.files.items()]
            info = {"id": "owner/name", "sha": SHA, "siblings": siblings}
            return self.send(json.dumps(info).encode(), {}, with_body=with_body)
        assert file is not None
        content = hub.files[file[1]]
        return self.send_file(content, with_body=with_body)

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
            self.wfile.write(content[:cut])
            self.wfile.flush()

    def refuse(self, status: int, code: str) -> None:
        self.send(b"", {"X-Error-Code": code}, status=status, with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))


def fetch(
    hub: Hub | str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    repository: str = "owner/name",
    revision: str = "main",
    report=lambda phase, share: None,
) -> Path:
    monkeypatch.setenv("HF_ENDPOINT", hub if isinstance(hub, str) else hub.url)
    return download(repository, revision, report, cache_dir=tmp_path / "cache")


def test_downloads_only_what_a_worker_reads(tmp_path, monkeypatch):
    with serve(Hub(FILES)) as hub:
        folder = fetch(hub, tmp_path, monkeypatch)
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_reports_bytes_up_to_the_end(tmp_path, monkeypatch):
    shares: list[float] = []
    with serve(Hub(FILES)) as hub:
        fetch(hub, tmp_path, monkeypatch, report=lambda phase, share: shares.append(share))
        assert shares[0] == 0
        assert shares[-1] == 1
        assert max(shares) <= 1
        shares.clear()
        fetch(hub, tmp_path, monkeypatch, report=lambda phase, share: shares.append(share))
        assert shares[-1] == 1  # all of it was in the cache


def test_sends_the_token(tmp_path, monkeypatch):
    with serve(Hub(FILES, token="secret")) as hub:
        monkeypatch.setenv("HF_TOKEN", "secret")
        assert fetch(hub, tmp_path, monkeypatch).is_dir()


def test_a_broken_connection_goes_on_where_it_stopped(tmp_path, monkeypatch):
    large = WEIGHTS * 12  # huggingface_hub keeps chunks of 10 MB
    with serve(Hub({"model.safetensors": large})) as hub:
        hub.cut_after = 11_000_000
        folder = fetch(hub, tmp_path, monkeypatch)
        assert (folder / "model.safetensors").read_bytes() == large
        assert hub.ranges == ["bytes=10485760-"] or hub.ranges == ["bytes=10000000-"]


def test_a_hub_that_is_gone_is_no_problem_once_the_model_is_cached(tmp_path, monkeypatch):
    with serve(Hub(FILES)) as hub:
        folder = fetch(hub, tmp_path, monkeypatch)
    assert fetch(hub.url, tmp_path, monkeypatch) == folder


@pytest.mark.parametrize(
    ("hub", "asked", "message"),
    [
        pytest.param(Hub(FILES), {"repository": "owner/other"}, "does not exist", id="missing"),
        pytest.param(Hub(FILES), {"revision": "v9"}, "v9.*no such revision", id="revision"),
        pytest.param(Hub(FILES, token="t"), {}, "private.*HF_TOKEN", id="private"),
        pytest.param(Hub(FILES, token="t", gated=True), {}, "gated.*HF_TOKEN", id="gated"),
        pytest.param(
            Hub({"config.json": b"{}", "pytorch_model.bin": b""}), {}, "pickled", id="pickle"
        ),
        pytest.param(Hub({"config.json": b"{}"}), {}, "safetensors", id="no weights"),
    ],
)
def test_says_what_is_wrong_and_what_to_do(hub, asked, message, tmp_path, monkeypatch):
    with serve(hub), pytest.raises(ModelError, match=message):
        fetch(hub, tmp_path, monkeypatch, **asked)
    assert not any(request.startswith("GET /owner") for request in hub.requests)


def test_an_unreachable_hub_is_named(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ModelError, match=f"{address}.*cannot be reached.*HF_ENDPOINT"):
        fetch(address, tmp_path, monkeypatch)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(phase: str, share: float) -> None:
        if share > 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    with serve(Hub(FILES)) as hub, pytest.raises(ModelError, match=r"disk is full.*HF_HOME"):
        fetch(hub, tmp_path, monkeypatch, report=full)


def test_a_cancelled_load_stops_downloading(tmp_path, monkeypatch):
    def cancelled(phase: str, share: float) -> None:
        if share > 0:
            raise LoadCancelledError

    with serve(Hub(FILES)) as hub, pytest.raises(LoadCancelledError):
        fetch(hub, tmp_path, monkeypatch, report=cancelled)


def test_a_vendors_second_copy_of_the_weights_is_left_out():
    names = ["model-00001-of-00002.safetensors", "consolidated.safetensors", "params.json"]
    assert wanted_files(names) == ["model-00001-of-00002.safetensors", "params.json"]
    assert wanted_files(["consolidated.safetensors"]) == ["consolidated.safetensors"]

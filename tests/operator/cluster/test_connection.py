"""The client of the API server: what of its surroundings it heeds."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes.aio import client

from modelfleet_operator.cluster.connection import Client, load_configuration, proxy_of_environment


class _ApiServer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"groupVersion": self.headers["Authorization"], "resources": []})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name there
        pass


@pytest.fixture
def api_server() -> Iterator[str]:
    """The URL of one that answers with what Authorization said."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ApiServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


async def test_a_netrc_entry_for_the_api_server_is_not_taken_for_credentials(
    api_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    kubeconfig = tmp_path / "kubeconfig"
    named = {
        "clusters": [{"name": "c", "cluster": {"server": api_server}}],
        "users": [{"name": "u", "user": {"token": "our-token"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    kubeconfig.write_text(yaml.safe_dump(named))
    configuration = await load_configuration(kubeconfig)
    async with Client(
        configuration, may_write=lambda: None, answered=lambda *_: None
    ) as api_client:
        told = await client.CustomObjectsApi(api_client).get_api_resources("a.b", "v1")
    assert told.group_version == "Bearer our-token"


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://10.0.0.1:6443", "http://proxy:3128"),
        ("http://10.0.0.1:8080", None),
        ("https://api.inside.example:6443", None),
        ("", None),
    ],
)
def test_the_proxy_is_the_environments(
    url: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "http_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxy_of_environment(url) == proxy

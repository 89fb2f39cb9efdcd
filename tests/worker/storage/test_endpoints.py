"""Which addresses models are fetched from, and what is said of those that are not (guard 25)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from answering import Answer, Answering, answering, redirect, send
from hub_double import Hub, serve_hub
from modelfleet_worker.errors import ModelError
from modelfleet_worker.storage.cache import Cache
from modelfleet_worker.storage.endpoints import VARIABLE, AllowedEndpoints, is_public
from modelfleet_worker.storage.fetching import fetch_model
from modelfleet_worker.storage.hub import HubModel
from modelfleet_worker.storage.oci import ArtifactModel
from modelfleet_worker.storage.remote import Remote
from modelfleet_worker.storage.s3 import BucketModel

REST = {"config.json": b"{}", "tokenizer.json": b"{}"}
SECRET = "hunter2-of-another-tenant"
REFUSED = "loopback, link-local or private.*MODELFLEET_ALLOWED_ENDPOINTS"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("64:ff9b::5db8:d822", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.96.0.1", False),
        ("172.20.0.10", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a00:1::", False),
        ("::127.0.0.1", False),
        ("nonsense", False),
    ],
)
def test_tells_addresses_of_the_internet_from_others(address: str, public: bool):
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("listed", "host", "port", "allowed"),
    [
        (None, "anything", 80, True),
        ("", "minio.storage", 9000, False),
        ("minio.storage", "minio.storage", 9000, True),
        ("minio.storage:9000", "Minio.Storage.", 9000, True),
        ("minio.storage:9000", "minio.storage", 9001, False),
        ("minio.storage", "minio.storage.evil.example", 9000, False),
        ("a:1, 10.0.0.5:443 ,[fd00::1]:443", "10.0.0.5", 443, True),
        ("a:1, 10.0.0.5:443 ,[fd00::1]:443", "fd00::1", 443, True),
        ("fd00::1", "fd00::1", 80, True),
        ("http://minio.storage:9000", "minio.storage", 9000, False),
        ("*", "minio.storage", 9000, False),
    ],
)
def test_private_addresses_are_for_listed_endpoints(
    listed: str | None, host: str, port: int, allowed: bool
):
    assert AllowedEndpoints.parse(listed).allows(host, port, "10.0.0.5") is allowed
    assert AllowedEndpoints.parse(listed).allows(host, port, "93.184.216.34")


@pytest.fixture
def list_endpoints(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def allow(*servers: Answering | Hub) -> None:
        names = [server.url.removeprefix("http://") for server in servers]
        monkeypatch.setenv(VARIABLE, ",".join(names))

    return allow


@pytest.fixture(params=["hf", "s3", "oci"])
def source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Remote]:
    """A source of each kind at a server on this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA0")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-ours")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    for name in ("REGISTRY_AUTH_FILE", "MODELFLEET_PULL_SECRETS", "HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))

    def at(address: str) -> Remote:
        match request.param:
            case "hf":
                monkeypatch.setenv("HF_ENDPOINT", f"http://{address}")
                return HubModel("owner/name", "main")
            case "s3":
                monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
                return BucketModel("models", "tiny")
        return ArtifactModel(address, "models/tiny", "v1")

    return at


def told(remote: Remote, tmp_path: Path) -> str:
    with pytest.raises(ModelError) as error:
        fetch_model(remote, Cache(tmp_path / "cache"), lambda phase, share: None)
    return str(error.value)


def test_what_is_not_listed_is_not_even_connected_to(
    source: Callable[[str], Remote], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(VARIABLE, "")
    with answering(send(b"{}")) as server:
        message = told(source(server.address), tmp_path)
        assert "loopback, link-local or private" in message
        assert VARIABLE in message
        assert server.connections == 0


def test_what_is_listed_is_asked(
    source: Callable[[str], Remote], tmp_path: Path, list_endpoints: Callable[..., None]
):
    with answering(send(b"nothing here", 404)) as server:
        list_endpoints(server)
        assert "loopback" not in told(source(server.address), tmp_path)
        assert server.requests


def test_a_redirect_to_what_is_not_listed_is_not_followed(
    source: Callable[[str], Remote], tmp_path: Path, list_endpoints: Callable[..., None]
):
    with (
        answering(send(SECRET.encode())) as inside,
        answering(redirect(f"{inside.url}/secret")) as server,
    ):
        list_endpoints(server)
        assert SECRET not in told(source(server.address), tmp_path)
        assert server.requests
        assert inside.connections == 0


def test_a_realm_that_is_not_listed_gets_no_password(
    tmp_path: Path, list_endpoints: Callable[..., None]
):
    with answering(send(b'{"token": "t"}')) as inside:
        challenge = f'Bearer realm="{inside.url}/token",service="s"'
        with answering(send(b"", 401, WWW_Authenticate=challenge)) as server:
            list_endpoints(server)
            remote = ArtifactModel(server.address, "models/tiny", "v1")
            assert "loopback" in told(remote, tmp_path)
            assert inside.connections == 0


def test_a_name_that_changes_its_address_gets_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, looked_up = socket.getaddrinfo, []

    def rebinding(host, *arguments, **options):  # type: ignore[no-untyped-def]
        if host != "rebinding.example":
            return real(host, *arguments, **options)
        looked_up.append(host)
        address = "93.184.216.34" if len(looked_up) == 1 else "127.0.0.1"
        return real(address, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setenv(VARIABLE, "")
    with answering(send(SECRET.encode())) as inside:
        port = inside.server_port
        monkeypatch.setenv("MODELFLEET_INSECURE_REGISTRIES", f"rebinding.example:{port}")
        message = told(ArtifactModel(f"rebinding.example:{port}", "models/tiny", "v1"), tmp_path)
        assert "loopback" in message
        assert len(looked_up) == 2
        assert inside.requests == []


def test_a_proxy_does_not_lead_around_it(tmp_path: Path, list_endpoints, monkeypatch):
    with answering(send(SECRET.encode())) as inside, answering(send(b"{}")) as proxy:
        list_endpoints(proxy)
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        remote = ArtifactModel(inside.address, "models/tiny", "v1")
        assert "loopback" in told(remote, tmp_path)
        assert (inside.requests, proxy.requests) == ([], [])


def speak_no_http(handler) -> None:  # type: ignore[no-untyped-def]
    handler.wfile.write(f"-ERR unknown command {SECRET}\r\n\r\n".encode())


def xml(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(send(SECRET.encode()), id="a page"),
        pytest.param(send(SECRET.encode(), 400), id="an error"),
        pytest.param(send(SECRET.encode(), 401), id="a refusal"),
        pytest.param(send(SECRET.encode(), 404), id="nothing"),
        pytest.param(send(SECRET.encode(), 500), id="a fault"),
        pytest.param(send(json.dumps({SECRET: SECRET}).encode()), id="JSON"),
        pytest.param(send(json.dumps([SECRET]).encode()), id="a JSON list"),
        pytest.param(send(xml(SECRET), 400), id="XML"),
        pytest.param(send(f"<{SECRET}/>".encode()), id="other XML"),
        pytest.param(send(b"", 302, Location=f"http://{SECRET}.invalid/"), id="a redirect"),
        pytest.param(send(b"", 302, Location=f"{SECRET}://x"), id="a redirect to nowhere"),
        pytest.param(send(SECRET.encode(), Content_Encoding="gzip"), id="what is not compressed"),
        pytest.param(send(SECRET.encode(), length=1000), id="a part of it"),
        pytest.param(speak_no_http, id="no HTTP"),
    ],
)
def test_no_byte_of_an_answer_is_in_a_message(
    source: Callable[[str], Remote], answer: Answer, tmp_path: Path
):
    with answering(answer) as server:
        message = told(source(server.address), tmp_path)
    assert SECRET not in message
    assert "secret-of-ours" not in message


def test_a_list_is_read_to_its_limit_and_no_further(
    source: Callable[[str], Remote], tmp_path: Path
):
    sent = []

    def endless(handler) -> None:  # type: ignore[no-untyped-def]
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):  # 200 MiB
            handler.wfile.write(b"x" * (1 << 20))
            sent.append(1)

    with answering(endless) as server:
        assert "expected an answer of at most" in told(source(server.address), tmp_path)
    assert len(sent) < 80


def test_an_answer_that_was_not_asked_to_be_compressed_is_not_unpacked(
    source: Callable[[str], Remote], tmp_path: Path
):
    with answering(send(b"\x1f\x8b", Content_Encoding="gzip")) as server:
        assert "compress" in told(source(server.address), tmp_path)


@pytest.mark.parametrize("version", ["../../evil", "..", ".", "", "a/b", "a\0b", "a" * 201, 7, [1]])
def test_a_hubs_version_names_no_folder_elsewhere(
    version: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hub = Hub({**REST, "model.safetensors": b"x"})
    hub.sha = version
    with serve_hub(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        if version != "":  # then it is the revision's name
            message = told(HubModel("owner/name", "main"), tmp_path)
            assert "expected a version of letters" in message
        with pytest.raises(ModelError, match="expected a version of letters"):
            Cache(tmp_path).entry("hf://owner/name", version)  # type: ignore[arg-type]


def test_a_hub_sends_no_more_than_it_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = Hub({**REST, "model.safetensors": b"x" * (1 << 20)})
    hub.declared = {"model.safetensors": 1000}
    with serve_hub(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        message = told(HubModel("owner/name", "main"), tmp_path)
    assert "expected 1000 bytes of model.safetensors, found more" in message
    assert not list(tmp_path.rglob("model"))


@pytest.mark.parametrize("size", [-1, "7", 1.5, None])
def test_a_hub_declares_sizes_in_bytes(size: object, tmp_path: Path, monkeypatch):
    hub = Hub({**REST, "model.safetensors": b"x"})
    hub.declared = {"model.safetensors": size}
    with serve_hub(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        if size is None:  # then it is asked for
            fetch_model(HubModel("owner/name", "main"), Cache(tmp_path), lambda *_: None)
        else:
            assert "bytes" in told(HubModel("owner/name", "main"), tmp_path)


def test_a_registry_sends_no_more_than_it_declared(tmp_path: Path):
    content = b"x" * (1 << 20)
    layers = [
        {
            "mediaType": "x",
            "digest": f"sha256:{'0' * 64}",
            "size": 1000,
            "annotations": {"org.opencontainers.image.title": name},
        }
        for name in ("model.safetensors", *REST)
    ]
    manifest = json.dumps({"layers": layers}).encode()

    def answer(handler) -> None:  # type: ignore[no-untyped-def]
        send(manifest if "/manifests/" in handler.path else content)(handler)

    with answering(answer) as server:
        message = told(ArtifactModel(server.address, "models/tiny", "v1"), tmp_path)
    assert "expected 1000 bytes, found more" in message
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 2000]

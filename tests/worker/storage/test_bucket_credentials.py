"""Where credentials for S3 are asked for: not at what the administrator did not list (guard 25)."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from answering import Answer, Answering, answering, send
from modelfleet_worker.errors import ModelError
from modelfleet_worker.storage.endpoints import VARIABLE
from modelfleet_worker.storage.s3 import BucketModel

KEYS = json.dumps(
    {
        "Code": "Success",
        "AccessKeyId": "AKIA0",
        "SecretAccessKey": "secret",
        "Token": "t",
        "Expiration": "2099-01-01T00:00:00Z",
    }
).encode()

Ways = Callable[[Answering], None]


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those that a test configures; the store itself is nowhere."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")


def metadata(handler) -> None:  # type: ignore[no-untyped-def]
    """The node's metadata service: a role, then its keys."""
    is_list = handler.path.endswith("/security-credentials/")
    send(b"a-role" if is_list else KEYS)(handler)


def by_metadata(server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)


def by_metadata_of_a_profile(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_metadata(server, tmp_path, monkeypatch)
    (tmp_path / "AWS_CONFIG_FILE").write_text(
        "[default]\nrole_arn = arn:aws:iam::1:role/r\ncredential_source = Ec2InstanceMetadata\n"
    )


def by_container(server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/v1/credentials")


def by_region(server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_metadata(server, tmp_path, monkeypatch)
    monkeypatch.setenv("AWS_DEFAULTS_MODE", "auto")


def by_sts(server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("a token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)


def ask() -> str:
    """What is said when a model is looked for: the store is never there."""
    with pytest.raises(ModelError) as error:
        BucketModel("models", "tiny").list()
    return str(error.value)


@pytest.mark.parametrize(
    ("way", "answer"),
    [
        pytest.param(by_metadata, metadata, id="the node's metadata"),
        pytest.param(by_metadata_of_a_profile, metadata, id="the same, for a profile"),
        pytest.param(by_container, send(KEYS), id="a container's credentials"),
        pytest.param(by_sts, send(b"<x/>", 403), id="STS"),
        pytest.param(by_region, metadata, id="the region"),
    ],
)
def test_no_service_is_asked_for_credentials_that_is_not_listed(
    way: Callable[..., None], answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with answering(answer) as server:
        way(server, tmp_path, monkeypatch)
        monkeypatch.setenv(VARIABLE, "127.0.0.1:9")
        said = ask()
        assert server.connections == 0
        assert server.address not in said

        monkeypatch.setenv(VARIABLE, f"127.0.0.1:9,{server.address}")
        ask()
        assert server.connections > 0, "listed, it is asked"


def test_without_a_list_the_nodes_role_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with answering(metadata) as server:
        by_metadata(server, tmp_path, monkeypatch)
        assert "the store cannot be reached" in ask()
        assert server.requests


def test_who_has_no_credentials_is_told_what_to_list(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "")
    said = ask()
    assert "there are no credentials" in said
    assert "169.254.170.23" in said


def test_nothing_is_sent_about_the_calls(monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        monkeypatch.setenv("AWS_CSM_ENABLED", "true")
        monkeypatch.setenv("AWS_CSM_HOST", "127.0.0.1")
        monkeypatch.setenv("AWS_CSM_PORT", str(listener.getsockname()[1]))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA0")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.delenv(VARIABLE, raising=False)
        ask()
        assert listener.recv(65536), "botocore sends them where nothing is restricted"
        while True:
            try:
                listener.recv(65536)
            except BlockingIOError:
                break
        monkeypatch.setenv(VARIABLE, "127.0.0.1:9")
        ask()
        with pytest.raises(BlockingIOError):
            listener.recv(65536)

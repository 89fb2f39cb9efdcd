"""oci:// models, from the distribution project's registry, pushed by the oras client."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import oras.client
import oras.oci
import pytest

from artifacts import archive, push, put_manifest, titled
from modelfleet_worker.errors import ModelError
from modelfleet_worker.storage.cache import Cache
from modelfleet_worker.storage.fetching import fetch_model
from modelfleet_worker.storage.names import safe_name
from modelfleet_worker.storage.oci import ArtifactModel, read_layers
from modelfleet_worker.storage.registry import find_login
from modelfleet_worker.storage.sources import model_folder
from modelfleet_worker.storage.unpacking import unpack
from storage_servers import Server, find_registry, oci_registry
from token_server import token_server

WEIGHTS = bytes(range(256)) * 40_000  # 10 MB
REST = {"config.json": b"{}", "tokenizer.json": b"{}"}
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
}
# Of "tests:secret", by bcrypt.
HTPASSWD = "tests:$2b$04$Hidu6AI9/JBKEbOIZhFiBumoBeme0IRR.UzL6PY4jhFFTmxJTyiD2"


def require_registry() -> None:
    """`make cluster` installs it, so e2e always has it."""
    if find_registry() is None:
        pytest.skip("needs the registry of the distribution project (Debian: docker-registry)")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    require_registry()
    with oci_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REGISTRY_AUTH_FILE", "MODELFLEET_PULL_SECRETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def fetch(
    tmp_path: Path,
    server: Server,
    repository: str = "models/smol",
    reference: str = "v1",
    report=lambda phase, share: None,
) -> Path:
    remote = ArtifactModel(server.address, repository, reference)
    return model_folder(fetch_model(remote, Cache(tmp_path / "cache"), report).folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def with_rest(weights: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Layers of a model with these weights."""
    files = {"model.safetensors": weights, **REST}
    return [(content, titled(name)) for name, content in files.items()]


def test_what_oras_pushed_is_fetched(tmp_path: Path, registry: Server, monkeypatch):
    folder = tmp_path / "pushed"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_text("# not for a worker")
    monkeypatch.chdir(folder)
    client = oras.client.OrasClient(hostname=registry.address, insecure=True)
    client.push(
        target=f"{registry.address}/oras/smol:v1", files=[*FILES, "README.md"]
    ).raise_for_status()
    shares: list[float] = []
    fetched = fetch(
        tmp_path, registry, "oras/smol", report=lambda phase, share: shares.append(share)
    )
    assert contents(fetched) == FILES
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert len(set(shares)) > 5


def test_a_folder_that_oras_pushed_is_unpacked(tmp_path: Path, registry: Server, monkeypatch):
    folder = tmp_path / "pushed/smol"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder.parent)
    client = oras.client.OrasClient(hostname=registry.address, insecure=True)
    client.push(target=f"{registry.address}/oras/folder:v1", files=["smol"]).raise_for_status()
    assert contents(fetch(tmp_path, registry, "oras/folder")) == FILES


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param(
            [
                (
                    content,
                    {
                        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
                        "annotations": {"org.cncf.model.filepath": name},
                    },
                )
                for name, content in FILES.items()
            ],
            id="files of a ModelPack",
        ),
        pytest.param(
            [
                (
                    archive({name: content}, "w"),
                    {
                        "mediaType": "application/vnd.cncf.model.weight.v1.tar",
                        "annotations": {"org.cncf.model.filepath": name},
                    },
                )
                for name, content in FILES.items()
            ],
            id="archives of a ModelPack",
        ),
        pytest.param(
            [
                (
                    archive({f"smol/{name}": content for name, content in FILES.items()}),
                    {"mediaType": "application/vnd.kitops.modelkit.model.v1.tar+gzip"},
                )
            ],
            id="a ModelKit",
        ),
        pytest.param(
            [
                (
                    archive({"models/config.json": b"an older one", "etc/passwd": b"root"}),
                    {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"},
                ),
                (
                    archive({f"models/{name}": content for name, content in FILES.items()}),
                    {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"},
                ),
            ],
            id="an image with the model inside",
        ),
    ],
)
def test_reads_what_others_make(tmp_path: Path, registry: Server, layers):
    push(registry, "models/smol:v1", layers)
    assert contents(fetch(tmp_path, registry)) == FILES


def test_a_digest_is_one_content_and_a_tag_is_what_it_is_now(tmp_path: Path, registry: Server):
    first = push(registry, "models/moving:v1", with_rest(b"one"))
    push(registry, "models/moving:v1", with_rest(b"two"))
    at = {
        reference: contents(fetch(tmp_path, registry, "models/moving", reference))
        for reference in (first, "v1")
    }
    assert at == {
        first: {"model.safetensors": b"one", **REST},
        "v1": {"model.safetensors": b"two", **REST},
    }


def test_an_image_for_several_machines_has_one_for_this(tmp_path: Path, registry: Server):
    digest = push(registry, "models/many:here", with_rest(b"mine"))
    attestation = push(registry, "models/many:signed", [(b"x", titled("signature.safetensors"))])

    def entry(digest: str, machine: str) -> dict[str, Any]:
        return {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": 1,
            "platform": {"architecture": machine, "os": "linux"},
        }

    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(attestation, "unknown"), entry(digest, machine)],
    }
    with httpx2.Client(base_url=f"{registry.url}/v2/models/many") as client:
        put_manifest(client, "v1", index)
        put_manifest(client, "v2", index | {"manifests": [entry(attestation, "s390x")]})
    assert contents(fetch(tmp_path, registry, "models/many")) == {
        "model.safetensors": b"mine",
        **REST,
    }
    with pytest.raises(ModelError, match=f"expected an artifact for {machine}, found none"):
        fetch(tmp_path, registry, "models/many", "v2")


def test_goes_on_with_the_bytes_that_a_killed_process_left(tmp_path: Path, registry: Server):
    push(registry, "models/large:v1", with_rest(WEIGHTS))
    remote = ArtifactModel(registry.address, "models/large", "v1")
    partial = Cache(tmp_path / "cache").entry(remote.source, remote.list().version).partial
    partial.mkdir()
    (partial / "model.safetensors.part").write_bytes(WEIGHTS[:9_000_000])
    shares: list[float] = []
    folder = fetch(
        tmp_path, registry, "models/large", report=lambda phase, share: shares.append(share)
    )
    assert contents(folder) == {"model.safetensors": WEIGHTS, **REST}
    assert shares[0] == pytest.approx(9_000_000 / len(WEIGHTS), abs=0.01)


def test_bytes_that_are_not_what_the_digest_says_are_never_used(tmp_path: Path, registry: Server):
    push(registry, "models/large:v1", with_rest(WEIGHTS))
    remote = ArtifactModel(registry.address, "models/large", "v1")
    partial = Cache(tmp_path / "cache").entry(remote.source, remote.list().version).partial
    partial.mkdir()
    (partial / "model.safetensors.part").write_bytes(b"?" * 9_000_000)
    with pytest.raises(ModelError, match="damaged on its way: expected sha256"):
        fetch(tmp_path, registry, "models/large")
    assert not list((tmp_path / "cache").rglob("model"))


@pytest.mark.parametrize(
    ("repository", "reference", "message"),
    [
        ("models/gone", "v1", "not in the registry: check the repository and its tag"),
        ("models/smol", "v9", "not in the registry"),
        ("models/smol", f"sha256:{'0' * 64}", "not in the registry"),
    ],
)
def test_says_what_is_not_there(tmp_path: Path, registry: Server, repository, reference, message):
    with pytest.raises(ModelError, match=rf"^oci://{registry.address}/{repository}.*: .*{message}"):
        fetch(tmp_path, registry, repository, reference)


def test_a_registry_that_is_gone_is_no_problem_once_the_model_is_cached(tmp_path: Path):
    require_registry()
    with oci_registry(tmp_path) as server:
        push(server, "models/smol:v1", with_rest(b"weights"))
        folder = fetch(tmp_path, server)
    assert fetch(tmp_path, server) == folder
    with pytest.raises(ModelError, match="the registry cannot be reached"):
        fetch(tmp_path, server, "models/other")


def docker_config(address: str, login: str) -> str:
    return json.dumps({"auths": {address: {"auth": base64.b64encode(login.encode()).decode()}}})


def test_a_registry_with_passwords_takes_the_pods_pull_secrets(tmp_path: Path, monkeypatch):
    require_registry()
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    auth: dict[str, object] = {"htpasswd": {"realm": "r", "path": str(tmp_path / "htpasswd")}}
    with oci_registry(tmp_path) as server:  # filled before it asks for a login
        push(server, "models/smol:v1", with_rest(b"weights"))
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    monkeypatch.setenv("MODELFLEET_PULL_SECRETS", str(secrets))
    with oci_registry(tmp_path, auth=auth) as server:
        refused = r"registry refuses \(HTTP 401\): name a pull secret"
        with pytest.raises(ModelError, match=refused):
            fetch(tmp_path, server)
        (secrets / "b.json").write_text(docker_config(server.address, "tests:wrong"))
        with pytest.raises(ModelError, match=refused):
            fetch(tmp_path, server)
        (secrets / "a.json").write_text(docker_config(server.address, "tests:secret"))
        (secrets / "b.json").unlink()
        assert contents(fetch(tmp_path, server)) == {"model.safetensors": b"weights", **REST}


def test_a_registry_with_tokens_gives_them_to_those_it_knows(tmp_path: Path, monkeypatch):
    require_registry()
    with oci_registry(tmp_path) as server:
        for repository in ("public/smol", "private/smol"):
            push(server, f"{repository}:v1", with_rest(b"weights"))
    with (
        token_server(tmp_path, "tests:secret") as tokens,
        oci_registry(tmp_path, auth=tokens.auth) as server,
    ):
        assert contents(fetch(tmp_path, server, "public/smol"))  # as most public registries do it
        with pytest.raises(ModelError, match=r"refuses \(HTTP 401\): name a pull secret"):
            fetch(tmp_path, server, "private/smol")
        (tmp_path / "docker").mkdir()
        config = docker_config(f"{server.address}/private", "tests:secret")
        (tmp_path / "docker/config.json").write_text(config)
        given = tokens.given
        assert contents(fetch(tmp_path, server, "private/smol"))
        assert tokens.given == given + 1  # one token for all requests


@pytest.mark.parametrize(
    ("name", "login"),
    [
        pytest.param("r.example/team/a", "team", id="the most exact entry"),
        pytest.param("r.example/teams/a", "host", id="a whole part of the path"),
        pytest.param("old.example/a", "old", id="docker's own spelling"),
        pytest.param("plain.example:5000/a", "user:pass", id="name and password"),
        pytest.param("other.example/a", None, id="none"),
    ],
)
def test_finds_the_login_for_a_repository(tmp_path: Path, monkeypatch, name, login):
    def code(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    entries = {
        "r.example": {"auth": code("host")},
        "r.example/team": {"auth": code("team")},
        "https://old.example/v1/": {"auth": code("old")},
        "plain.example:5000": {"username": "user", "password": "pass"},
        "helped.example": {},
    }
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": entries}))
    assert find_login(name) == (code(login) if login else None)


def test_a_pull_secret_that_is_none_is_passed_over(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MODELFLEET_PULL_SECRETS", str(tmp_path))
    (tmp_path / "a.json").write_text("not json")
    (tmp_path / "b.json").write_text(docker_config("r.example", "a:b"))
    assert find_login("r.example/x") is not None


HOSTILE = ["../x.safetensors", "/etc/x.safetensors", "a/../../x.json", "a\\b.json", "a\nb.json", ""]


@pytest.mark.parametrize("name", [*HOSTILE, ".", ".."])
def test_no_name_leads_out_of_the_folder(name: str):
    with pytest.raises(ModelError, match="outside of its folder"):
        safe_name(name)


@pytest.mark.parametrize("name", HOSTILE[:-1])
def test_an_artifact_with_such_a_name_is_refused_whole(tmp_path: Path, registry: Server, name: str):
    layers = [(b"{}", titled("config.json")), (b"evil", titled(name))]
    push(registry, "hostile/titles:v1", layers)
    with pytest.raises(ModelError, match="outside of its folder"):
        fetch(tmp_path, registry, "hostile/titles")
    packed = archive({"config.json": b"{}", name: b"evil"})
    push(registry, "hostile/tar:v1", [(packed, {"mediaType": "application/x.tar+gzip"})])
    with pytest.raises(ModelError, match="outside of its folder"):
        fetch(tmp_path, registry, "hostile/tar")
    found = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert not [name for name in found if name.startswith(("x.", "b.json", "a\nb"))]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_among_the_models_files_are_refused(tmp_path: Path, kind: bytes):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("model.safetensors")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    (tmp_path / "layer").write_bytes(out.getvalue())
    with pytest.raises(ModelError, match="found a link in the artifact"):
        unpack([tmp_path / "layer"], tmp_path / "model")


def test_a_link_to_a_folder_elsewhere_is_not_followed(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("a")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "elsewhere")
        tar.addfile(link)
        member = tarfile.TarInfo("a/config.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    (tmp_path / "layer").write_bytes(out.getvalue())
    unpack([tmp_path / "layer"], tmp_path / "model")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "model/a/config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param({}, "expected a manifest with layers", id="no layers"),
        pytest.param({"layers": ["x"]}, "expected a manifest with layers", id="no objects"),
        pytest.param(
            {"layers": [{"mediaType": "x", "digest": "md5:0", "size": 1}]},
            "sha256 or sha512",
            id="a weak digest",
        ),
        pytest.param(
            {"layers": [{"mediaType": "a.tar+zstd", "digest": f"sha256:{'0' * 64}", "size": 1}]},
            "found zstd",
            id="a compression that is not read",
        ),
        pytest.param(
            {
                "layers": [
                    {"digest": f"sha256:{'0' * 64}", "size": 1, **titled("pytorch_model.bin")}
                ]
            },
            "pickled",
            id="pickles",
        ),
    ],
)
def test_says_what_is_wrong_with_a_manifest(manifest: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        read_layers(manifest)


def test_a_damaged_archive_is_named(tmp_path: Path):
    (tmp_path / "layer").write_bytes(archive(FILES)[:1000])
    with pytest.raises(ModelError, match="no readable archive"):
        unpack([tmp_path / "layer"], tmp_path / "model")

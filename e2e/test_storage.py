"""Models from every kind of storage, with real weights in real pods of a real cluster."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from artifacts import push, titled
from claims import fill_claim
from cluster.cluster import Cluster
from cluster.layout import HOST_ADDRESS
from hub_double import Hub, serve_hub
from installation import MODELS, TORCH, Installation
from kube import Kube, Object, eventually, model_deployment
from processes import kill_worker
from slow_network import slow_line
from storage_servers import Server, Store, hub_server, oci_registry, s3_server
from tiny_model import write_tiny_model

SMOLLM2 = MODELS / "HuggingFaceTB/SmolLM2-135M-Instruct"
HTPASSWD = "tests:$2b$04$Hidu6AI9/JBKEbOIZhFiBumoBeme0IRR.UzL6PY4jhFFTmxJTyiD2"  # tests:secret
SHOWN = 30.0  # seconds until a fault must show
LOADED = 120.0  # seconds for torch and a few megabytes of weights, on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of this machine, and so of its nodes; readable for the worker's user."""
    folder = tmp_path_factory.mktemp("storage")
    for path in [folder, *folder.parents[:3]]:
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, bytes]:
    """A small Llama of random weights."""
    files = write_tiny_model(folder / "models/tiny", SMOLLM2)
    for path in (folder / "models/tiny").iterdir():
        path.chmod(0o644)
    return files


@pytest.fixture(scope="module")
def store(machine: Cluster, folder: Path, files: dict[str, bytes]) -> Iterator[Store]:
    with s3_server(folder, HOST_ADDRESS) as store:
        client = store.client()
        client.create_bucket(Bucket="models")
        for name, content in files.items():
            client.put_object(Bucket="models", Key=f"tiny/{name}", Body=content)
        yield store


@pytest.fixture(scope="module")
def registry(machine: Cluster, folder: Path, files: dict[str, bytes]) -> Iterator[Server]:
    """Closed to strangers."""
    with oci_registry(folder, HOST_ADDRESS) as open_to_all:
        layers = [(content, titled(name)) for name, content in files.items()]
        push(open_to_all, "models/tiny:v1", layers)
    (folder / "htpasswd").write_text(HTPASSWD)
    auth: dict[str, object] = {"htpasswd": {"realm": "r", "path": str(folder / "htpasswd")}}
    with oci_registry(folder, HOST_ADDRESS, auth) as registry:
        yield registry


@pytest.fixture(scope="module")
def hub(machine: Cluster, folder: Path, files: dict[str, bytes]) -> Iterator[Server]:
    with hub_server(folder, files, HOST_ADDRESS) as hub:
        yield hub


@pytest.fixture(scope="module")
def prepared(installation: Installation, folder: Path) -> Iterator[Installation]:
    """With a cache that the workers of a node share."""
    cache = folder / "node-cache"
    cache.mkdir()
    cache.chmod(0o777)
    paths = [str(path) for path in (TORCH, MODELS, folder)]
    worker = {"hostPaths": paths, "nodeCache": str(cache), "allowedEndpoints": [HOST_ADDRESS]}
    installation.install(changes={"worker": worker})
    yield installation
    installation.install()


def real_model(name: str, source: str, *env: Object, **spec: Any) -> Object:
    """A ModelDeployment whose workers compute, with the torch of this machine."""
    template = spec.pop("podTemplate", {})
    model = {"source": source, **spec.pop("model", {})}
    worker = {
        "name": "worker",
        "env": [{"name": "MODELFLEET_DEVICE", "value": "cpu"}, *env],
        "volumeMounts": [{"name": "torch", "mountPath": "/opt/torch", "readOnly": True}],
    }
    torch = {"name": "torch", "hostPath": {"path": str(TORCH), "type": "Directory"}}
    pod = {"containers": [worker], "volumes": [torch], **template}
    engine = {"kvCacheMemory": "64Mi"}
    return model_deployment(
        name, model=model, podTemplate={"spec": pod}, **{"engine": engine, **spec}
    )


def plain(variables: dict[str, str]) -> list[Object]:
    return [{"name": name, "value": value} for name, value in variables.items()]


def answers(gateway: str, kube: Kube, name: str) -> bool:
    body = {
        "model": f"{kube.namespace}/{name}",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 3,
    }
    answer = httpx.post(f"{gateway}/v1/chat/completions", json=body, timeout=60)
    return answer.status_code == httpx.codes.OK


def pull_secret(kube: Kube, registry: Server) -> None:
    login = base64.b64encode(b"tests:secret").decode()
    config = json.dumps({"auths": {registry.address: {"auth": login}}})
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "registry"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config},
        }
    )


def test_models_of_every_kind_of_source_serve(
    kube: Kube,
    gateway: str,
    prepared: Installation,
    folder: Path,
    hub: Server,
    store: Store,
    registry: Server,
):
    pull_secret(kube, registry)
    fill_claim(kube, prepared.worker, folder / "models/tiny")
    insecure = plain({"MODELFLEET_INSECURE_REGISTRIES": registry.address})
    kube.apply(
        real_model("hub", "hf://owner/name", *plain({"HF_ENDPOINT": hub.url})),
        real_model("bucket", "s3://models/tiny", *plain(store.environment)),
        real_model(
            "artifact",
            f"oci://{registry.address}/models/tiny:v1",
            *insecure,
            podTemplate={"imagePullSecrets": [{"name": "registry"}]},
        ),
        real_model("claim", "pvc://models/tiny"),
        real_model("node", f"file://{folder}/models/tiny"),
    )
    for name in ("hub", "bucket", "artifact", "claim", "node"):
        kube.wait("Ready", f"modeldeployment/{name}", LOADED)
        assert answers(gateway, kube, name)


def test_workers_of_a_node_share_a_download_that_outlives_a_killed_one(
    kube: Kube,
    gateway: str,
    prepared: Installation,
    folder: Path,
    store: Store,
    files: dict[str, bytes],
):
    size = sum(map(len, files.values()))
    for name, content in files.items():  # another prefix: nothing of it is in the cache
        store.client().put_object(Bucket="models", Key=f"shared/{name}", Body=content)
    with slow_line(store.address, pace=size / 20) as line:
        settings = plain(store.environment | {"AWS_ENDPOINT_URL": line.url})
        scaling = {"minReplicas": 2, "maxReplicas": 2}
        kube.apply(real_model("shared", "s3://models/shared", *settings, scaling=scaling))
        seen = eventually("its progress is told", lambda: downloading(kube, 10), LOADED)
        assert seen["eta"] > time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        eventually("a third has come", lambda: downloading(kube, 25))
        for victim in kube.workers("shared"):  # one of them fetches, the other waits for it
            with contextlib.suppress(AssertionError):
                kill_worker(victim)
        eventually("others go on", lambda: downloading(kube, 25))
        eventually("both serve", lambda: kube.model("shared")["status"]["readyReplicas"] == 2, 120)
        assert answers(gateway, kube, "shared")
        assert size < line.sent < 1.3 * size
    (whole,) = folder.glob("node-cache/remote/s3--models--shared-*/*/model")
    assert {path.name for path in whole.iterdir()} == set(files) & {p.name for p in whole.iterdir()}
    assert not list(folder.glob("node-cache/remote/*/*/partial"))


def test_a_source_at_a_private_address_is_refused_unless_it_is_listed(
    kube: Kube, prepared: Installation, hub: Server
):
    """The administrator listed this machine's servers, and not the API server's Service."""
    service = {"name": "HF_ENDPOINT", "value": "http://kubernetes.default.svc:443"}
    kube.apply(real_model("inside", "hf://owner/name", service))
    eventually("it is said", lambda: says(kube, "inside", "MODELFLEET_ALLOWED_ENDPOINTS"), SHOWN)
    assert "kubernetes.default" not in kube.condition("inside", "Ready")["message"]


def downloading(kube: Kube, percent: int) -> Object | None:
    cold: Object = kube.model("shared").get("status", {}).get("coldStart", {})
    far = cold.get("phase") == "Download" and cold.get("percent", 0) > percent
    return cold if far and "eta" in cold else None


def says(kube: Kube, name: str, words: str) -> bool:
    ready = kube.condition(name, "Ready")
    return ready.get("status") == "False" and words in ready.get("message", "")


def test_a_model_that_is_gated_or_missing_says_what_to_do_and_serves_once_it_was_done(
    kube: Kube, gateway: str, prepared: Installation, files: dict[str, bytes]
):
    gated = Hub(files, token="secret", gated=True, host=HOST_ADDRESS)
    with serve_hub(gated):
        at = plain({"HF_ENDPOINT": gated.url})
        kube.apply(
            real_model("gated", "hf://owner/name", *at),
            real_model("missing", "hf://owner/other", *at),
        )
        eventually("gated is said", lambda: says(kube, "gated", "accept its licence"), SHOWN)
        assert says(kube, "gated", "spec.model.tokenSecretRef")
        eventually("missing is said", lambda: says(kube, "missing", "does not exist"), SHOWN)

        token = {"tokenSecretRef": {"name": "hub", "key": "token"}}
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "hub"},
                "stringData": {"token": "secret"},
            },
            real_model("gated", "hf://owner/name", *at, model=token),
            real_model("missing", "hf://owner/name", *at, model=token),
        )
        for name in ("gated", "missing"):
            kube.wait("Ready", f"modeldeployment/{name}", LOADED)
            assert answers(gateway, kube, name)

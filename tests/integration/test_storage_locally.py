"""`modelfleet up` with models from a bucket: the same file as on a cluster, real weights."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from local_fleet import StartFleet, eventually, manifest
from storage_servers import Store, s3_server
from tiny_model import write_tiny_model

pytestmark = pytest.mark.integration

CACHE = Path(os.environ.get("MODELFLEET_CACHE", Path.home() / ".cache/modelfleet"))
SMOLLM2 = CACHE / "models/HuggingFaceTB/SmolLM2-135M-Instruct"


def bucket(store: Store, name: str = "tiny", **changed: str) -> dict[str, object]:
    """A ModelDeployment with the store's settings in its podTemplate, as on a cluster."""
    variables = store.environment | changed
    env = [{"name": name, "value": value} for name, value in variables.items()]
    template = {"spec": {"containers": [{"name": "worker", "env": env}]}}
    return manifest(
        name, source="s3://models/tiny", podTemplate=template, engine={"kvCacheMemory": "64Mi"}
    )


def test_a_model_of_a_bucket_serves_and_a_refused_one_says_what_to_do(
    start_fleet: StartFleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MODELFLEET_CACHE", str(tmp_path / "cache"))
    files = write_tiny_model(tmp_path / "tiny", SMOLLM2)
    with s3_server(tmp_path) as store:
        client = store.client()
        client.create_bucket(Bucket="models")
        for name, content in files.items():
            client.put_object(Bucket="models", Key=f"tiny/{name}", Body=content)
        refused = bucket(store, "refused", AWS_SECRET_ACCESS_KEY="wrong")
        fleet = start_fleet(bucket(store), refused, "--device", "cpu")
        eventually("it is ready", lambda: fleet.condition("Ready", "tiny").get("status") == "True")
        body = {"model": "tiny", "prompt": "Hello", "max_tokens": 3}
        answer = httpx.post(f"{fleet.endpoint}/v1/completions", json=body, timeout=60)
        assert answer.status_code == httpx.codes.OK, answer.text
        eventually(
            "the other one's condition says why",
            lambda: "SignatureDoesNotMatch" in fleet.condition("Ready", "refused")["message"],
        )
    assert list(tmp_path.glob("cache/remote/s3--models--tiny-*/*/model/model.safetensors"))


def test_a_claim_is_refused_at_once(tmp_path: Path):
    file = tmp_path / "claim.yaml"
    file.write_text(yaml.safe_dump(manifest(source="pvc://models/smollm2")))
    ended = subprocess.run(
        ["modelfleet", "up", str(file), "--state-dir", str(tmp_path / "state")],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "exists only in a cluster: use file:///ABSOLUTE/PATH" in ended.stderr

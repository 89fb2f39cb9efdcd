"""Bad input gets one clear error with the right status, and the service goes on."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from clients import tls
from local_fleet import Fleet, StartFleet, eventually, free_port, manifest

pytestmark = pytest.mark.integration

JSON = {"content-type": "application/json"}
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        pytest.param(
            CHAT | {"messages": [{"role": "user", "content": "word " * 9000}]},
            400, "context_length_exceeded", "8192", id="a prompt longer than the context",
        ),
        pytest.param(
            CHAT | {"max_tokens": 100_000}, 400, "context_length_exceeded", "8192",
            id="an answer longer than the context",
        ),
        pytest.param(
            CHAT | {"temperature": -1}, 400, None, "temperature", id="a negative temperature"
        ),
        pytest.param(
            CHAT | {"model": "gpt-9"}, 404, "model_not_found", "gpt-9", id="an unknown model"
        ),
        pytest.param(CHAT | {"messages": []}, 400, None, "messages", id="no message at all"),
        pytest.param(
            CHAT | {"messages": [{"role": "user", "content": "a" * 50_000_000}]},
            413, None, "bytes", id="a body of 50 MB",
        ),
        pytest.param("{not json", 400, None, "JSON", id="malformed JSON"),
    ],
)  # fmt: skip
def test_answers_bad_requests_and_goes_on(
    served_smollm2: Fleet, body: dict[str, Any] | str, status: int, code: str | None, says: str
):
    url = f"{served_smollm2.endpoint}/v1/chat/completions"
    sent = {"content": body} if isinstance(body, str) else {"json": body}
    refused = httpx.post(url, headers=JSON, timeout=30, verify=tls(), **sent)
    assert refused.status_code == status, refused.text
    error = refused.json()["error"]
    assert says in error["message"]
    assert "Traceback" not in refused.text
    if code is not None:
        assert error["code"] == code

    served = httpx.post(url, json=CHAT, timeout=60, verify=tls())
    assert served.status_code == httpx.codes.OK, served.text


def folder_of_pickles(tmp_path: Path) -> str:
    folder = tmp_path / "pickles"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    return f"file://{folder}"


def empty_folder(tmp_path: Path) -> str:
    folder = tmp_path / "empty"
    folder.mkdir()
    return f"file://{folder}"


def missing_folder(tmp_path: Path) -> str:
    return f"file://{tmp_path}/missing"


@pytest.mark.parametrize(
    ("make_source", "says"),
    [
        pytest.param(folder_of_pickles, "pytorch_model.bin", id="a pickle checkpoint"),
        pytest.param(empty_folder, "safetensors", id="a folder that holds no model"),
        pytest.param(missing_folder, "missing", id="a folder that does not exist"),
        pytest.param(
            lambda _: "hf://nobody/nothing", "hf://nobody/nothing", id="a hub without an answer"
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_condition(
    start_fleet: StartFleet, tmp_path: Path, make_source, says: str, monkeypatch
):
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    fleet = start_fleet(manifest(source=make_source(tmp_path)))

    def complaint() -> str:
        return " ".join(c["message"] for c in fleet.status().get("conditions", []))

    eventually(f"a condition that says {says!r}", lambda: says in complaint())
    assert fleet.condition("Ready")["status"] == "False"
    assert "Traceback" not in complaint()
    assert httpx.get(f"{fleet.endpoint}/healthz").status_code == httpx.codes.OK


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"scaling": {"minReplica": 1}}, ["spec.scaling.minReplica", "minReplicas"],
                     id="a misspelled field"),
        pytest.param({"scaling": {"maxReplicas": "many"}}, ["spec.scaling.maxReplicas", "many"],
                     id="a wrong type"),
        pytest.param({"scaling": {"minReplicas": 3}}, ["minReplicas", "maxReplicas"],
                     id="bounds that contradict each other"),
        pytest.param({"model": {"source": "ftp://x/y"}}, ["spec.model.source", "ftp://x/y", "hf://"],
                     id="an unknown kind of source"),
    ],
)  # fmt: skip
def test_up_refuses_a_wrong_manifest_in_one_line(
    tmp_path: Path, change: dict[str, Any], says: list[str]
):
    wrong = manifest()
    for part, fields in change.items():
        wrong["spec"][part] |= fields
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(wrong))
    done = subprocess.run(
        ["modelfleet", "up", str(file)], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    for word in [str(file), *says]:
        assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

"""`modelfleet up` runs batches, and keeps them in its state directory."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import openai
import psutil
import pytest
import yaml

from clients import tls
from local_fleet import Fleet, eventually, free_port, manifest

pytestmark = pytest.mark.integration


def up(folder: Path) -> Fleet:
    """On the paced device; the same state directory each time."""
    calibration, file, port = folder / "calibration.json", folder / "fleet.yaml", free_port()
    calibration.write_text('{"load_seconds": 0.2}')
    file.write_text(yaml.safe_dump(manifest()))
    state, log = folder / "state", folder / "log"
    with log.open("ab") as output:
        process = psutil.Popen(
            [
                *("modelfleet", "up", str(file), "--port", str(port), "--state-dir", str(state)),
                *("--device", "paced", "--calibration", str(calibration)),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    fleet = Fleet(up=process, endpoint=f"http://127.0.0.1:{port}", state=state, log=log)
    eventually("the gateway is ready", fleet.gateway_is_ready)
    return fleet


def client_of(fleet: Fleet) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{fleet.endpoint}/v1",
        api_key="none",
        max_retries=0,
        http_client=httpx.Client(verify=tls()),
    )


def test_a_batch_runs_and_is_there_after_a_restart(tmp_path: Path):
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "smollm2",
                "max_tokens": 4,
                "messages": [{"role": "user", "content": f"Hi {number}"}],
            },
        }
        for number in range(3)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    first = up(tmp_path)
    try:
        client = client_of(first)
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        made = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        eventually(
            "it is completed", lambda: client.batches.retrieve(made.id).status == "completed"
        )
        assert first.stop() == 0
    finally:
        first.end_for_good()
    second = up(tmp_path)
    try:
        client = client_of(second)
        batch = client.batches.retrieve(made.id)
        assert batch.output_file_id is not None
        output = client.files.content(batch.output_file_id).text.splitlines()
        assert [json.loads(line)["custom_id"] for line in output] == ["c0", "c1", "c2"]
        assert second.stop() == 0
    finally:
        second.end_for_good()

"""`modelfleet up` runs batches, and keeps them in its state directory whatever is killed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
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
    file.write_text(yaml.safe_dump(manifest(engine={"maxSequences": 2})))
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


def lines(count: int, **body: object) -> bytes:
    messages = [{"role": "user", "content": "Hi"}]
    return b"".join(
        json.dumps(
            {
                "custom_id": f"c{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "smollm2", "messages": messages, **body},
            }
        ).encode()
        + b"\n"
        for number in range(count)
    )


def written(fleet: Fleet) -> dict[str, bytes]:
    """Results that are on the disk, by custom_id."""
    with contextlib.closing(sqlite3.connect(fleet.state / "batches/batches.sqlite3")) as store:
        return dict(store.execute("SELECT custom_id, result FROM lines WHERE succeeded").fetchall())


def test_every_process_is_killed_and_the_batch_goes_on_where_it_was(tmp_path: Path):
    first = up(tmp_path)
    try:
        client = client_of(first)
        file = client.files.create(file=("in.jsonl", lines(16, max_tokens=4)), purpose="batch")
        made = client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        eventually("some lines are done", lambda: len(written(first)) >= 4)
    finally:
        first.end_for_good()  # the gateway and the worker end with it, as they stand
    before = written(first)
    assert 4 <= len(before) < 16
    second = up(tmp_path)
    try:
        client = client_of(second)
        eventually(
            "it is completed", lambda: client.batches.retrieve(made.id).status == "completed"
        )
        batch = client.batches.retrieve(made.id)
        assert batch.output_file_id is not None
        output = client.files.content(batch.output_file_id).content.splitlines(keepends=True)
        found = {json.loads(line)["custom_id"]: line for line in output}
        assert list(found) == [f"c{number}" for number in range(16)]
        # Each answer has an id of its own: what was computed before the kill is what is here.
        assert {name: found[name] for name in before} == before
        assert second.stop() == 0
    finally:
        second.end_for_good()

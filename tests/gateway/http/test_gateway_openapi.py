"""The OpenAPI document describes what is there, and what is sent and answered."""

import dataclasses
import random
from pathlib import Path

import jsonschema
import pytest

from gateway_doubles import DEFAULTS, ScriptedWorker, running_fleet
from nearly_right import RIGHT, right_body


async def test_describes_every_path_and_no_other():
    async with running_fleet(ScriptedWorker()) as fleet:
        document = (await fleet.http.get("/openapi.json")).json()
        posts = {path for path, item in document["paths"].items() if "post" in item}
        assert posts == set(fleet.gateway.app.direct)
        for path, item in document["paths"].items():
            if "get" in item:
                answer = await fleet.http.get(path.replace("{model}", "default/tiny"))
                assert answer.status_code == 200, path
    assert document["openapi"].startswith("3.1")


@pytest.mark.parametrize("path", RIGHT)
async def test_what_clients_send_and_get_fits_its_schemas(path: str):
    async with running_fleet(ScriptedWorker()) as fleet:
        document = (await fleet.http.get("/openapi.json")).json()
        operation = document["paths"][path]["post"]
        body = right_body(path, random.Random(1))
        wrong = await fleet.http.post(path, json={"model": 1})
        right = await fleet.http.post(path, json=body)
    assert right.status_code in (200, 400)

    def check(value: object, schema: dict) -> None:
        jsonschema.validate(value, schema | {"components": document["components"]})

    content = "application/json"
    check(body, operation["requestBody"]["content"][content]["schema"])
    check(wrong.json(), operation["responses"]["default"]["content"][content]["schema"])


async def test_files_and_batches_are_described_where_they_are_served(tmp_path: Path):
    options = dataclasses.replace(DEFAULTS, batch_dir=tmp_path)
    async with running_fleet(ScriptedWorker(), options=options) as fleet:
        document = (await fleet.http.get("/openapi.json")).json()
        served = {path for path in document["paths"] if path.startswith(("/v1/files", "/v1/b"))}
        assert served == {
            "/v1/files",
            "/v1/files/{id}",
            "/v1/files/{id}/content",
            "/v1/batches",
            "/v1/batches/{id}",
            "/v1/batches/{id}/cancel",
        }
        for path in served:
            for method in document["paths"][path]:
                answer = await fleet.http.request(method, path.replace("{id}", "none"))
                assert answer.status_code != 405, (method, path)
                assert answer.json().get("error", {}).get("code") != "unknown_url"

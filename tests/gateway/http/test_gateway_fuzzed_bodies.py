"""Bodies that are nearly right, of every API: no 5xx, and each error in its API's own shape."""

import json
import random
from collections import Counter

import pytest

from gateway_doubles import ScriptedWorker, eventually, running_fleet
from modelfleet_gateway.errors import GatewayError
from modelfleet_gateway.http.body import read_for
from modelfleet_gateway.openai_api.bulk import cut
from nearly_right import RIGHT, nearly_right

MANY = 400  # bodies of each path that are read
FEW = 30  # that go over HTTP


def error_of(path: str, body: dict) -> str:
    """The error's message; fails if it has another API's shape."""
    if path.startswith("/v1/messages"):
        assert (body["type"], set(body)) == ("error", {"type", "error"})
        assert set(body["error"]) == {"type", "message"}
        return body["error"]["message"]
    if path.startswith("/api/"):
        assert set(body) == {"error"}
        return body["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]["message"]


@pytest.mark.parametrize("path", RIGHT)
async def test_is_read_or_refused_in_one_piece_and_cut_alike(path: str):
    """What a large body is cut into says the same as the body does."""
    chance = random.Random(path)
    async with running_fleet() as fleet:
        app = fleet.gateway.app.direct[path]
    read = read_for(app.read, "")
    results, statuses = Counter[bool](), set[int]()
    for _ in range(MANY):
        body = json.dumps(nearly_right(path, chance)).encode()
        said = []
        for is_cut in (False, True):
            try:
                if is_cut:
                    bulk = run(cut(bytearray(body)))
                    asked = read(bulk.skeleton, 1.5, bulk)
                else:
                    asked = read(bytearray(body), 1.5, None)
                said.append("")
            except GatewayError as error:
                said.append(error.message)
                statuses.add(error.status)
                continue
            assert asked is not None
        assert bool(said[0]) == bool(said[1]), (body[:2000], said)
        assert max(map(len, said)) < 1000
        results[bool(said[0])] += 1
    assert statuses == {400}
    assert results[False] > MANY / 20 or path in ("/tokenize", "/detokenize", "/api/show")
    assert results[True] > MANY / 20


def run(slices):
    while True:
        try:
            next(slices)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("seed", range(2))
async def test_no_body_is_a_5xx_and_each_error_has_its_apis_shape(seed: int):
    worker = ScriptedWorker(tokens=2, slots=1000)
    statuses = Counter[int]()
    async with running_fleet(worker) as fleet:
        for path in RIGHT:
            chance = random.Random(f"{path}{seed}")
            for _ in range(FEW):
                body = json.dumps(nearly_right(path, chance)).encode()
                if chance.random() < 0.1:
                    body = body[: chance.randrange(len(body))]
                answer = await fleet.http.post(
                    path, content=body, headers={"content-type": "application/json"}
                )
                statuses[answer.status_code] += 1
                assert answer.status_code < 500, (path, body[:2000], answer.text[:2000])
                if answer.status_code != 200:
                    assert error_of(path, answer.json()), answer.text
        await eventually(lambda: not fleet.gateway.app.bodies.budget.used)
        assert not worker.running
    assert {200, 400, 404} <= set(statuses)


async def test_what_is_found_by_path_has_its_apis_shape():
    async with running_fleet(ScriptedWorker()) as fleet:
        for path in RIGHT:
            for answer in (await fleet.http.get(path), await fleet.http.put(path, json={})):
                assert answer.status_code in (404, 405)
                assert error_of(path, answer.json())
            gone = await fleet.http.post(f"{path}/none", json={})
            assert gone.status_code in (404, 405)
            assert error_of(path, gone.json())

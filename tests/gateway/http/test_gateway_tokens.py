"""`/tokenize`, `/detokenize` and the others that count: of a worker that is there, or a 503."""

import openai
import pytest

from gateway_doubles import ScriptedWorker, model_view, running_fleet
from modelfleet_proto import worker_pb2

HELLO = [{"role": "user", "content": "hé"}]


async def test_tokenizes_as_vllm_does():
    async with running_fleet(ScriptedWorker()) as fleet:
        plain = await fleet.http.post("/tokenize", json={"model": "tiny", "prompt": "hé"})
        bare = await fleet.http.post(
            "/tokenize",
            json={
                "model": "tiny",
                "prompt": "hé",
                "add_special_tokens": False,
                "return_token_strs": True,
            },
        )
        chat = await fleet.http.post("/tokenize", json={"model": "tiny", "messages": HELLO})
        back = await fleet.http.post("/detokenize", json={"model": "tiny", "tokens": [104, 233]})
    assert plain.json() == {
        "count": 3,
        "max_model_len": 1000,
        "tokens": [1, 104, 233],
        "token_strs": None,
    }
    assert bare.json()["tokens"] == [104, 233]
    assert bare.json()["token_strs"] == ["h", "é"]
    assert chat.json()["count"] == len("user:hé") + 1
    assert back.json() == {"prompt": "hé"}


async def test_large_bodies_too():
    async with running_fleet(ScriptedWorker()) as fleet:
        text = await fleet.http.post("/tokenize", json={"model": "tiny", "prompt": "x" * 100_000})
        ids = await fleet.http.post("/detokenize", json={"model": "tiny", "tokens": [104] * 50_000})
    assert text.json()["count"] == 100_001
    assert ids.json()["prompt"] == "h" * 50_000


async def test_counts_the_input_of_a_response():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        counted = await fleet.client.responses.input_tokens.count(
            model="tiny", input="hello", instructions="be kind"
        )
        with pytest.raises(openai.BadRequestError, match="refused"):
            await fleet.client.responses.input_tokens.count(model="tiny", input="refuse me")
    assert counted.input_tokens == len("system:be kind|user:hello") + 1
    assert not worker.requests
    assert worker.tokenized[0].request.model == "default/tiny"


BODIES = {
    "/tokenize": {"prompt": "x"},
    "/detokenize": {"tokens": [1]},
    "/v1/responses/input_tokens": {"input": "x"},
}


@pytest.mark.parametrize("path", BODIES)
async def test_wakes_nobody(path: str):
    body = {"model": "tiny"} | BODIES[path]
    async with running_fleet(ScriptedWorker(state=worker_pb2.WORKER_STATE_LOADING)) as fleet:
        answer = await fleet.http.post(path, json=body)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_not_ready"
        assert "none is started for that" in answer.json()["error"]["message"]
        assert not fleet.queued
        unknown = await fleet.http.post(path, json=body | {"model": "none"})
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_asks_another_worker_where_one_is_of_an_earlier_version():
    old, new = ScriptedWorker("w-0", takes_many=False), ScriptedWorker("w-1")
    async with running_fleet(old, new) as fleet:
        for _ in range(2):
            answer = await fleet.http.post("/tokenize", json={"model": "tiny", "prompt": "x"})
            assert answer.json()["count"] == 2
        fleet.push(model_view(old))
        await fleet.ready(1)
        answer = await fleet.http.post("/tokenize", json={"model": "tiny", "prompt": "x"})
        assert answer.status_code == 503
        assert "UNIMPLEMENTED" in answer.json()["error"]["message"]


WRONG = {
    "neither": ("/tokenize", {}, "prompt"),
    "both": ("/tokenize", {"prompt": "x", "messages": HELLO}, "prompt"),
    "special tokens of a chat": (
        "/tokenize",
        {"messages": HELLO, "add_special_tokens": True},
        "add_special_tokens",
    ),
    "no generation prompt": (
        "/tokenize",
        {"messages": HELLO, "add_generation_prompt": False},
        "add_generation_prompt",
    ),
    "a text": ("/detokenize", {"tokens": "x"}, "tokens"),
    "a negative id": ("/detokenize", {"tokens": [-1]}, "tokens.0"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_refuses_by_name(name: str):
    path, body, param = WRONG[name]
    async with running_fleet(ScriptedWorker()) as fleet:
        answer = await fleet.http.post(path, json={"model": "tiny"} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

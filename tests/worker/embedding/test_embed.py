"""The RPC Embed, as worker.proto promises it."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.engine.embedding import Ids, Vector
from modelfleet_worker.loading.device_loaders import cpu_loader
from modelfleet_worker.serving.embedding import MAX_INPUTS
from modelfleet_worker.storage.cache import Cache
from tiny_encoder import CLS, SEP, reference, write_encoder

MODEL = "default/model"
TEXTS = [{"text": "w1 w2 w3"}, {"token_ids": {"ids": [7, 8, 9, 10]}}, {"text": "w5"}]


@pytest.fixture
def start_encoder(start_worker, tmp_path: Path):
    """A worker that holds a small encoder."""

    async def start(spec: dict[str, Any] | None = None, **files: Any):
        folder = write_encoder(tmp_path / "encoder", **files)
        loader = cpu_loader(tmp_path, Cache(tmp_path / "cache", None))
        worker = await start_worker(loader)
        return await worker.ready(source=f"file://{folder}", **(spec or {})), folder

    return start


def embed(worker: Any, inputs: Sequence[Any] = TEXTS, **fields: Any) -> Any:
    request = {"model": MODEL, "request_id": "test", "inputs": inputs} | fields
    return worker.stub.Embed(pb.EmbedRequest(**request))


def vectors(response: pb.EmbedResponse) -> np.ndarray[Any, Any]:
    return np.stack([np.frombuffer(one.vector, "<f4") for one in response.embeddings])


async def test_texts_and_ids_become_vectors(start_encoder):
    worker, folder = await start_encoder()
    response = await embed(worker)
    # Words follow four special tokens in the vocabulary.
    expected = reference(folder, [[CLS, 5, 6, 7, SEP], [7, 8, 9, 10], [CLS, 9, SEP]])
    assert np.abs(vectors(response) - expected).max() < 1e-5
    assert [one.tokens for one in response.embeddings] == [5, 4, 3]
    stats = await worker.stats()
    assert (stats.task, stats.context_length, stats.slots) == ("Embed", 48, 64)
    assert response.weights_digest == stats.weights_digest
    assert stats.model_digest
    assert (stats.prompt_tokens, stats.requests_finished) == (12, 1)


@pytest.mark.parametrize(
    ("inputs", "fields", "code", "message"),
    [
        pytest.param(TEXTS, {"model": "a/b"}, "NOT_FOUND", "holds default/model", id="model"),
        pytest.param([], {}, "INVALID_ARGUMENT", "1 to 256 inputs", id="nothing"),
        pytest.param(
            [{"text": "w1"}] * (MAX_INPUTS + 1), {}, "INVALID_ARGUMENT", "found 257", id="too many"
        ),
        pytest.param([{"text": ""}], {}, "INVALID_ARGUMENT", "input 0 is empty", id="empty"),
        pytest.param([{}], {}, "INVALID_ARGUMENT", "input 0 is neither", id="no kind"),
        pytest.param(
            [*TEXTS, {"token_ids": {"ids": [64]}}], {}, "INVALID_ARGUMENT", "input 3 has token 64",
            id="an unknown id",
        ),
        pytest.param([{"token_ids": {}}], {}, "INVALID_ARGUMENT", "no tokens", id="no ids"),
        pytest.param(
            [{"text": "w1 " * 47}], {}, "OUT_OF_RANGE", "input 0 has 49 tokens, .* 48", id="long"
        ),
        pytest.param(
            [*TEXTS, {"text": "w1 " * 47}], {"first_input": 64}, "OUT_OF_RANGE", "input 67 has 49",
            id="long, of a later call",
        ),
        pytest.param(
            TEXTS, {"dimensions": 65}, "INVALID_ARGUMENT", "has 64", id="too many dimensions"
        ),
        pytest.param(
            TEXTS, {"dimensions": 8}, "INVALID_ARGUMENT", "may not be cut", id="not trained for it"
        ),
        pytest.param(
            TEXTS, {"request_id": "x" * 257}, "INVALID_ARGUMENT", "request_id", id="a long id"
        ),
    ],
)  # fmt: skip
async def test_refuses_what_is_wrong_by_name(
    inputs: Any, fields: Any, code: str, message: str, start_encoder
):
    worker, _ = await start_encoder()
    found, details = await worker.refusal(embed(worker, inputs, **fields))
    assert found.name == code
    assert re.search(message, details)


async def test_cuts_where_it_may(start_encoder):
    worker, folder = await start_encoder(is_matryoshka=True)
    long = [{"text": "w1 " * 60}, {"token_ids": {"ids": [9] * 60}}]
    response = await embed(worker, long, truncate=True, dimensions=32)
    expected = reference(folder, [[CLS, *[5] * 46, SEP], [9] * 48])[:, :32]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(vectors(response) - expected).max() < 1e-5
    assert [one.tokens for one in response.embeddings] == [48, 48]


async def test_does_not_generate_and_says_so(start_encoder):
    worker, _ = await start_encoder()
    code, details = await worker.refusal(worker.start().read())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "default/model makes embeddings and generates nothing" in details


async def test_a_model_that_generates_makes_no_embeddings(start_worker, paced):
    worker = await (await start_worker(paced())).ready()
    code, details = await worker.refusal(embed(worker))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "default/model generates text and makes no embeddings" in details
    assert (await worker.stats()).task == "Generate"


async def test_the_paced_device_makes_none(start_worker, paced):
    worker = await start_worker(paced())
    await worker.load(task="Embed")
    stats = await worker.stats_when(lambda stats: stats.state == pb.WORKER_STATE_FAILED)
    assert "paced device makes no embeddings" in stats.message


class Gate:
    """Holds an encoder up until it is opened."""

    def __init__(self, encoder: Any) -> None:
        self._encode = encoder.encode
        self.entered, self.opened = threading.Event(), threading.Event()
        encoder.encode = self.encode

    def encode(self, sequences: Sequence[Ids]) -> list[Vector]:
        self.entered.set()
        assert self.opened.wait(60)
        return self._encode(sequences)


async def test_a_full_worker_says_so_and_a_drain_hands_over(start_encoder):
    worker, _ = await start_encoder(spec={"max_sequences": 1})
    gate = Gate(worker.lifecycle.model.engine._encoder)
    running = asyncio.ensure_future(embed(worker))
    await asyncio.to_thread(gate.entered.wait, 60)
    code, details = await worker.refusal(embed(worker))
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "all 1 slots are taken")
    stats = await worker.stats()
    assert stats.running + stats.waiting == 1
    await worker.stub.Drain(pb.DrainRequest(deadline_seconds=0))
    code, _ = await worker.refusal(running)
    assert code is grpc.StatusCode.UNAVAILABLE
    gate.opened.set()


async def test_an_encoder_that_fails_is_a_failed_worker(start_encoder):
    worker, _ = await start_encoder()

    def fail(sequences: Sequence[Ids]) -> list[Vector]:
        raise RuntimeError("broken")

    worker.lifecycle.model.engine._encoder.encode = fail
    code, details = await worker.refusal(embed(worker))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "broken" in details
    assert (await worker.stats()).state == pb.WORKER_STATE_FAILED


async def test_another_model_may_follow(start_encoder):
    worker, folder = await start_encoder()
    before = await embed(worker)
    await worker.stub.UnloadModel(pb.UnloadModelRequest(deadline_seconds=5))
    await worker.ready(source=f"file://{folder}", task="Embed", dtype="Float32")
    assert vectors(await embed(worker)).tolist() == vectors(before).tolist()

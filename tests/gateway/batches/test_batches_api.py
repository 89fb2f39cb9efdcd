"""/v1/files and /v1/batches, as OpenAI's client uses them."""

import asyncio
import dataclasses
import json
import time
from pathlib import Path

import openai
import pytest

from batch_files import COMPLETIONS, create, ended, jsonl, lines_of, prompts, request_line
from embedding_worker import EmbeddingWorker, vector_of
from gateway_doubles import (
    DEFAULTS,
    Fleet,
    ScriptedWorker,
    api_key,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from modelfleet_gateway.options import BatchLimits, Options
from modelfleet_proto import fleet_pb2, worker_pb2


def options(folder: Path, **limits) -> Options:
    return dataclasses.replace(DEFAULTS, batch_dir=folder, batches=BatchLimits(**limits))


async def test_a_file_is_uploaded_listed_read_and_deleted(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:
        files = fleet.client.files
        made = await files.create(file=("näme.jsonl", b"one\ntwo\n"), purpose="batch")
        assert (made.object, made.bytes, made.filename) == ("file", 8, "näme.jsonl")
        assert (made.purpose, made.status) == ("batch", "processed")
        assert made.expires_at == made.created_at + 30 * 86_400
        kept = await files.create(
            file=("b.txt", b"x"),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert kept.expires_at == kept.created_at + 3600
        assert await files.retrieve(made.id) == made
        assert (await files.content(made.id)).read() == b"one\ntwo\n"
        assert [one.id async for one in files.list()] == [kept.id, made.id]
        assert [one.id async for one in files.list(limit=1, order="asc")] == [made.id, kept.id]
        assert [one.id async for one in files.list(purpose="batch")] == [made.id]
        assert (await files.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError) as gone:
            await files.retrieve(made.id)
        assert gone.value.code == "file_not_found"
        assert {path.name for path in (tmp_path / "files").iterdir()} == {kept.id}
        assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_batch_runs_and_leaves_an_output_and_an_error_file(tmp_path: Path):
    worker = ScriptedWorker()
    content = jsonl(
        request_line("a", prompt="A", seed=7),
        request_line("wrong", prompt="B", temperature=9),
        request_line("b", prompt="C", seed=7, max_tokens=3),
    )
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        made = await create(fleet.client, content)
        assert made.status == "validating"
        assert made.expires_at == made.created_at + 86_400
        batch = await ended(fleet.client, made.id)
        assert batch.status == "completed"
        counts = batch.request_counts
        assert counts is not None
        assert (counts.total, counts.completed, counts.failed) == (3, 2, 1)
        times = (
            batch.created_at,
            batch.in_progress_at,
            batch.finalizing_at,
            batch.completed_at,
        )
        assert list(times) == sorted(times)  # type: ignore[type-var]
        output = await lines_of(fleet.client, batch.output_file_id)
        assert [one["custom_id"] for one in output] == ["a", "b"]
        response = output[0]["response"]
        assert response["status_code"] == 200
        assert response["body"]["object"] == "text_completion"
        assert response["body"]["choices"][0]["text"] == expected_text("A", 8)
        assert output[1]["response"]["body"]["choices"][0]["text"] == expected_text("C", 3)
        assert output[0]["error"] is None
        (refused,) = await lines_of(fleet.client, batch.error_file_id)
        assert refused["custom_id"] == "wrong"
        assert refused["response"]["status_code"] == 400
        assert refused["response"]["body"]["error"]["param"] == "temperature"
        assert [one.id async for one in fleet.client.batches.list()] == [batch.id]
        purposes = {one.purpose async for one in fleet.client.files.list()}
        assert purposes == {"batch", "batch_output"}


async def test_chats_and_responses_are_lines_too(tmp_path: Path):
    worker = ScriptedWorker(tokens=2)
    messages = [{"role": "user", "content": "hi"}]
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        url = "/v1/chat/completions"
        made = await create(
            fleet.client, jsonl(request_line("c", url, messages=messages, seed=7)), url
        )
        (line,) = await lines_of(fleet.client, (await ended(fleet.client, made.id)).output_file_id)
        message = line["response"]["body"]["choices"][0]["message"]
        assert message["content"] == expected_text("hi", 2, chat=True)
        url = "/v1/responses"
        made = await create(fleet.client, jsonl(request_line("r", url, input="hi", seed=7)), url)
        (line,) = await lines_of(fleet.client, (await ended(fleet.client, made.id)).output_file_id)
        body = line["response"]["body"]
        assert body["object"] == "response"
        assert body["output"][0]["content"][0]["text"].strip()


async def test_embeddings_are_lines_too(tmp_path: Path):
    async with running_fleet(EmbeddingWorker(), options=options(tmp_path)) as fleet:
        url = "/v1/embeddings"
        content = jsonl(*(request_line(f"e{i}", url, input="x" * (i + 1)) for i in range(5)))
        made = await create(fleet.client, content, url)
        batch = await ended(fleet.client, made.id)
        lines = await lines_of(fleet.client, batch.output_file_id)
        vectors = [one["response"]["body"]["data"][0]["embedding"] for one in lines]
        assert vectors == [vector_of("x" * (i + 1)) for i in range(5)]


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"no JSON\n", "invalid_json_line", 1),
        (prompts(1) + prompts(1), "duplicate_custom_id", 2),
        (prompts(1) + jsonl(request_line("x", model="other")), "mismatched_model", 2),
        (jsonl(request_line("x", "/v1/embeddings")), "mismatched_url", 1),
        (jsonl(request_line("x", model="none", prompt="p")), "model_not_found", None),
        (b"\n", "empty_file", None),
    ],
)
async def test_a_wrong_input_file_fails_the_batch_before_anything_runs(
    content: bytes, code: str, line: int | None, tmp_path: Path
):
    worker = ScriptedWorker()
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        batch = await ended(fleet.client, (await create(fleet.client, content)).id)
        assert batch.status == "failed"
        assert batch.failed_at
        assert batch.errors is not None
        (error,) = batch.errors.data or []
        assert (error.code, error.line) == (code, line)
        assert batch.output_file_id is batch.error_file_id is None
        assert worker.requests == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "30s"}, "completion_window"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, None),
    ],
)
async def test_wrong_fields_of_a_batch_are_named(changes: dict, param: str, tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:
        good = {"input_file_id": "f", "endpoint": COMPLETIONS, "completion_window": "24h"}
        response = await fleet.http.post("/v1/batches", json=good | changes)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"
        if param:
            assert response.json()["error"]["param"] == param
        response = await fleet.http.post("/v1/batches", json=good)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "file_not_found")


async def test_a_file_of_another_purpose_is_no_input(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:
        file = await fleet.client.files.create(file=("f", b"x"), purpose="user_data")
        with pytest.raises(openai.BadRequestError) as refused:
            await fleet.client.batches.create(
                input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
            )
        assert refused.value.param == "input_file_id"


async def test_cancelling_keeps_what_is_done(tmp_path: Path):
    worker = ScriptedWorker(slots=1, tokens=2)
    gate = asyncio.Event()

    async def hold(context, request, count):
        if request.prompt == "p3":
            await gate.wait()

    worker.before_token = hold
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        made = await create(fleet.client, prompts(6, tokens=2))
        await eventually(lambda: any(r.prompt == "p3" for r in worker.requests))
        cancelling = await fleet.client.batches.cancel(made.id)
        assert cancelling.status == "cancelling"
        assert cancelling.cancelling_at
        batch = await ended(fleet.client, made.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at
        output = await lines_of(fleet.client, batch.output_file_id)
        assert [one["custom_id"] for one in output] == ["c0", "c1", "c2"]
        errors = await lines_of(fleet.client, batch.error_file_id)
        assert [one["custom_id"] for one in errors] == ["c3", "c4", "c5"]
        assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
        assert errors[0]["response"] is None
        await eventually(lambda: worker.running == 0)  # nothing runs on for nobody
        with pytest.raises(openai.ConflictError):
            await fleet.client.batches.cancel(made.id)


async def test_at_the_end_of_its_window_a_batch_expires_with_what_is_done(tmp_path: Path):
    worker = ScriptedWorker(slots=1, tokens=1)

    async def hold(context, request, count):
        if request.prompt == "p1":
            await asyncio.Event().wait()

    worker.before_token = hold
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        made = await create(fleet.client, prompts(3, tokens=1))
        await eventually(lambda: any(r.prompt == "p1" for r in worker.requests))
        await expire(fleet, made.id)
        batch = await ended(fleet.client, made.id)
        assert batch.status == "expired"
        assert batch.expired_at
        output = await lines_of(fleet.client, batch.output_file_id)
        assert [one["custom_id"] for one in output] == ["c0"]
        errors = await lines_of(fleet.client, batch.error_file_id)
        assert [one["custom_id"] for one in errors] == ["c1", "c2"]
        assert {one["error"]["code"] for one in errors} == {"batch_expired"}
        counts = batch.request_counts
        assert counts is not None
        assert (counts.completed, counts.failed) == (1, 2)


async def expire(fleet, batch_id: str) -> None:
    """Its window is over now: as time goes by, without waiting for it."""
    (job,) = fleet.gateway.app.runner._jobs.values()
    assert job.batch.id == batch_id
    job.batch = dataclasses.replace(job.batch, expires_at=int(time.time()))
    job.look()


async def test_without_a_folder_both_are_unsupported(tmp_path: Path):
    async with running_fleet() as fleet:
        for path in ("/v1/files", "/v1/batches", "/v1/files/file-1/content"):
            response = await fleet.http.get(path)
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "unsupported_endpoint"


def client_of(fleet: Fleet, key: str) -> openai.AsyncOpenAI:
    return fleet.client.with_options(api_key=key)


async def test_keys_do_not_see_each_other(tmp_path: Path):
    keys = fleet_pb2.ApiKeys(keys=[api_key("mine", name="a/mine"), api_key("theirs", name="a/b")])
    asks = dataclasses.replace(options(tmp_path), require_keys=True)
    worker = ScriptedWorker()
    async with running_fleet(worker, options=asks, keys=keys) as fleet:
        mine, theirs = client_of(fleet, "mine"), client_of(fleet, "theirs")
        batch = await ended(mine, (await create(mine, prompts(1))).id)
        assert batch.status == "completed"
        assert [request.cache_salt for request in worker.requests] == ["a/mine"]
        assert [one async for one in theirs.batches.list()] == []
        assert [one async for one in theirs.files.list()] == []
        for refused in (
            theirs.batches.retrieve(batch.id),
            theirs.batches.cancel(batch.id),
            theirs.files.retrieve(batch.input_file_id),
            theirs.files.content(batch.output_file_id or ""),
            theirs.files.delete(batch.input_file_id),
            theirs.batches.create(
                input_file_id=batch.input_file_id,
                endpoint="/v1/completions",
                completion_window="24h",
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                await refused
        assert (await mine.files.content(batch.output_file_id or "")).text


async def test_lines_of_a_key_that_is_gone_are_refused(tmp_path: Path):
    def key(name: str) -> fleet_pb2.ApiKey:
        return api_key(name, name=f"a/{name}", tenant="a")

    asks = dataclasses.replace(options(tmp_path), require_keys=True)
    keys = fleet_pb2.ApiKeys(keys=[key("old"), key("new")])
    worker = ScriptedWorker()
    async with running_fleet(worker, options=asks, keys=keys) as fleet:
        fleet.push(model_view())  # nothing runs yet
        made = await create(client_of(fleet, "old"), prompts(1))
        await fleet.push_keys(key("new"))
        fleet.push(model_view(worker))
        new = client_of(fleet, "new")
        batch = await ended(new, made.id)
        (line,) = await lines_of(new, batch.error_file_id)
        assert line["response"]["status_code"] == 401
        assert line["response"]["body"]["error"]["code"] == "key_gone"


async def test_idle_slots_are_used_and_others_go_first(tmp_path: Path):
    worker = ScriptedWorker(slots=4, tokens=1)
    gate = asyncio.Event()

    async def hold(context, request, count):
        await gate.wait()

    worker.before_token = hold
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        made = await create(fleet.client, prompts(8, tokens=1))
        await eventually(lambda: worker.running == 3)  # a quarter stays free
        asked = asyncio.create_task(
            fleet.client.completions.create(model="tiny", prompt="now", max_tokens=1)
        )
        await eventually(lambda: worker.running == 4)
        assert worker.requests[-1].prompt == "now"
        await eventually(
            lambda: any(m.running == 2 for s in fleet.operator.signals for m in s.models)
        )  # batches count as one request, and ask for no more replicas
        assert all(m.running <= 2 for s in fleet.operator.signals for m in s.models)
        assert (await fleet.metric("modelfleet_gateway_batch_lines_running")) == 3
        assert (await fleet.metric("modelfleet_gateway_batch_lines_waiting")) == 5
        gate.set()
        await asked
        assert (await ended(fleet.client, made.id)).status == "completed"
        assert (await fleet.metric("modelfleet_gateway_batch_lines_total")) == 8


async def test_a_sleeping_model_is_not_woken_before_the_window_asks_for_it(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:
        made = await create(fleet.client, prompts(2))
        waiting = made
        while (waiting.model_extra or {})["status_reason"] is None:
            waiting = await fleet.client.batches.retrieve(made.id)
        assert "its model sleeps" in (waiting.model_extra or {})["status_reason"]
        seen = len(fleet.operator.signals)
        await eventually(lambda: len(fleet.operator.signals) > seen + 2)
        assert not any(m.waiting for s in fleet.operator.signals for m in s.models)
        urgent = await create(fleet.client, prompts(2), window="5m")
        await eventually(
            lambda: any(m.waiting == 2 for s in fleet.operator.signals for m in s.models)
        )
        batch = await fleet.client.batches.retrieve(urgent.id)
        assert (batch.model_extra or {})["status_reason"].startswith("wakes its model")
        # Awake for the one, it serves the other, too.
        worker = ScriptedWorker()
        await worker.start()
        try:
            fleet.push(model_view(worker))
            for one in (urgent, made):
                assert (await ended(fleet.client, one.id)).status == "completed"
        finally:
            await worker.kill()


async def test_lines_are_tried_again_when_their_workers_fail(tmp_path: Path):
    bad, good = ScriptedWorker(worker_id="bad"), ScriptedWorker(worker_id="good")

    async def fail(context, request, count):
        if count == 2:
            await bad.kill()

    bad.before_token = fail
    async with running_fleet(bad, good, options=options(tmp_path)) as fleet:
        batch = await ended(fleet.client, (await create(fleet.client, prompts(12))).id)
        assert batch.status == "completed"
        lines = await lines_of(fleet.client, batch.output_file_id)
        texts = [one["response"]["body"]["choices"][0]["text"] for one in lines]
        assert texts == [expected_text(f"p{i}", 4) for i in range(12)]


async def test_a_full_store_is_a_507_and_serving_goes_on(tmp_path: Path):
    limits = {"store_bytes": 400_000, "file_bytes": 300_000}
    async with running_fleet(ScriptedWorker(), options=options(tmp_path, **limits)) as fleet:
        await fleet.client.files.create(file=("f", b"x" * 250_000), purpose="user_data")
        with pytest.raises(openai.APIStatusError) as full:
            await fleet.client.files.create(file=("f", b"x" * 250_000), purpose="user_data")
        assert full.value.status_code == 507
        assert full.value.code == "store_full"
        answer = await fleet.client.completions.create(model="tiny", prompt="p", seed=7)
        assert answer.choices[0].text == expected_text("p", 8)


async def test_a_store_that_is_gone_is_a_503_and_comes_back(tmp_path: Path):
    folder = tmp_path / "store"
    async with running_fleet(ScriptedWorker(), options=options(folder)) as fleet:
        file = await fleet.client.files.create(file=("f", b"x"), purpose="user_data")
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(openai.APIStatusError) as gone:
            await fleet.client.files.create(file=("f", b"x"), purpose="user_data")
        assert (gone.value.status_code, gone.value.code) == (503, "store_unavailable")
        answer = await fleet.client.completions.create(model="tiny", prompt="p", seed=7)
        assert answer.choices[0].text == expected_text("p", 8)
        (tmp_path / "elsewhere").rename(folder)
        assert (await fleet.client.files.retrieve(file.id)).id == file.id


async def test_a_file_is_deleted_only_when_no_batch_reads_it(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:  # no worker: it waits
        made = await create(fleet.client, prompts(1))
        with pytest.raises(openai.ConflictError):
            await fleet.client.files.delete(made.input_file_id)
        await fleet.client.batches.cancel(made.id)
        await ended(fleet.client, made.id)
        assert (await fleet.client.files.delete(made.input_file_id)).deleted


async def test_two_batches_of_one_model_share_and_come_to_their_ends(tmp_path: Path):
    worker = ScriptedWorker(slots=2)
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        made = [await create(fleet.client, prompts(20)) for _ in range(2)]
        for one in made:
            batch = await ended(fleet.client, one.id)
            assert batch.request_counts is not None
            assert batch.request_counts.completed == 20
        assert len(worker.requests) == 40


async def test_a_worker_that_loads_serves_the_batch_when_it_is_ready(tmp_path: Path):
    worker = ScriptedWorker(state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(worker, options=options(tmp_path)) as fleet:
        made = await create(fleet.client, prompts(2))
        await eventually(lambda: any(fleet.gateway.app.runner.counts()))
        worker.become(worker_pb2.WORKER_STATE_READY)
        assert (await ended(fleet.client, made.id)).status == "completed"


async def test_pages_of_other_origins_can_do_nothing(tmp_path: Path):
    async with running_fleet(options=options(tmp_path)) as fleet:
        evil = {"origin": "https://evil.example"}
        for path in ("/v1/files", "/v1/batches", "/v1/batches/batch_1/cancel"):
            response = await fleet.http.post(path, headers=evil, content=b"")
            assert response.status_code == 403, path
            assert response.json()["error"]["code"] == "cross_origin"


async def test_metadata_and_unknown_fields_are_kept_and_ignored(tmp_path: Path):
    async with running_fleet(ScriptedWorker(), options=options(tmp_path)) as fleet:
        file = await fleet.client.files.create(file=("f", prompts(1)), purpose="batch")
        made = await fleet.client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/completions",
            completion_window="24h",
            metadata={"team": "a"},
            extra_body={"something": json.loads("{}")},
        )
        batch = await ended(fleet.client, made.id)
        assert batch.metadata == {"team": "a"}
        assert batch.model == "tiny"

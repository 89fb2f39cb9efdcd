"""Answers that are held to a format, over gRPC, by a tiny model with a real tokenizer."""

from __future__ import annotations

import asyncio
import json
import string
from pathlib import Path

import grpc
import pytest
from jsonschema import Draft202012Validator

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.loading.device_loaders import cpu_loader
from modelfleet_worker.storage.cache import Cache
from prepare_smollm2 import model_folder
from tiny_model import blank_tokens, write_tiny_model

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["first", "second"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "parts": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    },
    "required": ["kind", "age", "parts"],
    "additionalProperties": False,
}
HELD = pb.OutputFormat(json_schema=json.dumps(SCHEMA))
BLANK = dict.fromkeys(blank_tokens(model_folder()), -100.0)
SAMPLED = {"sampling": pb.Sampling(temperature=1, top_p=1, logit_bias=BLANK), "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_tiny_model(path, model_folder(), hidden=128)
    return path


@pytest.fixture
async def worker(start_worker, folder, tmp_path):
    started = await start_worker(cpu_loader(tmp_path, Cache(tmp_path / "cache")))
    return await started.ready(source=f"file://{folder}", kv_cache_bytes=16 << 20)


def limits(**fields) -> pb.StopConditions:
    return pb.StopConditions(**({"max_tokens": 300} | fields))


async def test_16_answers_at_once_are_valid_and_others_are_as_they_were(worker):
    free = await worker.generate("free", stop=limits(max_tokens=40), **SAMPLED)
    beside = asyncio.create_task(worker.generate("free", stop=limits(max_tokens=40), **SAMPLED))
    replies = await asyncio.gather(
        *(
            worker.generate(f"p{i}", stop=limits(), output_format=HELD, **(SAMPLED | {"seed": i}))
            for i in range(16)
        )
    )
    for reply in replies:
        assert reply.finished.reason == pb.FINISH_REASON_STOP
        Draft202012Validator(SCHEMA).validate(json.loads(reply.text))
    assert len({reply.text for reply in replies}) > 4
    assert (await beside).ids == free.ids


async def test_resumed_at_any_token_the_answer_and_its_end_are_the_same(worker):
    asked = {"stop": limits(), "output_format": HELD, **SAMPLED}
    whole = await worker.generate("x", **asked)
    for cut in range(1, len(whole.ids) + 1, 2):
        digest = whole.accepted.model_digest
        resume = pb.Resume(token_ids=whole.ids[:cut], model_digest=digest)
        rest = await worker.generate("x", resume=resume, **asked)
        assert whole.ids[:cut] + rest.ids == whole.ids
        assert rest.finished.reason == pb.FINISH_REASON_STOP
        assert rest.finished.completion_tokens == len(whole.ids)
    all_of_it = pb.Resume(token_ids=whole.ids, model_digest=whole.accepted.model_digest)
    rest = await worker.generate("x", resume=all_of_it, **asked)
    assert (rest.ids, rest.finished.reason) == ([], pb.FINISH_REASON_STOP)


async def test_an_answer_that_is_complete_at_its_last_token_is_not_cut(worker):
    asked = {"output_format": HELD, **SAMPLED}
    whole = await worker.generate("x", stop=limits(), **asked)
    exact = await worker.generate("x", stop=limits(max_tokens=len(whole.ids)), **asked)
    assert (exact.text, exact.finished.reason) == (whole.text, pb.FINISH_REASON_STOP)
    cut = await worker.generate("x", stop=limits(max_tokens=len(whole.ids) - 1), **asked)
    assert cut.finished.reason == pb.FINISH_REASON_LENGTH
    assert whole.text.startswith(cut.text)


@pytest.mark.parametrize(
    ("output_format", "valid"),
    [
        (pb.OutputFormat(regex="(ab|cd){3,5}!"), lambda text: text.endswith("!")),
        (pb.OutputFormat(grammar='start: "yes" | "no"'), {"yes", "no"}.__contains__),
        (pb.OutputFormat(json_object=True), lambda text: text.startswith("{")),
    ],
    ids=["regex", "grammar", "object"],
)
async def test_the_other_formats_are_held_to(worker, output_format, valid):
    reply = await worker.generate("x", stop=limits(max_tokens=60), output_format=output_format)
    assert valid(reply.text), reply.text


async def test_a_stop_string_ends_it_where_it_stands(worker):
    asked = {"output_format": HELD, **SAMPLED}
    reply = await worker.generate("x", stop=limits(strings=['"age"']), **asked)
    assert reply.finished.stop_string == '"age"'
    assert '"kind"' in reply.text


@pytest.mark.parametrize(
    ("output_format", "why"),
    [
        (pb.OutputFormat(json_schema='{"not": {}}'), "'not'"),
        (pb.OutputFormat(json_schema="{"), "not valid JSON"),
        (pb.OutputFormat(regex="("), "unclosed"),
        (pb.OutputFormat(grammar="start: nothing"), "nothing"),
        (pb.OutputFormat(), "newer worker"),
    ],
)
async def test_what_cannot_be_held_to_is_refused_before_it_is_taken(worker, output_format, why):
    call = worker.generate("x", stop=limits(), output_format=output_format)
    code, details = await worker.refusal(call)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert why in details


async def test_a_resume_that_breaks_the_format_is_refused(worker):
    digest = (await worker.stats()).model_digest
    resume = pb.Resume(token_ids=[100, 200], model_digest=digest)
    code, details = await worker.refusal(
        worker.generate("x", stop=limits(), output_format=HELD, resume=resume)
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "break the format" in details


async def test_a_matcher_that_fails_ends_its_request_and_the_worker_serves_on(worker):
    """It meets a limit of llguidance in the middle: behind the digits each letter may be any."""
    kinds = "|".join(f"{letter}[a-z]{{40}}{letter.upper()}" for letter in string.ascii_lowercase)
    held = pb.OutputFormat(regex=f"[0-9]{{12}}[a-z]*({kinds})")
    beside = asyncio.create_task(worker.generate("y", stop=limits(max_tokens=40)))
    code, details = await worker.refusal(worker.generate("x", stop=limits(), output_format=held))
    assert code == grpc.StatusCode.ABORTED
    assert "cannot be followed any further: lexer error" in details
    assert len((await beside).ids) == 40
    await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)


async def test_stats_say_that_formats_are_held_to(worker):
    assert "output_format" in (await worker.stats()).features


async def test_the_paced_device_refuses_what_its_words_cannot_write(start_worker):
    worker = await (await start_worker()).ready()
    code, details = await worker.refusal(worker.generate("x", output_format=HELD))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "format cannot be enforced" in details
    words = pb.OutputFormat(regex="( fleet| wakes)+")
    reply = await worker.generate("x", stop=limits(max_tokens=5), output_format=words)
    assert set(reply.text.split()) <= {"fleet", "wakes"}

"""Generate over real gRPC, with the real engine on the paced device."""

import asyncio
import random
import time
from dataclasses import replace

import grpc
import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto.handshake import call_metadata
from modelfleet_proto.refusals import FULL, REFUSED, read_refusal

MODEL = "default/model"
SLOW = {"step_seconds": 0.02}
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


def limits(**fields) -> pb.StopConditions:
    return pb.StopConditions(**({"max_tokens": 40, "ignore_eos": True} | fields))


async def test_streams_an_answer_and_counts_its_tokens(start_worker):
    worker = await (await start_worker()).ready()
    reply = await worker.generate("one two three", stop=limits(max_tokens=5))
    assert reply.accepted.worker_id == "worker-0"
    assert reply.accepted.model_digest == (await worker.stats()).model_digest
    assert reply.accepted.prompt_tokens == reply.finished.prompt_tokens == 3
    assert reply.finished.completion_tokens == len(reply.ids) == 5
    assert reply.finished.reason == LENGTH
    assert len(reply.text.split()) == 5


async def test_an_answer_ends_by_itself(start_worker):
    worker = await (await start_worker()).ready()
    reply = await worker.generate()
    assert reply.finished.reason == STOP
    assert reply.ids[-1] == 0
    assert len(reply.text.split()) == len(reply.ids) - 1


async def test_64_streams_get_their_own_right_text(start_worker):
    worker = await (await start_worker()).ready()
    alone = [await worker.generate(f"prompt {i}", stop=limits(max_tokens=8)) for i in range(64)]
    together = await asyncio.gather(
        *(worker.generate(f"prompt {i}", stop=limits(max_tokens=8)) for i in range(64))
    )
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert len({reply.text for reply in alone}) == 64


async def test_a_chat_is_rendered_and_token_ids_are_taken_as_they_are(start_worker):
    worker = await (await start_worker()).ready()
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")], add_generation_prompt=True)
    assert (await worker.generate(chat=chat)).accepted.prompt_tokens == 3  # user: hi assistant:
    ids = pb.TokenIds(ids=[5, 6, 7, 8])
    assert (await worker.generate(prompt_token_ids=ids)).accepted.prompt_tokens == 4


async def test_a_stop_string_ends_text_and_engine(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    whole = await worker.generate(stop=limits())
    words = whole.text.split(" ")
    stop = f"{words[3]} {words[4][:1]}"  # across two tokens
    reply = await worker.generate(stop=limits(max_tokens=2000, strings=["never", stop]))
    assert reply.text == " ".join(words[:3]) + " "
    assert (reply.finished.reason, reply.finished.stop_string) == (STOP, stop)
    assert reply.finished.completion_tokens == len(reply.ids) == 5
    stats = await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    assert stats.completion_tokens < 40 + 5 + 5  # the engine stopped within a few steps


async def test_a_stop_token_ends_it_and_is_not_text(start_worker):
    worker = await (await start_worker()).ready()
    whole = await worker.generate(stop=limits())
    reply = await worker.generate(stop=limits(token_ids=[whole.ids[6]]))
    assert reply.ids == whole.ids[:7]
    assert reply.text == " ".join(whole.text.split(" ")[:6])
    assert reply.finished.reason == STOP


async def test_logprobs_come_with_the_bytes_of_each_token(start_worker):
    worker = await (await start_worker()).ready()
    reply = await worker.generate(
        stop=limits(max_tokens=5), logprobs=pb.Logprobs(enabled=True, top=1)
    )
    logprobs = [entry for tokens in reply.tokens for entry in tokens.logprobs]
    assert [entry.chosen.id for entry in logprobs] == reply.ids
    assert b"".join(entry.chosen.token for entry in logprobs).decode().strip() == reply.text
    assert all(entry.top[0] == entry.chosen for entry in logprobs)


async def test_no_logprobs_unless_asked_for(start_worker):
    worker = await (await start_worker()).ready()
    reply = await worker.generate(stop=limits(max_tokens=5), logprobs=pb.Logprobs(top=5))
    assert not any(tokens.logprobs for tokens in reply.tokens)


@pytest.mark.parametrize("received", [0, 1, 7, 19])
async def test_a_resumed_stream_goes_on_as_if_it_never_broke(start_worker, received):
    first = await (await start_worker()).ready()
    second = await (await start_worker()).ready()
    request = {"sampling": pb.Sampling(temperature=1, top_p=1), "seed": 7, "choice": 1}
    whole = await first.generate(stop=limits(max_tokens=20), **request)
    sent = whole.tokens[:received]
    resume = pb.Resume(
        token_ids=[token_id for tokens in sent for token_id in tokens.ids],
        model_digest=whole.accepted.model_digest,
    )
    rest = await second.generate(stop=limits(max_tokens=20), resume=resume, **request)
    assert "".join(tokens.text for tokens in sent) + rest.text == whole.text
    assert list(resume.token_ids) + rest.ids == whole.ids
    assert rest.finished.completion_tokens == 20


async def test_a_stream_that_is_prepared_is_in_the_cache_and_in_no_count(start_worker):
    worker = await (await start_worker()).ready()
    prompt = " ".join(f"w{n}" for n in range(64))
    whole = await worker.generate("x", stop=limits())
    digest = whole.accepted.model_digest
    fresh = await (await start_worker()).ready()
    ahead = pb.Resume(token_ids=whole.ids[:20], model_digest=digest, prepares=True)
    await fresh.generate(prompt, stop=limits(max_tokens=21), resume=ahead)
    stats = await fresh.stats_when(lambda stats: stats.completion_tokens == 1)
    assert stats.requests_finished == 0
    resume = pb.Resume(token_ids=whole.ids[:24], model_digest=digest)
    rest = await fresh.generate(prompt, stop=limits(), resume=resume)
    assert len(rest.ids) == 16
    stats = await fresh.stats_when(lambda stats: stats.requests_finished == 1)
    assert stats.cached_tokens >= 64


async def test_a_resume_whose_ids_end_the_answer_is_finished_at_once(start_worker):
    worker = await (await start_worker()).ready()
    whole = await worker.generate(stop=limits())
    resume = pb.Resume(token_ids=whole.ids, model_digest=whole.accepted.model_digest)
    last = whole.text.split(" ")[-1]
    steps = (await worker.stats()).steps
    for stop in (limits(), limits(token_ids=whole.ids[-1:]), limits(strings=[last])):
        reply = await worker.generate(stop=stop, resume=resume)
        assert (reply.ids, reply.finished.completion_tokens) == ([], 40)
    assert (await worker.stats()).steps == steps


async def test_a_resume_gives_back_text_that_was_held(start_worker):
    worker = await (await start_worker()).ready()
    whole = await worker.generate(stop=limits())
    held = whole.text[-3:]
    resume = pb.Resume(token_ids=whole.ids, model_digest=whole.accepted.model_digest)
    reply = await worker.generate(stop=limits(strings=[held + "!"]), resume=resume)
    assert reply.text == held


async def test_a_resume_from_another_model_is_refused(start_worker):
    worker = await (await start_worker()).ready()
    resume = pb.Resume(token_ids=[1], model_digest="another")
    code, details = await worker.refusal(worker.generate(resume=resume))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "another" in details


async def test_a_client_that_goes_stops_its_generation(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    call = await worker.accepted(stop=limits(max_tokens=4000))
    assert (await call.read()).HasField("tokens")
    before = (await worker.stats()).completion_tokens
    call.cancel()
    gone = await worker.stats_when(lambda stats: stats.requests_cancelled == 1)
    await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    await worker.generate(stop=limits(max_tokens=1))  # steps go on, without the one that is gone
    after = await worker.stats()
    assert after.completion_tokens - 1 - before <= 5
    assert (gone.running, gone.waiting, after.requests_finished) == (0, 0, 1)


@pytest.mark.parametrize("after", [0.0, 0.02, 0.3])
async def test_a_client_that_goes_during_a_long_prefill_frees_its_place(start_worker, paced, after):
    loader = paced(prefill_token_seconds=0.002)
    worker = await (await start_worker(loader)).ready(max_batch_tokens=32)
    call = worker.start("word " * 4000)  # eight seconds of prefill
    await asyncio.sleep(after)
    call.cancel()
    reply = await worker.generate("Hi", stop=limits(max_tokens=1))
    assert reply.finished.completion_tokens == 1
    stats = await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.prompt_tokens <= 1 + 1  # the long one was never finished


async def test_clients_that_go_at_any_moment_leave_nothing_behind(start_worker):
    worker = await (await start_worker()).ready(max_sequences=8)
    draw = random.Random(4)

    async def come_and_go(number: int) -> None:
        call = worker.start(f"prompt {number}", stop=limits(max_tokens=200))
        await asyncio.sleep(draw.random() * 0.2)
        call.cancel()

    await asyncio.gather(*(come_and_go(number) for number in range(60)))
    stats = await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    assert (stats.running, stats.waiting) == (0, 0)
    assert (await worker.generate()).text


@pytest.mark.parametrize("letter", ["x", "\n", "\N{GRINNING FACE}"], ids=["x", "newline", "emoji"])
async def test_a_refusal_of_any_length_keeps_its_status(start_worker, letter):
    """Beyond 8 KiB of metadata a client would see RESOURCE_EXHAUSTED instead."""
    worker = await (await start_worker()).ready()
    chat = pb.Chat(messages=[pb.ChatMessage(role=letter * 100_000, content="hi")])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.generate(chat=chat)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "role must be one of" in refused.value.details()
    assert read_refusal(refused.value.trailing_metadata()) == REFUSED


async def test_more_requests_than_slots_are_refused_until_one_is_free(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready(max_sequences=2)
    calls = [await worker.accepted(stop=limits(max_tokens=4000)) for _ in range(2)]
    code, details = await worker.refusal(worker.generate())
    assert (code, "2 slots" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await worker.generate()
    assert read_refusal(refused.value.trailing_metadata()) == FULL
    calls[0].cancel()
    stats = await worker.stats_when(lambda stats: stats.running + stats.waiting == 1)
    assert stats.slots == 2
    assert (await worker.generate(stop=limits(max_tokens=1))).ids
    calls[1].cancel()


@pytest.mark.parametrize(
    ("wrong", "code", "details"),
    [
        pytest.param({"model": "default/other"}, "NOT_FOUND", "holds default/model", id="model"),
        pytest.param({"prompt": ""}, "INVALID_ARGUMENT", "empty", id="empty prompt"),
        pytest.param({"prompt": "   "}, "INVALID_ARGUMENT", "no tokens", id="blank prompt"),
        pytest.param(
            {"sampling": pb.Sampling(temperature=-1, top_p=1)},
            "INVALID_ARGUMENT",
            "temperature",
            id="negative temperature",
        ),
        pytest.param(
            {"prompt": "word " * 9000}, "OUT_OF_RANGE", "at least 9000 tokens", id="long prompt"
        ),
        pytest.param(
            {"stop": pb.StopConditions(max_tokens=8192)}, "OUT_OF_RANGE", "8192", id="long answer"
        ),
        pytest.param(
            {"prompt_token_ids": pb.TokenIds(ids=[4096])}, "INVALID_ARGUMENT", "4096", id="bad id"
        ),
        pytest.param(
            {"sampling": pb.Sampling(top_p=1, logit_bias={4096: 1})},
            "INVALID_ARGUMENT",
            "logit_bias names token 4096",
            id="biased id",
        ),
    ],
)
async def test_a_bad_request_is_refused_and_the_service_goes_on(start_worker, wrong, code, details):
    worker = await (await start_worker()).ready()
    refused_with, said = await worker.refusal(worker.generate(**wrong))
    assert refused_with.name == code
    assert details in said
    assert (await worker.generate()).text
    assert (await worker.stats()).kv_blocks_used == 0


async def test_bytes_that_are_no_request_do_not_hurt_the_service(start_worker):
    worker = await (await start_worker()).ready()
    call = worker.channel.unary_stream("/modelfleet.v1alpha1.Worker/Generate")
    wrong_utf8 = pb.GenerateRequest(prompt="xx").SerializeToString().replace(b"xx", b"\xff\xfe")
    for body in (wrong_utf8, b"\xff\xff\xff"):
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in call(body):
                pass
    assert (await worker.generate()).text


async def test_an_enormous_prompt_is_refused_quickly(start_worker):
    worker = await (await start_worker()).ready()
    began = time.monotonic()
    code, _ = await worker.refusal(worker.generate("w" * 50_000_000))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert time.monotonic() - began < 10


async def test_learns_how_many_bytes_a_token_has(start_worker):
    worker = await (await start_worker()).ready()
    assert (await worker.stats()).bytes_per_token == 0
    await worker.generate("ab ab ab")
    await worker.generate(prompt_token_ids=pb.TokenIds(ids=[1] * 100))
    assert (await worker.stats()).bytes_per_token == pytest.approx(8 / 3)


async def test_another_version_is_refused_by_name(start_worker):
    worker = await start_worker()
    call = worker.stub.GetStats(
        pb.StatsRequest(), metadata=call_metadata("gateway", version="9.0.0")
    )
    code, details = await worker.refusal(call)
    assert (code, "gateway/9.0.0" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)


async def test_a_tokenizer_that_knows_more_tokens_than_the_model_fails_no_worker(
    start_worker, paced
):
    loader = paced()

    def load(spec, report):
        loaded = loader(spec, report)
        few = replace(loaded.model.limits, vocab_size=2)
        return replace(loaded, model=replace(loaded.model, limits=few))

    worker = await (await start_worker(load)).ready()
    code, details = await worker.refusal(worker.start("one two three").read())
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "of the tokenizer, but the model knows 2 tokens" in details
    assert (await worker.stats()).state == pb.WORKER_STATE_READY


async def test_tenants_share_no_cached_prompt(start_worker):
    worker = await (await start_worker()).ready()
    prompt = " ".join(f"word-{i}" for i in range(40))

    async def cached(salt: str) -> int:
        reply = await worker.generate(prompt, cache_salt=salt, stop=limits(max_tokens=2))
        return reply.finished.cached_tokens

    assert [await cached(salt) for salt in ("a", "b", "", "a", "b", "")] == [0, 0, 0, 32, 32, 32]


async def test_a_salt_changes_no_token(start_worker):
    worker = await (await start_worker()).ready()
    plain = await worker.generate(stop=limits(max_tokens=8))
    assert (await worker.generate(stop=limits(max_tokens=8), cache_salt="a")).ids == plain.ids

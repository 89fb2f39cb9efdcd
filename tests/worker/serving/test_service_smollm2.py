"""The whole worker with the real SmolLM2 in float32: what it says is what transformers says."""

import asyncio
from functools import cache
from pathlib import Path

import grpc
import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto.handshake import call_metadata
from modelfleet_worker.loading.device_loaders import Loaded, Loader, cpu_loader
from modelfleet_worker.progress import Report
from modelfleet_worker.spec import ModelSpec
from modelfleet_worker.storage.cache import Cache

MODELS = Path("~/.cache/modelfleet/models").expanduser()
SOURCE = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
# Its answer has emojis, whose bytes come in several tokens.
QUESTION = "List three words in Japanese, Russian and Hebrew, and an emoji."
TOKENS = 24

pytestmark = pytest.mark.integration


@cache
def smollm2(spec: ModelSpec) -> Loaded:
    remote = Cache(MODELS.parent / "remote")
    return cpu_loader(MODELS, remote)(spec, lambda phase, share: None)


def loader() -> Loader:
    """The weights are read once; every test gets an engine of its own around them."""

    def load(spec: ModelSpec, report: Report) -> Loaded:
        return smollm2(spec)

    return load


async def start(start_worker):
    worker = await start_worker(loader())
    return await worker.ready(
        source=SOURCE, dtype="Float32", context_length=1024, kv_cache_bytes=256 * 2**20
    )


def chat(content: str) -> pb.Chat:
    return pb.Chat(
        messages=[pb.ChatMessage(role="user", content=content)], add_generation_prompt=True
    )


def limits(**fields) -> pb.StopConditions:
    return pb.StopConditions(**({"max_tokens": TOKENS} | fields))


@cache
def reference(content: str) -> tuple[int, list[int], str]:
    """transformers: (prompt tokens, ids of the answer, its text)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = MODELS / SOURCE.removeprefix("hf://")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    ids = model.generate(**prompt, max_new_tokens=TOKENS, do_sample=False)
    prompt_tokens = prompt["input_ids"].shape[1]
    answer = ids[0, prompt_tokens:].tolist()
    return prompt_tokens, answer, tokenizer.decode(answer, skip_special_tokens=True)


async def test_a_greedy_chat_equals_transformers(start_worker):
    worker = await start(start_worker)
    reply = await worker.generate(chat=chat(QUESTION), stop=limits())
    assert (reply.finished.prompt_tokens, reply.ids, reply.text) == reference(QUESTION)


async def test_requests_beside_it_change_nothing(start_worker):
    worker = await start(start_worker)
    others = [worker.start(f"Neighbour number {i} says", stop=limits()) for i in range(3)]
    reply = await worker.generate(chat=chat(QUESTION), stop=limits())
    assert reply.ids == reference(QUESTION)[1]
    for call in others:
        assert (await worker.read(call)).ids


async def test_a_second_request_finds_the_first_ones_prompt_in_the_cache(start_worker):
    worker = await start(start_worker)
    first = await worker.generate(chat=chat(QUESTION), stop=limits())
    second = await worker.generate(chat=chat(QUESTION), stop=limits())
    assert first.finished.cached_tokens == 0
    assert 0 < second.finished.cached_tokens < second.finished.prompt_tokens
    assert second.text == first.text


async def test_a_stop_string_cuts_the_text_where_it_stands(start_worker):
    worker = await start(start_worker)
    whole = reference(QUESTION)[2]
    stop = whole[11:13]  # emojis of several tokens each
    reply = await worker.generate(chat=chat(QUESTION), stop=limits(strings=[stop]))
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finished.stop_string == stop


@pytest.mark.parametrize("received", [1, 11])
async def test_resumed_anywhere_it_is_the_same_answer(start_worker, received):
    worker = await start(start_worker)
    whole = await worker.generate(chat=chat(QUESTION), stop=limits())
    sent = whole.tokens[:received]
    resume = pb.Resume(
        token_ids=[token_id for tokens in sent for token_id in tokens.ids],
        model_digest=whole.accepted.model_digest,
    )
    rest = await worker.generate(chat=chat(QUESTION), stop=limits(), resume=resume)
    resumed = "".join(tokens.text for tokens in sent) + rest.text
    assert resumed == whole.text == reference(QUESTION)[2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_p": 0.02, "logit_bias": {28: -5}, "repetition_penalty": 1.2},
        {"presence_penalty": 0.5, "frequency_penalty": 1.5},
    ],
)
async def test_sampling_resumes_with_the_same_draws(start_worker, options):
    worker = await start(start_worker)
    request = {
        "stop": limits(max_tokens=16, ignore_eos=True),
        "sampling": pb.Sampling(temperature=1.0, top_p=0.95, top_k=50, **options),
        "seed": 42,
    }
    whole = await worker.generate("Once upon a time", **request)
    resume = pb.Resume(token_ids=whole.ids[:9], model_digest=whole.accepted.model_digest)
    rest = await worker.generate("Once upon a time", resume=resume, **request)
    assert whole.ids[:9] + rest.ids == whole.ids
    another = await worker.generate("Once upon a time", **(request | {"seed": 43}))
    assert another.ids != whole.ids


async def test_logprobs_are_of_the_greedy_choice(start_worker):
    worker = await start(start_worker)
    reply = await worker.generate(
        chat=chat(QUESTION), stop=limits(max_tokens=8), logprobs=pb.Logprobs(enabled=True, top=3)
    )
    entries = [entry for tokens in reply.tokens for entry in tokens.logprobs]
    assert [entry.chosen.id for entry in entries] == reply.ids
    for entry in entries:
        assert entry.top[0] == entry.chosen
        values = [top.logprob for top in entry.top]
        assert values == sorted(values, reverse=True)
        assert len(values) == 3
        assert values[0] < 0


async def test_a_plain_prompt_is_tokenized_as_it_is(start_worker):
    worker = await start(start_worker)
    reply = await worker.generate("The capital of France is", stop=limits(max_tokens=2))
    assert reply.text.strip().startswith("Paris")


async def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(start_worker):
    worker = await start(start_worker)
    code, details = await worker.refusal(worker.generate("word " * 1200, stop=limits()))
    assert code == grpc.StatusCode.OUT_OF_RANGE
    assert "1201 prompt tokens" in details
    assert "1024" in details
    code, details = await worker.refusal(worker.generate("x" * 10_000_000))
    assert code == grpc.StatusCode.OUT_OF_RANGE


async def test_eight_streams_cancelled_midway_leave_the_ninth_alone(start_worker):
    worker = await start(start_worker)
    calls = [await worker.accepted(prompt=f"Tale {i}: once", stop=limits()) for i in range(8)]
    ninth = asyncio.create_task(worker.generate(chat=chat(QUESTION), stop=limits()))
    for call in calls:
        call.cancel()
    assert (await ninth).text == reference(QUESTION)[2]
    stats = await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    assert stats.requests_cancelled == 8


async def test_tokenizes_as_transformers_does(start_worker):
    worker = await start(start_worker)
    metadata = call_metadata("gateway")

    async def ids_of(**prompt) -> list[int]:
        request = pb.GenerateRequest(model="default/model", **prompt)
        asked = pb.TokenizeRequest(request=request)
        return list((await worker.stub.Tokenize(asked, metadata=metadata)).ids)

    prompt_tokens, answer, text = reference(QUESTION)
    assert len(await ids_of(chat=chat(QUESTION))) == prompt_tokens
    back = pb.DetokenizeRequest(model="default/model", ids=answer)
    assert (await worker.stub.Detokenize(back, metadata=metadata)).text.startswith(text)
    said = "<|im_start|>user\nGrüße, 世界 🦊<|im_end|>"
    ids = await ids_of(prompt=said)
    back = pb.DetokenizeRequest(model="default/model", ids=ids)
    assert (await worker.stub.Detokenize(back, metadata=metadata)).text == said

"""A request that is large in whatever way is refused in words, or read beside everything else."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from typing_extensions import override

from modelfleet_proto import worker_pb2 as pb
from modelfleet_worker.engine.request import EngineLimits
from modelfleet_worker.errors import InvalidRequestError, NeverFitsError
from modelfleet_worker.loading.device_loaders import Loader
from modelfleet_worker.progress import Report
from modelfleet_worker.serving.requests import check_counts
from modelfleet_worker.spec import ModelSpec
from modelfleet_worker.text.paced import PacedTokenizer
from modelfleet_worker.text.tokenizer import Chat

LIMITS = EngineLimits(context_length=8192, kv_tokens=65536, max_sequences=4, vocab_size=4096)
TIMEOUT = 30.0


def chat(count: int, content: str = "") -> pb.Chat:
    message = pb.ChatMessage(role="user", content=content)
    return pb.Chat(messages=[message] * count, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"chat": chat(8193)}, "8193 messages"),
        ({"chat": chat(100_000, "x")}, "100000 messages"),
        ({"prompt_token_ids": pb.TokenIds(ids=[1] * 2_000_000)}, "2000000 prompt tokens"),
        ({"resume": pb.Resume(token_ids=[1] * 100_000)}, "100000 resumed tokens"),
    ],
)
def test_more_of_anything_than_the_context_has_tokens_is_refused(
    fields: dict[str, object], found: str
):
    with pytest.raises(NeverFitsError, match=f"has {found}, but the context holds 8192 tokens"):
        check_counts(pb.GenerateRequest(**fields), LIMITS)  # type: ignore[arg-type]


def test_as_many_as_there_are_tokens_may_fit():
    check_counts(pb.GenerateRequest(chat=chat(8192)), LIMITS)


@pytest.mark.parametrize("content", ["", "x"])
async def test_a_chat_of_100_000_messages_is_refused_by_its_count(start_worker, content):
    worker = await (await start_worker()).ready()
    code, said = await worker.refusal(worker.generate(chat=chat(100_000, content)))
    assert (code.name, "100000 messages" in said) == ("OUT_OF_RANGE", True)


class GatedTokenizer(PacedTokenizer):
    """Renders chats only while its gate is open, and counts how many at once."""

    def __init__(self) -> None:
        super().__init__(4096)
        self.gate = threading.Event()
        self.most = self._running = 0

    @override
    def render_chat(self, chat: Chat) -> str:
        self._running += 1
        self.most = max(self.most, self._running)
        if not self.gate.wait(TIMEOUT):
            raise AssertionError("nothing else went on")
        self._running -= 1
        return super().render_chat(chat)


def with_tokenizer(loader: Loader, tokenizer: PacedTokenizer) -> Loader:
    def load(spec: ModelSpec, report: Report):
        return replace(loader(spec, report), tokenizer=tokenizer)

    return load


@pytest.mark.parametrize("long", [chat(1000), chat(2, "word " * 1000)], ids=["many", "long"])
async def test_the_worker_goes_on_while_a_chat_is_rendered(start_worker, paced, long):
    tokenizer = GatedTokenizer()
    worker = await (await start_worker(with_tokenizer(paced(), tokenizer))).ready()
    chats = [
        asyncio.ensure_future(worker.generate(chat=long, stop=pb.StopConditions(max_tokens=1)))
        for _ in range(3)
    ]
    stats = await worker.stats_when(lambda stats: stats.waiting == 3)
    assert stats.state == pb.WORKER_STATE_READY
    assert (await worker.generate("Hi", stop=pb.StopConditions(max_tokens=1))).ids
    tokenizer.gate.set()
    for reply in await asyncio.gather(*chats):
        assert reply.finished.completion_tokens == 1
    assert tokenizer.most == 1, "each of them would hold up the event loop"


class VerboseTokenizer(PacedTokenizer):
    """Says much about what it refuses, as a template may."""

    @override
    def render_chat(self, chat: Chat) -> str:
        raise InvalidRequestError("no: \ud83d" + chat.messages[0].content)


async def test_a_refusal_is_short_enough_to_arrive_as_what_it_is(start_worker, paced):
    """One beyond gRPC's 8 KiB of metadata would arrive as RESOURCE_EXHAUSTED."""
    loader = with_tokenizer(paced(), VerboseTokenizer(4096))
    worker = await (await start_worker(loader)).ready()
    for wrong in (
        {"chat": chat(1, "🦊" * 1_000_000)},
        {"chat": chat(1, "half of a character")},
        {"chat": pb.Chat(messages=[pb.ChatMessage(role="🦊" * 1_000_000)])},
        {"resume": pb.Resume(model_digest="🦊" * 1_000_000)},
        {"model": "🦊" * 1_000_000},
    ):
        code, said = await worker.refusal(worker.generate(**wrong))
        assert code.name in ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND")
        assert 10 < len(said) < 1000

"""The mailbox of a request whose client reads slowly, or not at all."""

from __future__ import annotations

import tracemalloc

from modelfleet_worker.engine.messages import RequestOutput, TokenLogprobs
from modelfleet_worker.engine.request import FinishReason
from modelfleet_worker.loading.working_memory import STREAM_TOKEN
from modelfleet_worker.serving.streams import PACKED_TOKENS, Stream


def output(number: int, *, top: int | None = 20, last: bool = False) -> RequestOutput:
    """As the engine makes them: a token each; logprobs are numbers of float32."""
    logprobs = ()
    if top is not None:
        alternatives = tuple((number + i, -(number + i) / 1024) for i in range(top))
        logprobs = (TokenLogprobs(-number / 1024, alternatives),)
    return RequestOutput(
        request_id="a",
        ids=(number,),
        logprobs=logprobs,
        cached_tokens=16,
        finished=FinishReason.LENGTH if last else None,
    )


def together(outputs: list[RequestOutput]) -> tuple[list[int], list[TokenLogprobs]]:
    return [i for o in outputs for i in o.ids], [p for o in outputs for p in o.logprobs]


async def drained(stream: Stream) -> list[list[RequestOutput]]:
    batches = [await stream.next()]
    while batches[-1][-1].finished is None:
        batches.append(await stream.next())
    return batches


async def test_a_backlog_is_what_was_put_in_it_in_order_and_in_small_batches():
    for top in (None, 0, 20):
        stream, sent = Stream("a"), []
        for number in range(3000):
            sent.append(output(number, top=top, last=number == 2999))
            stream.put(sent[-1])
        batches = await drained(stream)
        assert together([o for batch in batches for o in batch]) == together(sent)
        assert max(len(o.ids) for batch in batches for o in batch) == PACKED_TOKENS
        assert all(o.cached_tokens == 16 for batch in batches for o in batch)
        assert batches[-1][-1].finished is FinishReason.LENGTH
        assert [o.finished for batch in batches[:-1] for o in batch] == [None] * (
            sum(map(len, batches[:-1]))
        )


async def test_what_comes_while_a_backlog_is_read_comes_after_it():
    stream, read, number = Stream("a"), [], 0
    for round_ in range(40):
        for _ in range(200 if round_ % 2 else 10):
            stream.put(output(number, top=2))
            number += 1
        read += [i for o in await stream.next() for i in o.ids]
    stream.put(output(number, last=True))
    read += [i for batch in await drained(stream) for o in batch for i in o.ids]
    assert read == list(range(number + 1))


async def test_an_unread_token_takes_no_more_than_is_reckoned_with():
    stream = Stream("a")
    tracemalloc.start()
    try:
        for number in range(8192):
            stream.put(output(1000 + number))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 8192 * STREAM_TOKEN

"""What it costs to hold answers to a JSON schema: tokens a second, and the time to the first one.

Each pair is measured in one worker process, in turn, so that both meet the same moods of the
machine.
`ignore_eos` and one max_tokens give both the same number of tokens: the schema's are an array of
objects that never has enough items. Prompts, seeds and temperature are the same. Then the first
token of requests with schemas of 2 KB: each new, then each again, beside requests without one. Then
the longest pause of a plain stream while many requests come at once, each with a new schema, beside
as many without one.

    python benchmarks/structured_output.py $(python tools/prepare_smollm2.py)
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import time

import machine
from modelfleet_proto import worker_pb2, worker_pb2_grpc
from worker_process import ready_worker, request_of, worker_process

WORDS = ("city", "name", "age", "street", "tags", "price", "unit", "note", "level", "owner")
ENDLESS = {
    "type": "array",
    "minItems": 100_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["customer", "employee", "supplier"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 4},
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": False,
    },
}


def two_kilobytes(number: int) -> str:
    """A schema that no other is equal to."""
    numbers = random.Random(number)
    properties: dict[str, object] = {}
    while len(json.dumps(properties)) < 1850:
        name = f"{numbers.choice(WORDS)}_{len(properties)}_{number}"
        properties[name] = numbers.choice(
            [
                {"type": "string", "maxLength": numbers.randint(5, 50), "description": "d" * 30},
                {"type": "integer", "minimum": 0, "maximum": numbers.randint(10, 10_000)},
                {"enum": [f"{w}-{number}" for w in numbers.sample(WORDS, 4)]},
                {"type": "array", "items": {"type": "string", "format": "date"}, "maxItems": 5},
                {"anyOf": [{"type": "number"}, {"type": "null"}], "default": None},
            ]
        )
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return json.dumps(schema | {"additionalProperties": False})


def asking(prompt: list[int], tokens: int, schema: str | None) -> worker_pb2.GenerateRequest:
    request = request_of(prompt, tokens)
    request.seed = sum(prompt)
    request.sampling.temperature = 0.8
    if schema is not None:
        request.output_format.json_schema = schema
    return request


async def answer(
    worker: worker_pb2_grpc.WorkerAsyncStub, request: worker_pb2.GenerateRequest
) -> tuple[float, float, int]:
    """Seconds to the first token, seconds in all, tokens."""
    begun, first, count = time.perf_counter(), 0.0, 0
    async for response in worker.Generate(request):
        if response.HasField("tokens"):
            first = first or time.perf_counter()
            count += len(response.tokens.ids)
    return first - begun, time.perf_counter() - begun, count


async def rate(
    worker: worker_pb2_grpc.WorkerAsyncStub,
    streams: int,
    tokens: int,
    schema: str | None,
    seed: int,
) -> float:
    """Tokens a second of so many streams at once."""
    numbers = random.Random(seed)
    prompts = [[numbers.randrange(100, 40_000) for _ in range(32)] for _ in range(streams)]
    begun = time.perf_counter()
    answers = await asyncio.gather(*(answer(worker, asking(p, tokens, schema)) for p in prompts))
    assert all(count == tokens for _, _, count in answers), answers
    return streams * tokens / (time.perf_counter() - begun)


async def first_token(
    worker: worker_pb2_grpc.WorkerAsyncStub, schema: str | None, seed: int
) -> float:
    numbers = random.Random(seed)
    prompt = [numbers.randrange(100, 40_000) for _ in range(64)]
    return (await answer(worker, asking(prompt, 4, schema)))[0] * 1000


async def longest_pause(
    worker: worker_pb2_grpc.WorkerAsyncStub, schemas: list[str | None], seed: int
) -> tuple[float, float]:
    """Of a plain stream, in ms, while these requests come at once; and ms until all are served."""
    begun, times = asyncio.Event(), list[float]()

    async def stream() -> None:
        async for response in worker.Generate(asking([seed], 6000, None)):
            if response.HasField("tokens"):
                times.append(time.perf_counter())
                if len(times) == 10:
                    begun.set()

    plain = asyncio.create_task(stream())
    await begun.wait()
    times.clear()
    numbers, came = random.Random(seed), time.perf_counter()
    prompts = [[numbers.randrange(100, 40_000) for _ in range(8)] for _ in schemas]
    await asyncio.gather(
        *(answer(worker, asking(p, 1, s)) for p, s in zip(prompts, schemas, strict=True))
    )
    served = time.perf_counter()
    await asyncio.sleep(0.5)
    plain.cancel()
    await asyncio.wait([plain])
    pauses = [b - a for a, b in itertools.pairwise([came, *times])]
    return max(pauses) * 1000, (served - came) * 1000


async def compare(options: argparse.Namespace) -> None:
    rounds, tokens = options.rounds, options.tokens
    with worker_process(options.folder, "bfloat16") as address:
        async with ready_worker(address) as worker:
            schema = json.dumps(ENDLESS)
            await rate(worker, 16, 32, schema, 0)  # the set-up, and the memory
            await rate(worker, 16, 32, None, 0)
            print(f"{machine.description()}\n")
            print("| streams | tokens/s without | with | of it, median of pairs (least to most) |")
            print("|---|---|---|---|")
            for streams in options.streams:
                pairs = []
                for number in range(rounds):
                    without = await rate(worker, streams, tokens, None, number)
                    pairs.append((without, await rate(worker, streams, tokens, schema, number)))
                    pairs.append((await rate(worker, streams, tokens, None, number), pairs[-1][1]))
                ratios = sorted(held / free for free, held in pairs)
                free, held = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(
                    f"| {streams} | {free:.0f} | {held:.0f} | {statistics.median(ratios):.3f}"
                    f" ({ratios[0]:.3f} to {ratios[-1]:.3f}) |"
                )
            await first_tokens(worker, options.schemas)
            await pauses(worker, options.at_once)


async def pauses(worker: worker_pb2_grpc.WorkerAsyncStub, at_once: int) -> None:
    print(f"\n| {at_once} requests at once | longest pause of a plain stream, ms | served in, ms |")
    print("|---|---|---|")
    for seed in (1, 2):
        for kind in ("no schema", "a new one each"):
            new = kind != "no schema"
            schemas = [two_kilobytes(seed * 10_000 + i) if new else None for i in range(at_once)]
            pause, served = await longest_pause(worker, schemas, seed)
            print(f"| {kind} | {pause:.0f} | {served:.0f} |")


async def first_tokens(worker: worker_pb2_grpc.WorkerAsyncStub, schemas: int) -> None:
    kinds: dict[str, list[float]] = {"no schema": [], "new": [], "its second use": []}
    for number in range(schemas):
        text = two_kilobytes(number)
        kinds["no schema"].append(await first_token(worker, None, number + 1000))
        kinds["new"].append(await first_token(worker, text, number + 2000))
        kinds["its second use"].append(await first_token(worker, text, number + 3000))
    print(f"\n| schema of {len(text)} bytes | ms to the first token, median (most) | more |")
    print("|---|---|---|")
    base = statistics.median(kinds["no schema"])
    for kind, times in kinds.items():
        middle = statistics.median(times)
        print(f"| {kind} | {middle:.1f} ({max(times):.1f}) | {middle - base:+.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="Hugging Face folder of SmolLM2 (`make model` prints it)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--schemas", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=60)
    parser.add_argument("--streams", type=int, nargs="*", default=(1, 2, 4, 16))
    asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()

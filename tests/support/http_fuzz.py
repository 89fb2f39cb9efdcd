"""Requests that are nearly right, for a gateway of our own on this machine: none may harm it.

    python tests/support/http_fuzz.py [--seconds 300] [--seed 1]

The same seed gives the same requests. The test takes a few hundred of them; the command goes on for
minutes, and compares memory, descriptors and errors of a gateway process before and after.
"""

import argparse
import asyncio
import contextlib
import gzip
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from gateway_doubles import ScriptedWorker
from gateway_processes import gateway_process, operator_of
from raw_http import connect, parse

METHODS = [
    "GET",
    "POST",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "JUMP",
    "",
]
PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/tiny", "/healthz",
    "/readyz", "/metrics", "/", "*", "//", "/v1/../v1/models", "/%00", "/%ff", "/?a=b#c", "http://x/",
    "/v1/completions/", "/" + "x" * 9000, "/v1/responses", "/v1/messages", "/api/chat", "/tokenize",
    "/api/pull", "/v1/responses/x", "/openapi.json",
]  # fmt: skip
HEADERS = [
    ("content-type", "application/json"), ("content-type", "text/plain"), ("x", ""),
    ("expect", "100-continue"),
    ("content-encoding", "gzip"), ("content-encoding", "br"), ("connection", "close"),
    ("connection", "upgrade"), ("upgrade", "h2c"), ("upgrade", "websocket"), ("host", "other"),
    ("transfer-encoding", "chunked"), ("transfer-encoding", "gzip, chunked"), ("te", "trailers"),
    ("content-length", "5"), ("content-length", "-1"), ("content-length", "9" * 30),
    ("x-request-id", "a b\tc"), ("x-modelfleet-progress", "true"), ("origin", "https://x"),
    ("cookie", "x" * 5000), ("x-" + "y" * 500, "z"), ("accept", "\xff\xfe"),
]  # fmt: skip
FIELDS = [
    "model", "messages", "prompt", "temperature", "top_p", "top_k", "min_p", "logit_bias", "n",
    "stop", "stop_token_ids", "seed", "stream", "stream_options", "max_tokens", "logprobs",
    "top_logprobs", "tools", "response_format", "echo", "user", "unheard_of", "ignore_eos",
]  # fmt: skip


def any_json(chance: random.Random, depth: int = 0) -> Any:
    """A value of any type."""
    plain = [
        None, True, False, 0, -1, 1, 16, 0.5, 2**31, 2**64, 10**400, -(2**63), 1e308, "", "a",
        "tiny", "\ud800", "é🙂\n", "x" * 300, "user", "system", "y" * 70_000, list(range(5000)),
    ]  # fmt: skip
    choice = chance.randrange(len(plain) + (4 if depth < 3 else 0))
    if choice < len(plain):
        return plain[choice]
    if choice % 2:
        return [any_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    keys = [*FIELDS, "role", "content", "type", "text", "1", "include_usage"]
    return {chance.choice(keys): any_json(chance, depth + 1) for _ in range(chance.randrange(4))}


def any_body(chance: random.Random) -> bytes:
    """A body of which most is right."""
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2, "stream": chance.random() < 0.5}
    if chance.random() < 0.5:
        body["messages"] = [{"role": "user", "content": "hi"}]
        if chance.random() < 0.5:
            body["messages"].append({"role": "user", "content": any_json(chance)})
    else:
        body["prompt"] = "hi" if chance.random() < 0.5 else any_json(chance)
    for _ in range(chance.randrange(3)):
        body[chance.choice(FIELDS)] = any_json(chance)
    data = json.dumps(body).encode()
    if chance.random() < 0.1:
        data = data[: chance.randrange(len(data))]
    return gzip.compress(data) if chance.random() < 0.1 else data


def any_request(chance: random.Random) -> bytes:
    """A request, whole or not."""
    body = any_body(chance) if chance.random() < 0.8 else b""
    is_usual = chance.random() < 0.5
    method = "POST" if is_usual else chance.choice(METHODS)
    path = chance.choice(PATHS[:2] if is_usual else PATHS)
    version = chance.choices(["1.1", "1.0", "2.0", "x"], [20, 4, 1, 1])[0]
    lines = [f"{method} {path} HTTP/{version}", "host: gateway"]
    headers = chance.sample(HEADERS, chance.choice([0, 0, 1, 1, 2, 4]))
    lines += [f"{name}: {value}" for name, value in headers]
    if ("transfer-encoding", "chunked") in headers and chance.random() < 0.9:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    elif body:
        lines.append(f"content-length: {len(body)}")
    sent = bytearray("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    for _ in range(chance.choice([0, 0, 0, 1, 3])):  # wrong bytes, most in the head
        sent[chance.randrange(min(len(sent), 300))] = chance.randrange(256)
    if chance.random() < 0.1:
        del sent[chance.randrange(len(sent)) :]
    return bytes(sent)


async def read(reader: asyncio.StreamReader, patience: float) -> bytes:
    """What comes until the connection ends, or nothing comes for `patience` seconds."""
    raw = b""
    with contextlib.suppress(TimeoutError):
        while True:
            async with asyncio.timeout(patience):
                data = await reader.read(2**16)
            if not data:
                break
            raw += data
    return raw


def has_a_shape(body: dict[str, Any]) -> bool:
    """Whether an error is in the shape of one of the APIs: Ollama's, Anthropic's or OpenAI's."""
    error = body["error"]
    if isinstance(error, str):
        return set(body) == {"error"} and bool(error)
    kinds = ({"type", "message"}, {"message", "type", "param", "code"})
    return set(error) == kinds["type" not in body] and bool(error["message"])


async def send(url: str, chance: random.Random, patience: float) -> int:
    """One connection; the status of its first answer, 0 for none. Fails for what must not be."""
    sent = b"".join(any_request(chance) for _ in range(chance.choice([1, 1, 1, 2])))
    async with asyncio.timeout(30):
        reader, writer = await connect(url)
        try:
            writer.write(sent)
            how = chance.random()
            if how < 0.05:
                writer.transport.abort()
                return 0
            if how < 0.2:
                writer.write_eof()
            raw = await read(reader, patience)
        except ConnectionError:
            return 0
        finally:
            writer.close()
    raw = raw.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not raw:
        return 0
    answer = parse(raw)
    assert answer.status < 500, (answer, sent)
    assert b"Traceback" not in raw
    is_head = sent.startswith(b"HEAD")
    if answer.status >= 400 and "content-length" in answer.headers and not is_head:
        answer.body = answer.body[: int(answer.headers["content-length"])]
        assert answer.headers["content-type"] == "application/json"
        assert has_a_shape(json.loads(answer.body)), (answer, sent)
    return answer.status


async def fuzz(
    url: str, seed: int, requests: int, *, at_once: int = 16, patience: float = 60
) -> Counter[int]:
    """How often each status was answered.

    With a short `patience` connections are left that the gateway keeps; with a long one it fails if
    one of them does not end in time.
    """
    chance, statuses = random.Random(seed), Counter[int]()
    left = iter(range(requests))

    async def client() -> None:
        for _ in left:
            statuses[await send(url, random.Random(chance.random()), patience)] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
    return statuses


async def main() -> None:
    """The long run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    worker = ScriptedWorker(tokens=2, slots=1000, keeps_requests=False)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            operator_of(worker) as operator,
            gateway_process(operator, Path(folder)) as gateway,
        ):
            process = psutil.Process(gateway.process.pid)
            statuses = await fuzz(gateway.url, 0, 3000, at_once=100, patience=0.3)
            await asyncio.sleep(80)  # silent connections have ended
            before = process.memory_info().rss, process.num_fds()
            ends, seed = time.monotonic() + args.seconds, args.seed
            while time.monotonic() < ends:
                statuses += await fuzz(gateway.url, seed, 1000, at_once=100, patience=0.3)
                seed += 1
            await asyncio.sleep(80)
            after = process.memory_info().rss, process.num_fds()
    print("answers by status:", dict(sorted(statuses.items())))
    print(
        f"memory {before[0] >> 20} -> {after[0] >> 20} MiB, descriptors {before[1]} -> {after[1]}"
    )
    assert after[0] <= 1.1 * before[0]
    assert after[1] <= before[1]


if __name__ == "__main__":
    asyncio.run(main())

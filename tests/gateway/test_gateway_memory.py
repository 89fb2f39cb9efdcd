"""The memory of a gateway process under requests that are made to take much of it."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from gateway_doubles import ScriptedWorker
from gateway_processes import gateway_process, operator_of
from raw_http import ask, connect, request

pytestmark = pytest.mark.integration

MEBIBYTE = 1024 * 1024
SIZE = 8 * MEBIBYTE
ROOM = 100  # bytes of a body beside its text
SLACK = 8 * MEBIBYTE  # what the allocator keeps


def resident(pid: int, name: str = "VmRSS") -> int:
    """Bytes of memory now, or at most ("VmHWM") since `forget_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def body(text: bytes, **fields: object) -> bytes:
    """A prompt of nearly SIZE bytes that repeats this text, which is JSON as it is."""
    head = json.dumps({"model": "tiny", **fields}).encode()[:-1]
    return head + b', "prompt": "' + text * ((SIZE - ROOM - len(head)) // len(text)) + b'"}'


SHAPES = {
    "letters": body(b"x", n=16),
    "one wide letter, which widens all others": body(b"x" * 1_000_000 + "🙂".encode(), n=16),
    "escapes": body(b"\\n", n=16),
    "escaped emoji": body(b"\\ud83d\\ude00", n=16),
    "ids": json.dumps({"model": "tiny", "n": 16, "prompt": [7] * 1_000_000}).encode(),
    "empty messages": json.dumps(
        {"model": "tiny", "messages": [{"role": "user", "content": ""}] * 200_000}
    ).encode(),
    "empty lists": b'{"model": "tiny", "unheard_of": [' + b"[]," * 2_600_000 + b"1]}",
}


async def test_a_request_takes_at_most_four_times_its_size(tmp_path: Path):
    async def too_long(context, request, position):
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too long")

    # The worker refuses, as it would refuse two million tokens.
    worker = ScriptedWorker(slots=16, before_accept=too_long, keeps_requests=False)
    async with operator_of(worker) as operator, gateway_process(operator, tmp_path) as gateway:
        pid = gateway.process.pid
        await ask(gateway.url, request(body=b'{"model": "tiny", "prompt": "p"}'))
        for shape, sent in SHAPES.items():
            kind = "chat/completions" if b"messages" in sent[:80] else "completions"
            before = resident(pid)
            forget_peak(pid)
            answer = await ask(gateway.url, request(f"POST /v1/{kind}", body=sent))
            assert answer.status == 400, shape
            assert resident(pid, "VmHWM") - before <= 4 * len(sent) + SLACK, shape


async def test_many_half_sent_bodies_take_no_more_than_their_budget(tmp_path: Path):
    worker = ScriptedWorker(tokens=2)
    flags = ("--max-body-bytes", str(MEBIBYTE), "--max-held-bytes", str(8 * MEBIBYTE))
    async with (
        operator_of(worker) as operator,
        gateway_process(operator, tmp_path, *flags) as gateway,
        asyncio.timeout(60),
    ):
        pid = gateway.process.pid
        await gateway.client.completions.create(model="tiny", prompt="p")
        before = resident(pid)
        head = request("POST /v1/completions", "transfer-encoding: chunked")
        held = []
        for _ in range(60):
            _, writer = await connect(gateway.url)
            writer.write(head + b"%x\r\n" % MEBIBYTE + b"x" * (MEBIBYTE - 1))
            held.append(writer)
        answers = [gateway.client.completions.create(model="tiny", prompt="p") for _ in range(5)]
        assert len(await asyncio.gather(*answers)) == 5
        assert resident(pid) - before <= 24 * MEBIBYTE
        for writer in held:
            writer.close()

"""GenerateMany over real gRPC, with the real engine on the paced device."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

import grpc
import pytest

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto.refusals import FULL, HANDED_OVER, REFUSED
from modelfleet_proto.worker_pb2_grpc import WorkerStub
from modelfleet_worker.serving import shared_stream
from modelfleet_worker.serving.lifecycle import Lifecycle
from modelfleet_worker.serving.server import ServerOptions, WorkerServer
from modelfleet_worker.spec import ModelSpec

MODEL = "default/model"
SLOW = {"step_seconds": 0.02}
Code = grpc.StatusCode


def limits(**fields) -> pb.StopConditions:
    return pb.StopConditions(**({"max_tokens": 40, "ignore_eos": True} | fields))


class Caller:
    """One GenerateMany call, and all that came on it."""

    def __init__(self, stub: WorkerStub) -> None:
        self.call = stub.GenerateMany()
        self.events: dict[int, list[pb.GenerateEvent]] = defaultdict(list)
        self.messages: list[pb.GenerateEvents] = []

    async def start(self, number: int, prompt: str = "Wake up", **fields) -> None:
        fields = {"model": MODEL, "request_id": "test", "prompt": prompt} | fields
        request = pb.GenerateRequest(**fields)
        await self.command(number, start=request.SerializeToString())

    async def command(self, number: int, **command) -> None:
        await self.call.write(pb.GenerateCommand(number=number, **command))

    async def read_until(self, holds: Callable[[], object]) -> None:
        """Reads until it holds; AioRpcError when the call ended with a status."""
        async with asyncio.timeout(60):
            while not holds():
                message = await self.call.read()
                assert isinstance(message, pb.GenerateEvents), "the call ended"
                self.messages.append(message)
                for event in message.events:
                    self.events[event.number].append(event)

    async def answers(self, *numbers: int) -> list[str]:
        """The whole texts of these requests."""
        await self.read_until(lambda: all(self.has(number, "finished") for number in numbers))
        return [self.text(number) for number in numbers]

    async def refusal(self, number: int) -> tuple[Code, str, str]:
        await self.read_until(lambda: self.has(number, "refused"))
        refused = self.events[number][-1].refused
        code = next(code for code in Code if code.value[0] == refused.code)
        return code, refused.details, refused.mark

    async def status(self) -> tuple[Code, str]:
        """How the call ended."""
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await self.read_until(lambda: False)
        return ended.value.code(), ended.value.details() or ""

    def has(self, number: int, kind: str) -> bool:
        return kind in self.kinds(number)

    def kinds(self, number: int) -> list[str]:
        return [event.WhichOneof("event") for event in self.events[number]]

    def text(self, number: int) -> str:
        events = self.events[number]
        return "".join(event.tokens.text + event.finished.text for event in events)

    def ids(self, number: int) -> list[int]:
        return [i for event in self.events[number] for i in event.tokens.ids]


async def test_each_of_16_requests_gets_what_a_call_of_its_own_gets(start_worker):
    worker = await (await start_worker()).ready()
    alone = [await worker.generate(f"prompt {i}", stop=limits()) for i in range(16)]
    caller = Caller(worker.stub)
    for i in range(16):
        await caller.start(i + 1, f"prompt {i}", stop=limits())
    assert await caller.answers(*range(1, 17)) == [reply.text for reply in alone]
    for number in range(1, 17):
        kinds = caller.kinds(number)
        assert (kinds[0], kinds[-1]) == ("accepted", "finished")
        assert set(kinds[1:-1]) == {"tokens"}
        assert caller.events[number][-1].finished == alone[number - 1].finished


async def test_what_a_step_brings_for_16_requests_is_one_message(start_worker, paced):
    worker = await (await start_worker(paced(step_seconds=0.06))).ready()
    caller = Caller(worker.stub)
    for number in range(1, 17):
        await caller.start(number, stop=limits(max_tokens=20))
    await caller.answers(*range(1, 17))
    tokens = sum(kinds.count("tokens") for kinds in map(caller.kinds, range(1, 17)))
    assert tokens >= 5 * len(caller.messages)


async def test_a_request_that_is_cancelled_stops_at_once_and_no_other(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    caller = Caller(worker.stub)
    await caller.start(1, stop=limits(max_tokens=4000))
    await caller.start(2, stop=limits(max_tokens=100))
    await caller.read_until(lambda: caller.has(1, "tokens"))
    await caller.command(1, cancel=True)
    await worker.stats_when(lambda stats: stats.requests_cancelled == 1 and stats.running == 1)
    await caller.answers(2)
    assert not caller.has(1, "finished")
    await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    await caller.command(1, cancel=True)  # it is gone: nothing happens
    await caller.start(3, stop=limits(max_tokens=1))
    await caller.answers(3)


async def test_a_paused_request_waits_and_the_others_go_on(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    whole = await worker.generate(stop=limits(max_tokens=200))
    caller = Caller(worker.stub)
    await caller.start(1, stop=limits(max_tokens=200))
    await caller.read_until(lambda: caller.has(1, "tokens"))
    await caller.command(1, pause=True)
    await caller.start(2, stop=limits(max_tokens=40))
    await caller.answers(2)
    before = len(caller.ids(1))
    await caller.start(3, stop=limits(max_tokens=40))
    await caller.answers(3)
    assert len(caller.ids(1)) == before < 200
    await caller.command(1, pause=False)
    assert await caller.answers(1) == [whole.text]
    assert caller.ids(1) == whole.ids


async def test_a_paused_request_can_be_cancelled(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready(max_sequences=1)
    caller = Caller(worker.stub)
    await caller.start(1, stop=limits(max_tokens=4000))
    await caller.command(1, pause=True)
    await worker.stats_when(lambda stats: stats.completion_tokens > 0)
    await caller.command(1, cancel=True)
    await worker.stats_when(lambda stats: stats.running + stats.waiting == 0)
    await caller.start(2, stop=limits(max_tokens=1))
    await caller.answers(2)


async def test_a_refused_request_says_why_and_leaves_the_others_alone(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready(max_sequences=2)
    caller = Caller(worker.stub)
    await caller.start(1, stop=limits(max_tokens=100))
    await caller.start(2, model="default/other")
    await caller.start(3, prompt="")
    await caller.start(4, prompt="word " * 9000)
    await caller.command(5, start=b"\xff\xff\xff")
    no_utf8 = pb.GenerateRequest(model=MODEL, prompt="xx").SerializeToString()
    await caller.command(6, start=no_utf8.replace(b"xx", b"\xff\xfe"))
    refusals = [await caller.refusal(number) for number in range(2, 7)]
    assert [code for code, _, _ in refusals] == [
        Code.NOT_FOUND,
        Code.INVALID_ARGUMENT,
        Code.OUT_OF_RANGE,
        Code.INVALID_ARGUMENT,
        Code.INVALID_ARGUMENT,
    ]
    assert {mark for _, _, mark in refusals} == {REFUSED}
    assert "holds default/model" in refusals[0][1]
    assert "no GenerateRequest" in refusals[3][1]

    await caller.start(7, stop=limits(max_tokens=4000))
    await caller.start(8)
    code, details, mark = await caller.refusal(8)
    assert (code, mark) == (Code.RESOURCE_EXHAUSTED, FULL)
    assert "2 slots" in details
    await caller.answers(1)
    await caller.start(9, stop=limits(max_tokens=1))
    await caller.answers(9)


@pytest.mark.parametrize(
    ("number", "command", "why"),
    [
        (7, {"start": b""}, "must be above 7, the highest so far; found 7"),
        (3, {"start": b""}, "must be above 7, the highest so far; found 3"),
        (8, {"cancel": True}, "8 was never started"),
        (8, {"pause": True}, "8 was never started"),
        (7, {}, "expected start, cancel or pause"),
    ],
)
async def test_a_command_that_makes_no_sense_ends_the_call(
    start_worker, paced, number, command, why
):
    worker = await (await start_worker(paced(**SLOW))).ready()
    caller = Caller(worker.stub)
    await caller.start(7, stop=limits(max_tokens=4000))
    await caller.command(number, **command)
    code, details = await caller.status()
    assert code is Code.INVALID_ARGUMENT
    assert why in details
    await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)


async def test_a_call_has_a_bounded_number_of_requests(start_worker, paced, monkeypatch):
    monkeypatch.setattr(shared_stream, "MAX_REQUESTS", 2)
    worker = await (await start_worker(paced(**SLOW))).ready()
    caller = Caller(worker.stub)
    await caller.start(1, stop=limits(max_tokens=1))
    await caller.answers(1)  # one whose end was read does not count
    for number in (2, 3):
        await caller.start(number, stop=limits(max_tokens=4000))
    await caller.start(4)
    code, details = await caller.status()
    assert code is Code.RESOURCE_EXHAUSTED
    assert "may have 2 requests" in details


async def test_a_caller_that_half_closes_gets_the_rest(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    caller = Caller(worker.stub)
    for number in (1, 2):
        await caller.start(number, stop=limits())
    await caller.call.done_writing()
    await caller.answers(1, 2)
    assert await caller.call.read() is grpc.aio.EOF
    assert await caller.call.code() is Code.OK


async def test_a_worker_that_ends_ends_the_call_when_all_is_written(paced):
    lifecycle = Lifecycle(paced(**SLOW))
    server = WorkerServer(lifecycle, ServerOptions(listen="127.0.0.1:0", worker_id="w"))
    await server.start()
    lifecycle.load(ModelSpec(model=MODEL, source="hf://a/b"))
    async with grpc.aio.insecure_channel(server.address) as channel:
        caller = Caller(WorkerStub(channel))
        idle = Caller(WorkerStub(channel))
        await idle.command(1, start=b"")
        while lifecycle.serving is None:
            await lifecycle.changed.wait_after(lifecycle.changed.count)
        await caller.start(1, stop=limits())
        await caller.read_until(lambda: caller.has(1, "tokens"))
        stopping = asyncio.create_task(server.stop())
        await caller.answers(1)
        assert await caller.call.read() is grpc.aio.EOF
        assert await caller.call.code() is Code.OK
        assert await idle.refusal(1)
        assert await idle.call.code() is Code.OK
        await stopping


async def test_a_drain_hands_over_what_runs_and_refuses_what_comes(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    caller = Caller(worker.stub)
    await caller.start(1, stop=limits(max_tokens=4000))
    await caller.read_until(lambda: caller.has(1, "tokens"))
    await worker.stub.Drain(pb.DrainRequest(deadline_seconds=0))
    code, _, mark = await caller.refusal(1)
    assert (code, mark) == (Code.UNAVAILABLE, HANDED_OVER)
    await caller.start(2)
    code, details, mark = await caller.refusal(2)
    assert (code, mark) == (Code.UNAVAILABLE, REFUSED)
    assert "draining" in details


async def test_a_failed_engine_ends_each_request_with_its_reason(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    caller = Caller(worker.stub)
    for number in (1, 2):
        await caller.start(number, stop=limits(max_tokens=4000))
    await caller.read_until(lambda: caller.has(1, "tokens") and caller.has(2, "tokens"))

    def fail(chunks):
        raise RuntimeError("illegal memory access")

    worker.lifecycle.model.engine._runner.launch = fail
    for number in (1, 2):
        code, details, mark = await caller.refusal(number)
        assert (code, mark) == (Code.UNAVAILABLE, REFUSED)
        assert "illegal memory access" in details


async def test_a_caller_that_leaves_stops_all_its_requests_and_no_others(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    leaver, stayer = Caller(worker.stub), Caller(worker.stub)
    for number in range(1, 9):
        await leaver.start(number, stop=limits(max_tokens=4000))
    await stayer.start(1, stop=limits(max_tokens=60))
    await leaver.read_until(lambda: leaver.has(8, "tokens"))
    leaver.call.cancel()
    await worker.stats_when(lambda stats: stats.requests_cancelled == 8)
    assert len((await stayer.answers(1))[0].split()) == 60
    await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)


async def test_a_caller_that_reads_nothing_holds_up_no_other_and_loses_nothing(start_worker):
    worker = await (await start_worker()).ready()
    long = {"stop": limits(max_tokens=1000), "logprobs": pb.Logprobs(enabled=True, top=20)}
    reply = await worker.generate("p", **long)
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
    async with grpc.aio.insecure_channel(worker.address, small_window) as channel:
        sleeper = Caller(WorkerStub(channel))
        reader = Caller(worker.stub)
        for number in range(1, 9):
            await sleeper.start(number, "p", **long)
        await worker.stats_when(lambda stats: stats.completion_tokens >= 9 * 1000)
        await reader.start(1, stop=limits())
        await reader.answers(1)
        assert (await worker.stats()).requests_finished == 2, "what is not read is not sent"
        await sleeper.answers(*range(1, 9))
        assert all(sleeper.ids(number) == reply.ids for number in range(1, 9))
    sizes = [len(event.tokens.ids) for message in sleeper.messages for event in message.events]
    assert 64 < max(sizes) <= 64 + 256, "a backlog is packed, and sent in bounded parts"

"""Loading, draining, unloading and failing, seen through gRPC."""

import asyncio
import itertools
import time
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from modelfleet_proto import worker_pb2 as pb
from modelfleet_proto import worker_pb2_grpc
from modelfleet_worker.engine.device import MemoryUse, Runner
from modelfleet_worker.errors import ModelError, TooLargeError
from modelfleet_worker.loading.device_loaders import Loaded
from modelfleet_worker.serving.server import ServerOptions, serve
from modelfleet_worker.spec import ModelSpec

MODEL = "default/model"
SLOW = {"step_seconds": 0.02}
LONG = pb.StopConditions(max_tokens=4000, ignore_eos=True)
SERVICE = "modelfleet.v1alpha1.Worker"


def with_runner(loader, wrap):
    """The loader's model on another device, for faults."""

    def load(spec, report) -> Loaded:
        loaded = loader(spec, report)
        faulty = replace(loaded.model, runner=wrap(loaded.model.runner))
        return replace(loaded, model=faulty)

    return load


class FaultyRunner(Runner):
    """Breaks or hangs from a step on."""

    def __init__(self, runner, *, breaks_at: int = 10**9, hangs_at: int = 10**9, hang=0.0) -> None:
        self._runner, self._steps = runner, 0
        self._breaks_at, self._hangs_at, self._hang = breaks_at, hangs_at, hang
        self.num_blocks = runner.num_blocks

    def launch(self, chunks):
        self._steps += 1
        if self._steps >= self._breaks_at:
            raise RuntimeError("the device is gone")
        if self._steps == self._hangs_at:
            time.sleep(self._hang)
        return self._runner.launch(chunks)


async def health_of(worker, service: str = "") -> str:
    stub = health_pb2_grpc.HealthStub(worker.channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


async def wait_for_health(worker, wanted: str) -> None:
    async with asyncio.timeout(10):
        while {await health_of(worker), await health_of(worker, SERVICE)} != {wanted}:
            await asyncio.sleep(0.02)


async def test_a_worker_without_a_model_waits_and_refuses(start_worker):
    worker = await start_worker()
    assert (await worker.stats()).state == pb.WORKER_STATE_STANDBY
    code, details = await worker.refusal(worker.generate())
    assert (code, details) == (
        grpc.StatusCode.NOT_FOUND,
        "this worker holds no model, not 'default/model'",
    )
    await wait_for_health(worker, "NOT_SERVING")


async def test_tells_how_far_a_load_has_come_and_refuses_meanwhile(start_worker, paced):
    worker = await start_worker(paced(load_seconds=1.0))
    await worker.load()
    stats = await worker.stats_when(lambda stats: stats.load.eta > 0)
    assert stats.state == pb.WORKER_STATE_LOADING
    assert stats.load.phase == "Weights"
    assert 0 < stats.load.percent < 100
    assert abs(stats.load.eta - time.time()) < 5
    assert (await worker.refusal(worker.generate()))[0] == grpc.StatusCode.UNAVAILABLE
    ready = await worker.stats_when(lambda stats: stats.state == pb.WORKER_STATE_READY)
    assert [phase.phase for phase in ready.load.phases] == ["Weights"]
    assert ready.load.ready_at - ready.load.phases[0].began == pytest.approx(1.0, abs=0.9)
    await wait_for_health(worker, "SERVING")
    assert (await worker.generate()).text


async def test_a_failed_load_is_told_and_may_be_tried_again(start_worker, paced):
    attempts = []

    def load(spec, report):
        attempts.append(spec)
        if len(attempts) == 1:
            raise ModelError("expected *.safetensors weights in /m, found none")
        if len(attempts) == 2:
            raise ZeroDivisionError("a bug")
        return paced()(spec, report)

    worker = await start_worker(load)
    for message in ("expected *.safetensors weights", "unexpected ZeroDivisionError: a bug"):
        await worker.load()
        stats = await worker.stats_when(lambda stats: stats.state == pb.WORKER_STATE_FAILED)
        assert message in stats.message
        code, details = await worker.refusal(worker.generate())
        assert (code, message in details) == (grpc.StatusCode.UNAVAILABLE, True)
    await worker.ready()
    assert (await worker.generate()).text


async def test_stats_say_what_the_model_takes_and_what_it_would_have_taken(start_worker, paced):
    fits = [False, True]
    use = MemoryUse(weights=16, cache=2, working=1, available=24)

    def load(spec, report) -> Loaded:
        if not fits.pop(0):
            try:
                raise TooLargeError("the weights need 40", needed=40, available=24)
            except TooLargeError as error:
                raise ModelError("nor does another path load it") from error
        loaded = paced()(spec, report)
        return replace(loaded, model=replace(loaded.model, memory=use))

    worker = await start_worker(loader=load)
    assert not (await worker.stats()).HasField("memory")
    await worker.load()
    failed = await worker.stats_when(lambda s: s.state == pb.WORKER_STATE_FAILED)
    assert failed.memory == pb.MemoryUse(weights=40, available=24)
    await worker.load()
    ready = await worker.stats_when(lambda s: s.state == pb.WORKER_STATE_READY)
    assert ready.memory == pb.MemoryUse(weights=16, cache=2, working=1, available=24)
    await worker.stub.UnloadModel(pb.UnloadModelRequest(deadline_seconds=1))
    gone = await worker.stats_when(lambda s: s.state == pb.WORKER_STATE_STANDBY)
    assert not gone.HasField("memory")


async def test_the_same_model_again_is_a_no_op_and_another_one_refused(start_worker):
    worker = await (await start_worker()).ready()
    await worker.load()
    assert (await worker.stats()).state == pb.WORKER_STATE_READY
    code, details = await worker.refusal(worker.load(model="default/other"))
    assert (code, "unload first" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
    code, _ = await worker.refusal(worker.load(model="no-namespace"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_unloads_loads_another_and_goes_on_counting(start_worker):
    worker = await (await start_worker()).ready()
    await worker.generate()
    before = await worker.stats()
    await worker.stub.UnloadModel(pb.UnloadModelRequest(deadline_seconds=5))
    empty = await worker.stats()
    assert (empty.state, empty.model, empty.slots) == (pb.WORKER_STATE_STANDBY, "", 0)
    assert empty.completion_tokens == before.completion_tokens > 0
    await worker.ready(model="default/other")
    await worker.generate(model="default/other")
    after = await worker.stats()
    assert after.completion_tokens > before.completion_tokens
    assert after.requests_finished == 2
    await worker.stub.UnloadModel(pb.UnloadModelRequest())
    await worker.stub.UnloadModel(pb.UnloadModelRequest())  # nothing is held: a no-op


async def test_an_unload_gives_up_a_load_that_runs(start_worker, paced):
    worker = await start_worker(paced(load_seconds=60.0))
    await worker.load()
    async with asyncio.timeout(5):
        await worker.stub.UnloadModel(pb.UnloadModelRequest())
    assert (await worker.stats()).state == pb.WORKER_STATE_STANDBY


async def test_a_drain_lets_running_requests_finish_and_takes_no_new_ones(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    call = worker.start(stop=pb.StopConditions(max_tokens=20, ignore_eos=True))
    await worker.stats_when(lambda stats: stats.running == 1)
    reply = await worker.stub.Drain(pb.DrainRequest(deadline_seconds=30))
    assert reply.running == 1
    code, details = await worker.refusal(worker.generate())
    assert (code, "draining" in details) == (grpc.StatusCode.UNAVAILABLE, True)
    assert (await worker.stats()).state == pb.WORKER_STATE_DRAINING
    await wait_for_health(worker, "NOT_SERVING")
    assert len((await worker.read(call)).ids) == 20
    assert (await worker.stub.Drain(pb.DrainRequest())).running == 0


async def test_a_drain_hands_over_what_runs_at_its_deadline(start_worker, paced):
    worker = await (await start_worker(paced(**SLOW))).ready()
    call = worker.start(stop=LONG)
    await worker.stats_when(lambda stats: stats.running == 1)
    await worker.stub.Drain(pb.DrainRequest(deadline_seconds=3600))
    await worker.stub.Drain(pb.DrainRequest(deadline_seconds=0.1))  # only changes the deadline
    code, details = await worker.refusal(worker.read(call))
    assert (code, "handed over" in details) == (grpc.StatusCode.UNAVAILABLE, True)
    stats = await worker.stats_when(lambda stats: stats.kv_blocks_used == 0)
    assert (stats.running, stats.requests_finished, stats.requests_cancelled) == (0, 0, 0)


async def test_a_client_that_does_not_read_holds_up_no_unload(start_worker):
    worker = await (await start_worker()).ready()
    small_window = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    async with grpc.aio.insecure_channel(worker.address, options=small_window) as channel:
        request = pb.GenerateRequest(
            model=MODEL, prompt="Hi", stop=LONG, logprobs=pb.Logprobs(enabled=True, top=1)
        )
        call = worker_pb2_grpc.WorkerStub(channel).Generate(request)
        assert (await call.read()).HasField("accepted")
        # By then its stream is full, and the worker waits to write.
        await worker.stats_when(lambda stats: stats.completion_tokens >= 2000)
        async with asyncio.timeout(10):
            await worker.stub.UnloadModel(pb.UnloadModelRequest(deadline_seconds=0.1))
        assert len(worker.lifecycle.streams) == 1  # it has not noticed
        assert (await worker.stats()).state == pb.WORKER_STATE_STANDBY
    await worker.stats_when(lambda stats: stats.requests_cancelled == 1)
    await worker.ready()
    assert (await worker.generate()).text


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
async def test_a_deadline_must_be_a_time(start_worker, seconds):
    worker = await start_worker()
    for call in (
        worker.stub.Drain(pb.DrainRequest(deadline_seconds=seconds)),
        worker.stub.UnloadModel(pb.UnloadModelRequest(deadline_seconds=seconds)),
    ):
        assert (await worker.refusal(call))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_broken_engine_ends_every_stream_and_asks_for_a_new_process(start_worker, paced):
    worker = await start_worker(with_runner(paced(), lambda r: FaultyRunner(r, breaks_at=10)))
    await worker.ready()
    calls = [worker.start(f"prompt {i}", stop=LONG) for i in range(4)]
    for call in calls:
        code, details = await worker.refusal(worker.read(call))
        assert (code, "the device is gone" in details) == (grpc.StatusCode.UNAVAILABLE, True)
    stats = await worker.stats()
    assert stats.state == pb.WORKER_STATE_FAILED
    assert "engine failed: RuntimeError: the device is gone" in stats.message
    assert worker.lifecycle.broken.is_set()
    assert (await worker.refusal(worker.generate()))[0] == grpc.StatusCode.UNAVAILABLE


async def test_a_process_with_a_broken_engine_ends_with_1(tmp_path, paced):
    loader = with_runner(paced(), lambda r: FaultyRunner(r, breaks_at=3))
    options = ServerOptions(
        listen="127.0.0.1:0", worker_id="worker-0", address_file=tmp_path / "address"
    )
    serving = asyncio.create_task(serve(options, loader, ModelSpec(model=MODEL, source="hf://a/b")))
    async with asyncio.timeout(20):
        while not (tmp_path / "address").exists():
            await asyncio.sleep(0.01)
        async with grpc.aio.insecure_channel((tmp_path / "address").read_text()) as channel:
            stub = worker_pb2_grpc.WorkerStub(channel)
            while (await stub.GetStats(pb.StatsRequest())).state != pb.WORKER_STATE_READY:
                await asyncio.sleep(0.01)
            with pytest.raises(grpc.aio.AioRpcError, match="the device is gone"):
                async for _ in stub.Generate(pb.GenerateRequest(model=MODEL, prompt="Hi")):
                    pass
            # It stays for a moment, so that Stats can say why.
            assert "device is gone" in (await stub.GetStats(pb.StatsRequest())).message
            assert await serving == 1


async def test_health_turns_bad_when_the_engine_makes_no_progress_and_recovers(start_worker, paced):
    loader = with_runner(paced(), lambda r: FaultyRunner(r, hangs_at=5, hang=2.0))
    worker = await (await start_worker(loader, stall_after=0.3)).ready()
    call = worker.start(stop=pb.StopConditions(max_tokens=20, ignore_eos=True))
    stats = await worker.stats_when(lambda stats: stats.state == pb.WORKER_STATE_FAILED)
    assert "engine stalled: 1 requests" in stats.message
    await wait_for_health(worker, "NOT_SERVING")
    assert (await worker.refusal(worker.generate()))[0] == grpc.StatusCode.UNAVAILABLE
    assert len((await worker.read(call)).ids) == 20  # what was taken is not given up
    await worker.stats_when(lambda stats: stats.state == pb.WORKER_STATE_READY)
    await wait_for_health(worker, "SERVING")


async def test_stats_come_at_once_on_change_and_every_second(start_worker, paced):
    worker = await start_worker(paced(**SLOW))
    loop = asyncio.get_running_loop()
    seen: list[tuple[float, pb.Stats]] = []

    async def watch() -> None:
        calls = worker.stub.WatchStats(pb.StatsRequest())
        while isinstance(stats := await calls.read(), pb.Stats):
            seen.append((loop.time(), stats))

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(10):
        while len(seen) < 3:
            await asyncio.sleep(0.02)
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(seen)]
    assert max(gaps) < 1.5

    async def seconds_until(holds) -> float:
        began = loop.time()
        async with asyncio.timeout(10):
            while not holds(seen[-1][1]):
                await asyncio.sleep(0.01)
        return loop.time() - began

    await worker.load()
    assert await seconds_until(lambda stats: stats.state == pb.WORKER_STATE_READY) < 0.7
    call = await worker.accepted(stop=LONG)
    assert await seconds_until(lambda stats: stats.running == 1) < 0.7
    call.cancel()
    assert await seconds_until(lambda stats: stats.running == 0) < 0.7
    assert len({stats.instance_id for _, stats in seen}) == 1
    watching.cancel()


async def test_reflection_names_the_services(start_worker):
    worker = await start_worker()
    stub = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    services = (await call.read()).list_services_response.service
    assert {SERVICE, "grpc.health.v1.Health"} <= {service.name for service in services}
    await call.done_writing()


async def asleep(start_worker, loader):
    """A worker that was told to load a model ahead."""
    worker = await start_worker(loader)
    worker.lifecycle.sleep(ModelSpec(model=MODEL, source="hf://a/b"))
    return worker


async def test_a_model_that_sleeps_is_served_at_once_when_it_is_asked_for(start_worker, paced):
    loads = []

    def load(spec, report):
        loads.append(spec.model)
        return paced()(spec, report)

    worker = await asleep(start_worker, load)
    await worker.stats_when(lambda stats: stats.slots > 0)
    stats = await worker.stats()
    assert (stats.state, stats.model) == (pb.WORKER_STATE_STANDBY, "")
    assert (await worker.refusal(worker.generate()))[0] == grpc.StatusCode.NOT_FOUND
    await wait_for_health(worker, "NOT_SERVING")
    asked_at = time.time()
    await worker.load()
    stats = await worker.stats()
    assert (stats.state, stats.model) == (pb.WORKER_STATE_READY, MODEL)
    assert stats.load.ready_at >= asked_at
    assert (await worker.generate()).text
    assert loads == [MODEL]


async def test_a_load_ahead_that_runs_goes_on_when_it_is_asked_for(start_worker, paced):
    worker = await asleep(start_worker, paced(load_seconds=0.3))
    await worker.load()
    assert (await worker.stats()).state == pb.WORKER_STATE_LOADING
    await worker.stats_when(lambda stats: stats.state == pb.WORKER_STATE_READY)
    assert (await worker.generate()).text


@pytest.mark.parametrize("load_seconds", [0.0, 60.0], ids=["loaded", "loading"])
async def test_another_model_takes_the_place_of_the_one_that_sleeps(
    start_worker, paced, load_seconds
):
    def load(spec, report):
        return paced(load_seconds=load_seconds if spec.model == MODEL else 0.0)(spec, report)

    worker = await asleep(start_worker, load)
    if not load_seconds:
        await worker.stats_when(lambda stats: stats.slots > 0)
    async with asyncio.timeout(10):
        await worker.ready(model="default/other")
    assert (await worker.generate(model="default/other")).text


async def test_a_load_ahead_that_fails_leaves_a_standby_that_loads_when_asked(start_worker, paced):
    failures = [ModelError("no such model"), None]

    def load(spec, report):
        if error := failures.pop(0):
            raise error
        return paced()(spec, report)

    worker = await asleep(start_worker, load)
    async with asyncio.timeout(5):
        while len(failures) == 2:
            await asyncio.sleep(0.01)
    assert (await worker.stats()).state == pb.WORKER_STATE_STANDBY
    await worker.ready()
    assert (await worker.generate()).text


async def test_an_unload_frees_a_model_that_sleeps(start_worker, paced):
    worker = await asleep(start_worker, paced())
    await worker.stats_when(lambda stats: stats.slots > 0)
    await worker.stub.UnloadModel(pb.UnloadModelRequest())
    stats = await worker.stats()
    assert (stats.state, stats.slots) == (pb.WORKER_STATE_STANDBY, 0)

"""The Fleet service with a real gRPC client in the gateway's place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import grpc
import pytest

from modelfleet_operator.decisions.observed import WorkerState
from modelfleet_operator.decisions.view import ModelView, WorkerRoute
from modelfleet_operator.fleet.service import SILENCE, FleetService, serve
from modelfleet_operator.fleet.view import REMOVALS_KEPT, FleetView
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc, worker_pb2
from modelfleet_proto.handshake import call_metadata

MODEL, WORKER = "default/tiny", "default/tiny-aaaa-0"


def a_model(*workers: WorkerRoute, model: str = MODEL) -> ModelView:
    return ModelView(
        model=model,
        served_names=("tiny",),
        max_queue=5,
        hold_timeout=30,
        created=1000,
        workers=workers,
        eta=0,
        phase="",
    )


def at(address: str, *, routable: bool = True) -> WorkerRoute:
    return WorkerRoute(id=WORKER, address=address, routable=routable, revision="aaaa")


@dataclass
class Service:
    """A served FleetService with a clock that the test moves, and what it woke."""

    fleet: FleetService
    port: int
    now: list[float]
    woken: list[str] = field(default_factory=list)

    async def until(self, condition) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def service(*models: str, lead: bool = True) -> AsyncIterator[Service]:
    now, woken = [1000.0], []
    fleet = FleetService(lambda: now[0], wake=woken.append, wake_all=lambda: woken.append("all"))
    if lead:
        fleet.lead(3, models)
    server, port = await serve(fleet, "127.0.0.1:0")
    try:
        yield Service(fleet=fleet, port=port, now=now, woken=woken)
    finally:
        await server.stop(0)


class GatewayDouble:
    """The gateway's side of one stream."""

    def __init__(self, call) -> None:
        self._call = call

    async def message(self):
        return await asyncio.wait_for(self._call.read(), 5)

    async def receive(self):
        """What is no heartbeat."""
        while (message := await self.message()).WhichOneof("message") is None:
            pass
        return message

    async def view(self):
        message = await self.receive()
        assert message.HasField("view"), message
        return message.view

    async def change(self):
        message = await self.receive()
        assert message.HasField("change"), message
        return message.change

    async def say_partly(self, version: int, *models: fleet_pb2.ModelSignals) -> None:
        signals = fleet_pb2.Signals(term=3, version=version, models=models, partial=True)
        await self._call.write(fleet_pb2.GatewayMessage(signals=signals))

    async def say(self, view, *, waiting=0, running=0, reachable=None, stats=None) -> None:
        """Signals that acknowledge this view."""
        workers = []
        if reachable is not None:
            workers = [fleet_pb2.WorkerSignals(worker_id=WORKER, reachable=reachable, stats=stats)]
        models = [
            fleet_pb2.ModelSignals(model=m.model, waiting=waiting, running=running)
            for m in view.models
        ]
        await self.send(
            fleet_pb2.Signals(term=view.term, version=view.version, models=models, workers=workers)
        )

    async def send(self, signals: fleet_pb2.Signals) -> None:
        await self._call.write(fleet_pb2.GatewayMessage(signals=signals))


@contextlib.asynccontextmanager
async def connected(
    service: Service, name="gw", version=None, takes_changes=False, instance=""
) -> AsyncIterator[GatewayDouble]:
    metadata = call_metadata("gateway", version) if version else call_metadata("gateway")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        call = fleet_pb2_grpc.FleetStub(channel).Connect(metadata=metadata)
        hello = fleet_pb2.GatewayHello(
            gateway_id=name, takes_changes=takes_changes, instance_id=instance
        )
        await call.write(fleet_pb2.GatewayMessage(hello=hello))
        yield GatewayDouble(call)
        call.cancel()


READY = worker_pb2.Stats(state=worker_pb2.WORKER_STATE_READY, slots=8, running=2, waiting=1)


async def test_a_gateway_gets_the_view_at_once_and_on_each_change():
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served) as gateway:
            first = await gateway.view()
            assert (first.term, [m.model for m in first.models]) == (3, [MODEL])
            assert (first.models[0].max_queue, first.models[0].hold_timeout) == (5, 30)
            served.fleet.publish(a_model())  # nothing changed: nothing is sent
            served.fleet.publish(a_model(at("127.0.0.1:7000")))
            second = await gateway.view()
            assert second.version > first.version
            assert second.models[0].workers[0].address == "127.0.0.1:7000"
            assert second.models[0].workers[0].routable
            served.fleet.withdraw(MODEL)
            assert not (await gateway.view()).models


async def test_a_gateway_without_news_hears_that_the_operator_is_there(monkeypatch):
    monkeypatch.setattr("modelfleet_operator.fleet.service.HEARTBEAT", 0.05)
    async with service(MODEL) as served, connected(served) as gateway:
        for _ in range(2):  # before there is a view, too
            assert (await gateway.message()).WhichOneof("message") is None
        served.fleet.publish(a_model())
        await gateway.view()
        assert (await gateway.message()).WhichOneof("message") is None


async def test_a_gateway_that_takes_changes_gets_what_differs():
    others = [f"default/other-{n}" for n in range(3)]
    async with service(MODEL, *others) as served:
        for model in others:
            served.fleet.publish(a_model(model=model))
        served.fleet.publish(a_model())
        async with (
            connected(served, takes_changes=True) as gateway,
            connected(served, "old") as old,
        ):
            assert len((await gateway.view()).models) == len((await old.view()).models) == 4
            served.fleet.publish(a_model(at("127.0.0.1:7000")))
            served.fleet.withdraw(others[0])
            change = await gateway.change()
            assert [m.model for m in change.models] == [MODEL]
            assert change.models[0].workers[0].address == "127.0.0.1:7000"
            assert list(change.removed) == [others[0]]
            whole = await old.view()
            assert (len(whole.models), whole.version) == (3, change.version)


async def test_a_new_leader_begins_with_the_whole_view():
    async with service(MODEL) as served, connected(served, takes_changes=True) as gateway:
        served.fleet.publish(a_model())
        await gateway.view()
        served.fleet.lead(4, [MODEL])
        served.fleet.publish(a_model())
        assert (await gateway.view()).term == 4


async def test_a_gateway_that_missed_too_much_gets_the_whole_view():
    view = FleetView(1)
    view.put(a_model())
    for number in range(3 * REMOVALS_KEPT):
        view.put(a_model(model=f"default/m{number}"))
        view.drop(f"default/m{number}")
    assert view.change(1) is None
    latest = view.change(view.version - 2)
    assert latest is not None
    assert list(latest.removed) == [f"default/m{3 * REMOVALS_KEPT - 1}"]
    assert [m.model for m in view.whole().models] == [MODEL]


async def test_partial_signals_say_nothing_new_of_the_models_that_they_leave_out():
    other = "default/other"
    async with service(MODEL, other) as served:
        served.fleet.publish(a_model())
        served.fleet.publish(a_model(model=other))
        async with connected(served, takes_changes=True) as gateway:
            view = await gateway.view()
            await gateway.say(view, waiting=1)
            await served.until(lambda: served.fleet.signals(other).waiting == 1)
            served.woken.clear()
            await gateway.say_partly(view.version)
            await gateway.say_partly(view.version, fleet_pb2.ModelSignals(model=MODEL, waiting=4))
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 4)
            assert served.fleet.signals(other).waiting == 1
            assert served.woken == [MODEL]


async def test_having_taken_a_change_is_news_for_the_models_in_it():
    async with service(MODEL, "default/other") as served:
        served.fleet.publish(a_model())
        served.fleet.publish(a_model(model="default/other"))
        async with connected(served, takes_changes=True) as gateway:
            await gateway.say(await gateway.view())
            await served.until(lambda: served.fleet.signals(MODEL).complete)
            served.fleet.publish(a_model(model="default/new"))
            change = await gateway.change()
            served.woken.clear()
            await gateway.say_partly(
                change.version, fleet_pb2.ModelSignals(model="default/new", waiting=1)
            )
            await served.until(lambda: served.woken == ["default/new"])
            served.fleet.publish(a_model(at("127.0.0.1:7000", routable=False)))
            change = await gateway.change()
            await gateway.say_partly(change.version)
            await served.until(lambda: served.woken == ["default/new", MODEL])


async def test_the_silence_of_a_gateway_is_news_for_every_model(monkeypatch):
    monkeypatch.setattr("modelfleet_operator.fleet.service.SILENCE", 0.2)
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served) as gateway:
            view = await gateway.view()
            await gateway.say(view)
            await served.until(lambda: served.fleet.signals(MODEL).complete)
            served.woken.clear()
            served.now[0] += 1
            await served.until(lambda: served.woken == ["all"])
            await gateway.say(view)
            await served.until(lambda: served.woken == ["all", "all"])


async def test_no_view_is_sent_before_every_model_is_known():
    """A half view would tell a gateway that the other models do not exist."""
    async with service(MODEL, "default/other") as served, connected(served) as gateway:
        served.fleet.publish(a_model())
        await served.until(lambda: served.fleet.signals(MODEL).gateways)
        served.fleet.publish(a_model(model="default/other"))
        assert len((await gateway.view()).models) == 2


async def test_signals_become_what_decisions_read():
    async with service(MODEL) as served:
        served.fleet.publish(a_model(at("127.0.0.1:7000")))
        async with connected(served, "a") as a, connected(served, "b") as b:
            await a.say(await a.view(), waiting=2, reachable=True, stats=READY)
            await b.say(await b.view(), waiting=1, reachable=False)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 3)
            signals = served.fleet.signals(MODEL)
            assert signals.complete
            assert signals.running == 3, "those outside the worker's batch run, too"
            assert signals.reach(WORKER) == "some"
            assert signals.stats[WORKER].state is WorkerState.READY


async def test_a_waiting_request_wakes_its_model_and_repetition_does_not():
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served) as gateway:
            view = await gateway.view()
            await gateway.say(view)
            await served.until(lambda: served.fleet.signals(MODEL).complete)
            served.woken.clear()
            await gateway.say(view, waiting=1)
            await served.until(lambda: served.woken == [MODEL])
            served.now[0] += 1
            await gateway.say(view, waiting=1)
            await gateway.say(view, waiting=2)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 2)
            assert served.woken == [MODEL, MODEL]


async def test_a_gateway_counts_as_unheard_until_it_has_the_model():
    async with service() as served, connected(served) as gateway:
        empty = await gateway.view()
        served.fleet.publish(a_model())
        await gateway.say(empty)
        view = await gateway.view()
        assert not served.fleet.signals(MODEL).complete
        await gateway.say(view)
        await served.until(lambda: served.fleet.signals(MODEL).complete)


async def test_what_was_said_of_an_earlier_worker_of_the_same_name_does_not_count():
    async with service(MODEL) as served:
        served.fleet.publish(a_model(at("127.0.0.1:7000")))
        async with connected(served) as gateway:
            old = await gateway.view()
            await gateway.say(old, reachable=True, stats=READY)
            await served.until(lambda: served.fleet.signals(MODEL).is_ready(WORKER))
            served.fleet.publish(a_model(at("127.0.0.1:7001")))
            assert not served.fleet.signals(MODEL).is_ready(WORKER)
            await gateway.say(old, reachable=True, stats=READY, waiting=1)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 1)
            assert served.fleet.signals(MODEL).reach(WORKER) == "none"


async def test_a_gateway_that_knows_that_a_worker_drains_does_not_reach_it():
    async with service(MODEL) as served:
        served.fleet.publish(a_model(at("127.0.0.1:7000")))
        async with connected(served) as gateway:
            old = await gateway.view()
            await gateway.say(old, reachable=True, stats=READY)
            await served.until(lambda: served.fleet.signals(MODEL).reach(WORKER) == "all")
            served.fleet.publish(a_model(at("127.0.0.1:7000", routable=False)))
            assert served.fleet.signals(MODEL).reach(WORKER) == "all", "it may still route to it"
            served.woken.clear()
            await gateway.say(await gateway.view(), reachable=True, stats=READY)
            await served.until(lambda: served.woken == [MODEL])
            assert served.fleet.signals(MODEL).reach(WORKER) == "none"


async def test_a_worker_that_is_routed_to_again_counts_once_the_gateway_knows():
    async with service(MODEL) as served:
        served.fleet.publish(a_model(at("127.0.0.1:7000", routable=False)))
        async with connected(served) as gateway:
            old = await gateway.view()
            await gateway.say(old, reachable=True, stats=READY)
            await served.until(lambda: served.fleet.signals(MODEL).hears(WORKER))
            served.fleet.publish(a_model(at("127.0.0.1:7000")))
            assert served.fleet.signals(MODEL).reach(WORKER) == "none", (
                "it does not route there yet"
            )
            await gateway.say(await gateway.view(), reachable=True, stats=READY)
            await served.until(lambda: served.fleet.signals(MODEL).reach(WORKER) == "all")


async def test_what_drains_and_what_streams_wait_for_is_heard():
    async with service(MODEL) as served:
        served.fleet.publish(
            replace(a_model(at("127.0.0.1:7000", routable=False)), revisions=("aaaa", "bbbb"))
        )
        async with connected(served) as gateway:
            view = await gateway.view()
            assert list(view.models[0].revisions) == ["aaaa", "bbbb"]
            worker = fleet_pb2.WorkerSignals(worker_id=WORKER, reachable=True, running=1)
            model = fleet_pb2.ModelSignals(model=MODEL, awaited_revisions=["bbbb"])

            async def say() -> None:
                await gateway.send(
                    fleet_pb2.Signals(
                        term=view.term, version=view.version, models=[model], workers=[worker]
                    )
                )

            await say()
            await served.until(lambda: served.fleet.signals(MODEL).awaited_revisions == {"bbbb"})
            assert not served.fleet.signals(MODEL).is_idle(WORKER)
            served.woken.clear()
            worker.running = 0
            await say()
            await served.until(lambda: served.woken == [MODEL])
            assert served.fleet.signals(MODEL).is_idle(WORKER)


async def test_silent_gateways_and_ended_ones_are_left_out():
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served) as gateway:
            await gateway.say(await gateway.view())
            await served.until(lambda: served.fleet.signals(MODEL).complete)
            served.now[0] += SILENCE + 1
            assert served.fleet.signals(MODEL).gateways == ()
            await gateway.say(fleet_pb2.View(term=3, version=99))
            await served.until(lambda: served.fleet.signals(MODEL).gateways)
        await served.until(lambda: not served.fleet.signals(MODEL).gateways)
        assert served.woken[-1] == "all"


async def test_a_gateway_that_connects_again_counts_once():
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served, instance="1") as first:
            await first.say(await first.view(), waiting=7)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 7)
            async with connected(served, instance="1") as second:
                await second.say(await second.view(), waiting=1)
                await served.until(lambda: served.fleet.signals(MODEL).waiting == 1)
                assert len(served.fleet.signals(MODEL).gateways) == 1


async def test_a_late_message_of_the_older_stream_does_not_touch_the_newer_one():
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served, instance="1") as older:
            view = await older.view()
            async with connected(served, instance="1") as newer:
                await newer.say(await newer.view(), waiting=3)
                await served.until(lambda: served.fleet.signals(MODEL).waiting == 3)
                await older.say(view, waiting=9)
                streams = served.fleet.streams
                await served.until(
                    lambda: {said.waiting for s in streams for said in s.models.values()} == {3, 9}
                )
                assert served.fleet.signals(MODEL).waiting == 3


@pytest.mark.parametrize("instances", [("1", "2"), ("", ""), ("1", "")], ids=str)
async def test_a_second_hello_with_its_id_leaves_no_live_gateway_uncounted(instances):
    async with service(MODEL) as served:
        served.fleet.publish(a_model())
        async with connected(served, instance=instances[0]) as first:
            view = await first.view()
            await first.say(view, waiting=3)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 3)
            async with connected(served, instance=instances[1]) as second:
                await second.say(await second.view(), waiting=2)
                await served.until(lambda: served.fleet.signals(MODEL).waiting == 5)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 3)
            await first.say(view, waiting=4)
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 4)


HUGE = 2**32 - 1


async def test_numbers_are_no_larger_than_what_a_live_gateway_can_hold():
    async with service(MODEL) as served:
        served.fleet.publish(replace(a_model(at("127.0.0.1:7000")), revisions=("aaaa",)))
        async with connected(served) as gateway:
            view = await gateway.view()
            stats = worker_pb2.Stats(
                state=worker_pb2.WORKER_STATE_READY,
                slots=8,
                running=HUGE,
                waiting=HUGE,
                message="x" * 1_000_000,
                load=worker_pb2.LoadProgress(
                    phase="y" * 1_000_000, percent=float("nan"), eta=float("inf")
                ),
            )
            worker = fleet_pb2.WorkerSignals(
                worker_id=WORKER, reachable=True, stats=stats, running=HUGE
            )
            model = fleet_pb2.ModelSignals(
                model=MODEL,
                waiting=HUGE,
                running=HUGE,
                last_request=float("nan"),
                oldest_wait=float("-inf"),
                awaited_revisions=["aaaa", "unheard of", "z" * 1_000_000],
            )
            await gateway.send(
                fleet_pb2.Signals(term=3, version=view.version, models=[model], workers=[worker])
            )
            await served.until(lambda: served.fleet.signals(MODEL).complete)
            signals = served.fleet.signals(MODEL)
            assert signals.waiting == 128 + 8, "a request of 128 choices, and 8 streams to resume"
            assert signals.running == 8
            assert signals.gateways[0].taken == {WORKER: 8}
            assert signals.last_request == signals.gateways[0].oldest_wait == 0
            assert signals.awaited_revisions == {"aaaa"}
            said = signals.stats[WORKER]
            assert (said.running, said.percent, said.eta) == (8, 0, 0)
            assert len(said.message) + len(said.phase) <= 2_000


async def test_signals_about_unknown_models_and_workers_leave_no_memory():
    async with service(MODEL) as served:
        served.fleet.publish(a_model(at("127.0.0.1:7000")))
        async with connected(served, takes_changes=True) as gateway:
            view = await gateway.view()
            await gateway.say(view, reachable=True, stats=READY)
            [stream] = served.fleet.streams
            for partial in (False, True):
                unknown = fleet_pb2.Signals(
                    term=3,
                    version=view.version,
                    partial=partial,
                    models=[
                        fleet_pb2.ModelSignals(model=f"spam/m-{n}", waiting=1) for n in range(500)
                    ],
                    workers=[
                        fleet_pb2.WorkerSignals(worker_id=f"spam/w-{n}", stats=READY)
                        for n in range(500)
                    ],
                )
                await gateway.send(unknown)
            await gateway.say_partly(view.version, fleet_pb2.ModelSignals(model=MODEL, waiting=4))
            await served.until(lambda: served.fleet.signals(MODEL).waiting == 4)
            assert (set(stream.models), stream.workers) == ({MODEL}, {})
            assert set(stream.digests) == {MODEL}

            await gateway.say(view, reachable=True, stats=READY)
            await served.until(lambda: WORKER in stream.workers)
            served.fleet.publish(a_model())
            assert stream.workers == {}, "of a worker that left, nothing is kept"


async def test_what_was_said_before_the_first_view_counts_as_far_as_the_view_has_it():
    """A gateway says it once: later signals are about what changed."""
    async with service(MODEL, "default/other") as served:
        served.fleet.publish(a_model())
        async with connected(served) as gateway:
            said = [fleet_pb2.ModelSignals(model=m, waiting=2) for m in ("default/other", "spam/m")]
            await gateway.send(fleet_pb2.Signals(term=3, version=9, models=said))
            await served.until(lambda: served.fleet.streams)
            [stream] = served.fleet.streams
            await served.until(lambda: set(stream.models) == {"default/other", "spam/m"})
            served.fleet.publish(a_model(model="default/other"))
            await gateway.view()
            await gateway.say_partly(9)
            await served.until(lambda: served.fleet.signals("default/other").waiting == 2)
            assert set(stream.models) == {"default/other"}


async def test_a_gateway_hears_why_nothing_will_come():
    async with service(MODEL) as served:
        served.fleet.publish(replace(a_model(), cause="ScaledToZero: nothing serves"))
        async with connected(served) as gateway:
            assert (await gateway.view()).models[0].cause == "ScaledToZero: nothing serves"


async def test_another_replica_answers_with_the_leaders_address():
    async with service(lead=False) as served, connected(served) as gateway:
        served.fleet.follow("10.0.0.7:9090")
        assert (await gateway.receive()).redirect.address == "10.0.0.7:9090"
        served.fleet.lead(4, ())
        assert (await gateway.view()).term == 4


async def test_a_stream_without_hello_is_refused_with_a_reason():
    async with (
        service() as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel,
    ):
        call = fleet_pb2_grpc.FleetStub(channel).Connect(metadata=call_metadata("gateway"))
        await call.write(fleet_pb2.GatewayMessage(signals=fleet_pb2.Signals()))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "hello" in refused.value.details()


async def test_a_gateway_of_a_far_version_is_refused_by_name():
    async with service() as served, connected(served, version="7.0.0") as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await gateway.receive()
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "gateway/7.0.0" in refused.value.details()

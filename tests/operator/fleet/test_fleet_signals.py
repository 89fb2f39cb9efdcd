"""What gateways say to the Fleet service, and what decisions read of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fleet_streams import MODEL, READY, WORKER, a_model, at, connected, service
from modelfleet_operator.decisions.latency import Judged
from modelfleet_operator.decisions.observed import WorkerState
from modelfleet_operator.decisions.worker_speed import Work
from modelfleet_operator.fleet.service import SILENCE
from modelfleet_proto import fleet_pb2, worker_pb2


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
            assert signals.waiting == 2 * 128 + 8, (
                "a request of 128 choices each, 8 streams to resume"
            )
            assert signals.running == 8
            assert signals.gateways[0].taken == {WORKER: 8}
            assert signals.last_request == signals.gateways[0].oldest_wait == 0
            assert signals.awaited_revisions == {"aaaa"}
            said = signals.stats[WORKER]
            assert (said.running, said.percent, said.eta) == (8, 0, 0)
            assert len(said.message) + len(said.phase) <= 2_000


async def test_counters_reach_decisions_and_wake_none():
    async with service(MODEL) as served:
        served.fleet.publish(a_model(at("127.0.0.1:7000")))
        async with connected(served) as gateway:
            view = await gateway.view()

            async def say(requests: int, busy: float) -> None:
                stats = worker_pb2.Stats(
                    state=worker_pb2.WORKER_STATE_READY, slots=8, busy_seconds=busy, steps=40,
                    prompt_tokens=90, cached_tokens=30, completion_tokens=70,
                    requests_finished=4, prompt_squares=float("inf"),
                )  # fmt: skip
                worker = fleet_pb2.WorkerSignals(worker_id=WORKER, reachable=True, stats=stats)
                model = fleet_pb2.ModelSignals(
                    model=MODEL, requests=requests, first_tokens=5, late_first_tokens=2, answers=4
                )
                await gateway.send(
                    fleet_pb2.Signals(
                        term=3, version=view.version, models=[model], workers=[worker]
                    )
                )

            await say(6, 2.5)
            await served.until(lambda: served.fleet.signals(MODEL).complete)
            counts = served.fleet.signals(MODEL).counts
            assert list(counts.requests.values()) == [6]
            assert list(counts.judged.values()) == [Judged(5, 2, 4, 0)]
            assert counts.works == {WORKER: Work(2.5, 40, 60, 70, 4, 0.0)}
            woken = len(served.woken)
            await say(9, 3.5)
            counted = lambda: served.fleet.signals(MODEL).counts  # noqa: E731
            await served.until(lambda: list(counted().requests.values()) == [9])
            assert counted().works[WORKER].busy_seconds == 3.5
            assert len(served.woken) == woken


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

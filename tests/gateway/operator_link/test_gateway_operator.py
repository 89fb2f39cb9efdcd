"""The stream to the operator: views in, signals out, and life without it."""

import asyncio

import httpx
import openai
import pytest

from clients import tls
from gateway_doubles import (
    MODEL,
    OperatorDouble,
    ScriptedWorker,
    eventually,
    expected_text,
    model_view,
    running_fleet,
)
from modelfleet_gateway.errors import NotReadyError, UnknownModelError
from modelfleet_gateway.http.server import Gateway, address_of, listen
from modelfleet_gateway.metrics import Metrics
from modelfleet_gateway.options import Options
from modelfleet_gateway.routing.dispatch import Dispatcher
from modelfleet_gateway.routing.view import ModelView, make_view
from modelfleet_proto import fleet_pb2, worker_pb2


async def ask(fleet, model: str = "tiny") -> str:
    answer = await fleet.client.completions.create(model=model, prompt="p", seed=7)
    return answer.choices[0].text


async def test_forwards_the_stats_of_every_worker():
    ready = ScriptedWorker("w-0")
    loading = ScriptedWorker("w-1", state=worker_pb2.WORKER_STATE_LOADING)
    async with running_fleet(ready, loading) as fleet:
        await ask(fleet)
        signals = fleet.operator.signals
        await eventually(lambda: signals and signals[-1].models and signals[-1].version == 1)
        await eventually(lambda: signals[-1].models[0].completion_tokens == 8)
        last = signals[-1]
    assert fleet.operator.hellos == ["gw-1"]
    assert last.term == 1
    workers = {entry.worker_id: entry for entry in last.workers}
    assert {entry.stats.state for entry in workers.values()} == {
        worker_pb2.WORKER_STATE_READY,
        worker_pb2.WORKER_STATE_LOADING,
    }
    assert workers["w-0"].reachable
    assert (last.models[0].model, last.models[0].requests) == (MODEL, 1)
    assert (last.models[0].waiting, last.models[0].running) == (0, 0)
    assert last.models[0].prompt_tokens == 5


async def test_judges_latency_by_the_targets_of_the_view():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        view = model_view(worker)
        view.ttft_target, view.tpot_target = 600.0, 1e-9
        fleet.push(view)
        queue = fleet.gateway.dispatcher.queues[MODEL]
        await eventually(lambda: queue.view.ttft_target == 600)
        await ask(fleet)
        signals = fleet.operator.signals
        await eventually(lambda: signals[-1].models and signals[-1].models[0].answers == 1)
        said = signals[-1].models[0]
        assert (said.first_tokens, said.late_first_tokens) == (1, 0)
        assert said.slow_answers == 1


async def test_a_worker_that_is_gone_is_not_reachable():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        await worker.kill()
        await fleet.ready(0)
        signals = fleet.operator.signals
        await eventually(lambda: signals[-1].workers and not signals[-1].workers[0].reachable)


async def test_a_worker_that_restarts_at_its_address_is_found_again():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        await worker.kill()
        await fleet.ready(0)
        reborn = ScriptedWorker(address=worker.address)
        await reborn.start()
        await fleet.ready(1)
        assert await ask(fleet) == expected_text("p", 8)
        await reborn.kill()


async def test_a_view_of_a_lower_term_is_ignored():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        fleet.push(model_view(worker, served=("new",)), term=5)
        await eventually(lambda: "new" in fleet.gateway.dispatcher.view.names)
        fleet.push(model_view(worker, served=("old",)), term=4)
        fleet.push(model_view(worker, served=("newer",)), term=5)
        await eventually(lambda: "newer" in fleet.gateway.dispatcher.view.names)
        assert fleet.gateway.dispatcher.view.term == 5


async def test_a_change_touches_only_the_models_that_it_names():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        dispatcher, operator = fleet.gateway.dispatcher, fleet.operator
        kept = dispatcher.queues[MODEL].workers["w-0"]
        new = fleet_pb2.ModelView(model="default/new", served_names=["new"])
        operator.change(fleet_pb2.ViewChange(version=7, models=[new]))
        await eventually(lambda: "new" in dispatcher.view.names)
        assert dispatcher.queues[MODEL].workers["w-0"] is kept
        assert await ask(fleet) == expected_text("p", 8)
        await eventually(lambda: operator.signals[-1].version == 7)

        operator.change(fleet_pb2.ViewChange(version=8, removed=["default/new"]))
        await eventually(lambda: "new" not in dispatcher.view.names)
        assert dispatcher.queues.keys() == {MODEL}
        assert dispatcher.view.term == 1


async def test_a_change_of_a_leader_that_was_replaced_is_ignored():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        fleet.push(model_view(worker, served=("tiny",)), term=5)
        await eventually(lambda: fleet.gateway.dispatcher.view.term == 5)
        fleet.push(model_view(worker, served=("old",)), term=4)
        stale = fleet_pb2.ModelView(model="default/stale", served_names=["stale"])
        fleet.operator.change(fleet_pb2.ViewChange(version=99, models=[stale]))
        await eventually(lambda: not fleet.operator.changes)
        fleet.push(model_view(worker, served=("newer",)), term=5)
        await eventually(lambda: "newer" in fleet.gateway.dispatcher.view.names)
        assert "stale" not in fleet.gateway.dispatcher.view.names


async def test_an_operator_that_takes_them_gets_signals_of_what_changed_only():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        idle = fleet_pb2.ModelView(model="default/idle")
        view = fleet_pb2.View(
            term=1, version=2, models=[model_view(worker), idle], takes_partial=True
        )
        fleet.operator.push(view)
        signals = fleet.operator.signals
        await eventually(lambda: signals[-1].partial and not signals[-1].models)
        told = len(signals)
        await ask(fleet)
        await eventually(lambda: any(s.models and s.models[0].requests for s in signals[told:]))
        assert {m.model for s in signals[told:] for m in s.models} == {MODEL}
        assert not signals[0].partial, "the first of a stream says everything"


async def test_a_worker_that_is_not_routable_gets_nothing_new():
    stopped, other = ScriptedWorker("w-0"), ScriptedWorker("w-1")
    async with running_fleet(stopped, other) as fleet:
        view = model_view(stopped, other)
        view.workers[0].routable = False
        fleet.push(view)
        await fleet.ready(1)
        for _ in range(3):
            await ask(fleet)
    assert not stopped.requests


async def test_goes_on_without_an_operator_and_finds_it_again():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        await fleet.operator.stop()
        assert await ask(fleet) == expected_text("p", 8)
        assert (await fleet.http.get("/readyz")).status_code == 200

        fleet.operator.view.version = 1  # a restarted operator begins again
        fleet.operator.view.models[0].served_names.append("again")
        await fleet.operator.start()
        await eventually(lambda: "again" in fleet.gateway.dispatcher.view.names)
        assert await ask(fleet, "again") == expected_text("p", 8)
    assert fleet.operator.hellos == ["gw-1", "gw-1"]


async def test_a_request_waits_for_a_model_that_is_new_while_the_operator_is_away():
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        await fleet.operator.stop()
        await eventually(lambda: not fleet.gateway.dispatcher.is_current.is_set())
        early = asyncio.create_task(ask(fleet, "new"))
        card = asyncio.create_task(fleet.http.get("/v1/models/new"))
        await asyncio.sleep(0.1)
        assert not early.done()
        assert not card.done()
        fleet.operator.view.models[0].served_names.append("new")
        await fleet.operator.start()
        assert await early == expected_text("p", 8)
        assert (await card).json()["root"] == MODEL
        with pytest.raises(openai.NotFoundError, match="does not exist here"):
            await ask(fleet, "other")


@pytest.mark.looptime
async def test_an_unknown_model_is_not_ready_rather_than_missing_without_an_operator():
    dispatcher = Dispatcher(Metrics())
    dispatcher.apply(make_view((ModelView(model="default/old"),)))
    assert (await dispatcher.find("default/old")).model == "default/old"
    with pytest.raises(NotReadyError, match=r"'new' is not known here, and the operator"):
        await dispatcher.find("new")
    dispatcher.is_current.set()
    with pytest.raises(UnknownModelError):
        await dispatcher.find("new")


async def test_an_operator_without_heartbeats_is_left_for_another(monkeypatch):
    """Its connection stays: the kernel answers for a process that was stopped."""
    monkeypatch.setattr("modelfleet_gateway.operator_link.link.HEARTBEAT_TIMEOUT", 0.5)
    worker = ScriptedWorker()
    async with running_fleet(worker) as fleet:
        operator = fleet.operator
        await asyncio.sleep(1)
        assert len(operator.hellos) == 1, "an older version sends no heartbeats and is not left"
        operator.heartbeat = 0.1
        fleet.push(
            model_view(worker)
        )  # ends its wait for a change; from then on it sends heartbeats
        await asyncio.sleep(1)
        assert len(operator.hellos) == 1
        operator.heartbeat = None
        await eventually(lambda: len(operator.hellos) == 2)
        assert await ask(fleet) == expected_text("p", 8)


async def test_follows_a_redirect_to_the_leader():
    leader, follower = OperatorDouble(), OperatorDouble()
    await leader.start()
    await follower.start()
    follower.redirect = leader.address
    leader.view.models.append(fleet_pb2.ModelView(model=MODEL))
    listener = listen("127.0.0.1:0")
    gateway = Gateway(Options(operator=follower.address, gateway_id="gw-1"), listener)
    running = asyncio.create_task(gateway.run())
    async with httpx.AsyncClient(base_url=f"http://{address_of(listener)}", verify=tls()) as http:
        await eventually(lambda: gateway.dispatcher.view is not None)
        assert leader.hellos == ["gw-1"]
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == MODEL
    gateway.drain()
    await running
    await leader.stop()
    await follower.stop()


async def test_is_not_ready_before_its_first_view_and_when_it_drains():
    listener = listen("127.0.0.1:0")
    gateway = Gateway(Options(operator="127.0.0.1:1"), listener)
    running = asyncio.create_task(gateway.run())
    async with httpx.AsyncClient(base_url=f"http://{address_of(listener)}", verify=tls()) as http:
        assert (await http.get("/healthz")).status_code == 200
        early = await http.get("/readyz")
        assert (early.status_code, early.text) == (503, "waiting for the operator's first view\n")
        answer = await http.post("/v1/completions", json={"model": "m", "prompt": "p"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
    gateway.drain()
    await running

"""The Fleet service with a real gRPC client in the gateway's place: views, changes, refusals."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from fleet_streams import MODEL, a_model, at, connected, service
from modelfleet_operator.decisions.api_keys import ApiKey
from modelfleet_operator.fleet.view import REMOVALS_KEPT, FleetView
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.handshake import call_metadata


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


async def test_a_gateway_is_told_how_to_route():
    async with service(MODEL) as served:
        served.fleet.publish(replace(a_model(), routing_policy="PrefixAware", pack_in_flight=4))
        async with connected(served) as gateway:
            (model,) = (await gateway.view()).models
            assert (model.routing_policy, model.pack_in_flight) == ("PrefixAware", 4)


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


async def test_no_view_is_sent_before_every_model_is_known():
    """A half view would tell a gateway that the other models do not exist."""
    async with service(MODEL, "default/other") as served, connected(served) as gateway:
        served.fleet.publish(a_model())
        await served.until(lambda: served.fleet.signals(MODEL).gateways)
        served.fleet.publish(a_model(model="default/other"))
        assert len((await gateway.view()).models) == 2


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
    async with service() as served:
        with pytest.raises(grpc.aio.AioRpcError) as refused:  # maybe before it has written
            async with connected(served, version="7.0.0") as gateway:
                await gateway.receive()
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "gateway/7.0.0" in refused.value.details()


async def test_a_gateway_hears_of_keys_with_its_view_and_whenever_they_change():
    alice, bob = (ApiKey(id=f"default/{name}", hashes=(name.encode(),)) for name in ("a", "b"))
    async with service(MODEL) as served:
        served.fleet.publish_keys([alice])
        served.fleet.lead(3, [MODEL])  # a new leader tells them, too
        served.fleet.publish(a_model())
        async with (
            connected(served, takes_changes=True) as gateway,
            connected(served, "old") as old,
        ):
            assert [key.id for key in (await gateway.view()).keys.keys] == ["default/a"]
            assert [key.id for key in (await old.view()).keys.keys] == ["default/a"]
            served.fleet.publish_keys([alice])  # nothing changed: nothing is sent
            served.fleet.publish_keys([bob], required=True)
            change = await gateway.change()
            assert [key.id for key in change.keys.keys] == ["default/b"]
            assert change.keys.required
            assert not change.models
            assert [key.id for key in (await old.view()).keys.keys] == ["default/b"]
            served.fleet.publish(a_model(at("127.0.0.1:7000")))
            assert not (await gateway.change()).HasField("keys")

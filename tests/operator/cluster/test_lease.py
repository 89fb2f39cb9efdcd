"""Two operators, one API server: one acts, the other stands by and takes over."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from kube_cluster import ApiServer, Gateway, eventually
from modelfleet_operator.cluster.lease import NOTE, Fence, clock, raise_lost
from modelfleet_operator.decisions.leadership import Pace
from modelfleet_operator.errors import LeadershipLostError, RejectedError
from modelfleet_proto import fleet_pb2, fleet_pb2_grpc
from modelfleet_proto.handshake import call_metadata

StartOperator = Callable[..., Any]
QUICK = Pace(duration=2.0, margin=0.5, renew=0.2, retry=0.1, poll=0.1, request=0.5)


async def first_answer(address: str) -> fleet_pb2.OperatorMessage:
    """What an operator says to a gateway that has just connected."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = fleet_pb2_grpc.FleetStub(channel).Connect(metadata=call_metadata("gateway"))
        hello = fleet_pb2.GatewayHello(gateway_id="gateway-2")
        await stream.write(fleet_pb2.GatewayMessage(hello=hello))
        async with asyncio.timeout(10):
            message = await stream.read()
        stream.cancel()
    assert isinstance(message, fleet_pb2.OperatorMessage)
    return message


async def test_the_one_that_stands_by_sends_gateways_to_the_leader_and_takes_over(
    api: ApiServer, start_operator: StartOperator
):
    async with contextlib.AsyncExitStack() as leading, contextlib.AsyncExitStack() as standing_by:
        leader = await leading.enter_async_context(start_operator())
        await eventually(lambda: api.holder().endswith(leader.fleet_address))
        other = await standing_by.enter_async_context(start_operator())

        assert (await first_answer(other.fleet_address)).redirect.address == leader.fleet_address
        term = (await first_answer(leader.fleet_address)).view.term
        assert term == api.lease()["spec"]["leaseTransitions"]
        await leader.apply()
        await eventually(api.running)

        loop = asyncio.get_running_loop()
        async with Gateway(other.fleet_address).connected() as gateway:  # it waits for a view
            await leading.aclose()
            ended = loop.time()
            await eventually(lambda: api.holder().endswith(other.fleet_address))
            assert loop.time() - ended < 2
            await other.apply("other")
            await eventually(lambda: len(api.running()) == 2)
            await eventually(lambda: gateway.route("default/other"))
            assert gateway.route("default/smol")
            assert gateway.view.term == term + 1

    names = {json.loads(request.body)["metadata"]["name"] for request in api.asked("POST", "pods")}
    assert names == api.pods().keys()  # nothing was created twice


async def test_a_leader_that_cannot_renew_ends_before_another_one_could_lead(
    api: ApiServer, start_operator: StartOperator
):
    async def lead_for_a_while() -> None:
        async with start_operator(pace=QUICK) as cluster:
            await cluster.apply()
            await eventually(api.running)
            api.refuse_leases = True
            loop, refused = asyncio.get_running_loop(), asyncio.get_running_loop().time()
            await eventually(lambda: loop.time() - refused > QUICK.leads_for)
            await cluster.apply("late")
            await eventually(cluster.has_ended)

    with pytest.raises(LeadershipLostError, match="not renewed in time"):
        await lead_for_a_while()
    assert len(api.pods()) == 1, "it acted on what came after its time"


async def test_a_lease_that_was_deleted_is_made_again_by_its_leader(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator(pace=QUICK) as cluster:
        await eventually(api.holder)
        term = api.lease()["spec"]["leaseTransitions"]
        await cluster.delete_lease()
        await eventually(api.holder)
        assert api.lease()["spec"]["leaseTransitions"] == term
        await cluster.apply()
        await eventually(api.running)


async def test_a_deleted_deployments_name_stays_its_namespaces_when_another_replica_leads(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator(pace=QUICK) as leader:
        await leader.apply()
        await eventually(lambda: api.condition("NameConflict").get("status") == "False")
        await leader.delete()
        await eventually(lambda: api.lease()["metadata"].get("annotations", {}).get(NOTE))
    async with start_operator(pace=QUICK) as successor:
        await successor.apply(namespace="other")
        taken = await eventually(lambda: api.condition("NameConflict", namespace="other"))
        assert (taken["status"], taken["reason"]) == ("True", "NameTaken")
        assert "default/smol" in taken["message"]
        await successor.apply()
        await eventually(lambda: api.condition("NameConflict").get("status") == "False")
        await eventually(lambda: NOTE not in api.lease()["metadata"].get("annotations", {}))


async def test_a_note_on_the_lease_that_was_broken_by_hand_is_none(
    api: ApiServer, start_operator: StartOperator
):
    async with start_operator(pace=QUICK) as leader:
        await eventually(api.holder)
        await leader.annotate_lease({NOTE: "{chat"})
    async with start_operator(pace=QUICK) as successor:
        await successor.apply()
        await eventually(api.running)


def test_the_fence_lets_no_replica_write_that_never_led():
    with pytest.raises(RejectedError, match="another replica leads"):
        Fence(raise_lost).check()


def test_the_fence_ends_a_leader_that_is_too_late_also_right_after_being_continued():
    fence = Fence(raise_lost)
    fence.resumed()  # a follower may sleep as long as it likes
    fence.open(clock() + 60)
    fence.check()
    fence.resumed()
    fence.open(clock() - 0.001)
    assert not fence.leads
    with pytest.raises(LeadershipLostError):
        fence.check()
    fence.open(clock() - 0.001)
    with pytest.raises(LeadershipLostError):
        fence.resumed()

"""What is sent to workers: the bytes of a request, and how many of them at once."""

import asyncio

import pytest

from modelfleet_gateway.routing.request import ChoiceRequest
from modelfleet_gateway.routing.send_gate import SendGate
from modelfleet_proto import worker_pb2


def test_a_choice_is_what_all_share_and_what_is_its_own():
    shared = worker_pb2.GenerateRequest(prompt="p", seed=7)
    request = ChoiceRequest(
        model="a/b", request_id="r.1", choice=1, shared=shared.SerializeToString()
    )
    first = worker_pb2.GenerateRequest(model="a/b", request_id="r.1", choice=1, prompt="p", seed=7)
    assert worker_pb2.GenerateRequest.FromString(request.serialize()) == first
    first.resume.token_ids.extend([1, 2])
    first.resume.model_digest = "d"
    assert worker_pb2.GenerateRequest.FromString(request.serialize([1, 2], "d")) == first
    first.resume.ClearField("token_ids")
    assert worker_pb2.GenerateRequest.FromString(request.serialize([], "d")) == first


async def entered(gate: SendGate, size: int) -> asyncio.Task[None]:
    """One that enters as far as it can now."""
    task = asyncio.create_task(gate.enter(size))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_so_many_bytes_enter_and_the_others_wait_in_order():
    gate = SendGate(limit=10)
    first, second = await entered(gate, 6), await entered(gate, 6)
    third = await entered(gate, 1)
    assert [task.done() for task in (first, second, third)] == [True, False, False]
    gate.leave(6)
    await asyncio.gather(second, third)
    gate.leave(6)
    gate.leave(1)
    assert (await entered(gate, 99)).done(), "one of any size may go alone"


@pytest.mark.parametrize("is_admitted", [False, True])
async def test_one_that_is_cancelled_leaves_its_place_to_the_next(is_admitted: bool):
    gate = SendGate(limit=10)
    await gate.enter(6)
    second, third = await entered(gate, 9), await entered(gate, 4)
    if is_admitted:
        gate.leave(6)  # its turn, but it is cancelled before it runs
    second.cancel()
    await asyncio.wait([second])
    await third
    gate.leave(4)
    if not is_admitted:
        gate.leave(6)
    assert (await entered(gate, 99)).done(), "nothing is left inside"

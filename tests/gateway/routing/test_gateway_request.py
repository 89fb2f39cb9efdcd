"""What is sent to workers: the bytes of a request, and how many of them at once."""

import asyncio
from collections.abc import Callable

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


KIBIBYTE = 1024


async def entered(gate: SendGate, kibibytes: int) -> asyncio.Task[Callable[[], None] | None]:
    """One that enters as far as it can now."""
    task = asyncio.create_task(gate.enter(kibibytes * KIBIBYTE))
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_so_many_bytes_enter_and_the_others_wait_in_order():
    gate = SendGate(limit=1000 * KIBIBYTE)
    first, second = await entered(gate, 600), await entered(gate, 600)
    third = await entered(gate, 100)
    assert [task.done() for task in (first, second, third)] == [True, False, False]
    assert (await entered(gate, 64)).result() is None, "a small one waits for nothing"
    first.result()()
    for leave in await asyncio.gather(second, third):
        leave()
    assert (await entered(gate, 9999)).done(), "one of any size may go alone"


@pytest.mark.parametrize("is_admitted", [False, True])
async def test_one_that_is_cancelled_leaves_its_place_to_the_next(is_admitted: bool):
    gate = SendGate(limit=1000 * KIBIBYTE)
    first = (await entered(gate, 600)).result()
    second, third = await entered(gate, 900), await entered(gate, 400)
    if is_admitted:
        first()  # its turn, but it is cancelled before it runs
    second.cancel()
    await asyncio.wait([second])
    (await third)()
    if not is_admitted:
        first()
    assert (await entered(gate, 9999)).done(), "nothing is left inside"

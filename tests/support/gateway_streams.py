"""Streams of tests through a gateway: asked for, handed over, and not lost."""

import grpc

from gateway_doubles import Fleet


async def hand_over(context, request, position):
    """Once, in mid-stream, as a drain does."""
    if position == 3:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "draining: resume it elsewhere")


async def ask(fleet: Fleet, prompt: str = "p", *, stream: bool = True) -> str:
    """The whole text of a plain completion."""
    if not stream:
        answer = await fleet.client.completions.create(
            model="tiny", prompt=prompt, seed=7, max_tokens=100
        )
        return answer.choices[0].text
    chunks = await fleet.client.completions.create(
        model="tiny", prompt=prompt, seed=7, max_tokens=100, stream=True
    )
    return "".join([chunk.choices[0].text async for chunk in chunks])


async def undisturbed(fleet: Fleet) -> None:
    """Nothing was refused and nothing lost."""
    assert await fleet.metric("modelfleet_gateway_refusals_total") == 0
    assert await fleet.metric("modelfleet_gateway_lost_total") == 0

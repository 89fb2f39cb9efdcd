"""The whole path with the real model: sleep, wake, kill, stop; nothing lost, every text right.

Texts are compared with transformers' own greedy output in float32.
"""

from __future__ import annotations

import asyncio
import functools
import signal
import socket
from collections.abc import Callable

import openai
import psutil
import pytest

from local_fleet import Fleet, StartFleet, eventually, manifest

pytestmark = pytest.mark.integration

TOPICS = (
    "the sea", "a mountain", "an old clock", "winter", "a loaf of bread", "the moon", "a violin",
    "rain in the city", "a lighthouse", "the desert", "a paper boat", "an orchard", "thunder",
    "a train at night", "a library", "the first snow", "a bicycle", "a garden wall", "a harbour",
    "an empty road",
)  # fmt: skip


def question(topic: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": f"Write one sentence about {topic}."}]


async def ask(client: openai.AsyncOpenAI, topic: str, tokens: int) -> str:
    """One plain call; raises on any refusal."""
    answer = await client.chat.completions.create(
        model="smollm2", messages=question(topic), max_tokens=tokens, temperature=0
    )
    return answer.choices[0].message.content or ""


async def stream(
    client: openai.AsyncOpenAI, topic: str, tokens: int, on_chunk: Callable[[], None] = lambda: None
) -> str:
    """One streamed call; calls `on_chunk` for each piece of text."""
    text = ""
    chunks = await client.chat.completions.create(
        model="smollm2", messages=question(topic), max_tokens=tokens, temperature=0, stream=True
    )
    finish = None
    async for chunk in chunks:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
        on_chunk()
    assert finish in ("stop", "length"), "the stream ended without a finish reason"
    return text


@pytest.fixture(scope="session")
def reference() -> Callable[[tuple[str, ...], int], list[str]]:
    """What transformers answers, greedy, in float32; computed once for the same topics."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from prepare_smollm2 import model_folder

    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), padding_side="left")

    @functools.cache
    def answers(topics: tuple[str, ...], tokens: int) -> list[str]:
        ids = tokenizer.apply_chat_template(
            [question(topic) for topic in topics],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
        return tokenizer.batch_decode(out[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    return answers


async def test_sleeps_at_zero_and_wakes_for_twenty_requests(start_fleet: StartFleet, reference):
    expected = reference(TOPICS, 16)
    scaling = {"minReplicas": 0, "idleTimeout": "2s", "scaleDownDelay": "2s"}
    fleet = start_fleet(manifest(scaling=scaling))
    eventually("the new revision proved itself and fell asleep", fleet.is_asleep)

    async with fleet.client() as client:
        answers = await asyncio.gather(*(ask(client, topic, 16) for topic in TOPICS))

    assert answers == expected
    assert fleet.gateway_metric("modelfleet_gateway_refusals_total") == 0
    eventually("it sleeps again", fleet.is_asleep)
    history = fleet.status()["scalingHistory"]
    assert {entry["to"] for entry in history} >= {0, 1}
    assert all(entry["reason"] for entry in history)


async def test_a_killed_worker_costs_no_answer_streamed_or_whole(
    start_fleet: StartFleet, reference
):
    topics, tokens = TOPICS[:8], 48
    streamed, whole = topics[:4], topics[4:]
    expected = reference(topics, tokens)
    fleet = start_fleet(manifest())
    eventually("it is ready", fleet.is_ready)
    (victim,) = fleet.workers()
    pieces = dict.fromkeys(streamed, 0)

    def count(topic: str) -> None:
        pieces[topic] += 1

    async def kill_in_the_middle() -> None:
        while min(pieces.values()) < 5 or generated(fleet) < 8 * 5:
            await asyncio.sleep(0.01)
        victim.send_signal(signal.SIGKILL)

    async with fleet.client() as client:
        calls = [
            *(
                stream(client, topic, tokens, lambda topic=topic: count(topic))
                for topic in streamed
            ),
            *(ask(client, topic, tokens) for topic in whole),
        ]
        *answers, _ = await asyncio.gather(*calls, kill_in_the_middle())

    assert answers == expected
    assert not victim.is_running()
    assert victim.pid not in {worker.pid for worker in fleet.workers()}
    assert fleet.gateway_metric("modelfleet_gateway_resumed_total") == 8
    assert fleet.gateway_metric("modelfleet_gateway_refusals_total") == 0


def generated(fleet: Fleet) -> float:
    """Tokens that workers generated so far, as the gateway saw them come."""
    return fleet.gateway_metric("modelfleet_gateway_completion_tokens_total")


async def test_sixty_four_streams_each_get_their_own_text(start_fleet: StartFleet, reference):
    topics = tuple(f"{topic} {number}" for number in (1, 2, 3, 4) for topic in TOPICS)[:64]
    expected = reference(topics, 8)
    fleet = start_fleet(manifest())
    async with fleet.client() as client:
        answers = await asyncio.gather(*(stream(client, topic, 8) for topic in topics))
    assert answers == expected
    assert fleet.gateway_metric("modelfleet_gateway_refusals_total") == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_leaves_no_process_and_no_port(start_fleet: StartFleet, number: signal.Signals):
    fleet = start_fleet(manifest(), "--drain-timeout", "120")
    eventually("it is ready", fleet.is_ready)
    children = fleet.up.children(recursive=True)
    ports = {c.laddr.port for p in [fleet.up, *children] for c in p.net_connections("tcp")
             if c.status == psutil.CONN_LISTEN}  # fmt: skip
    assert len(ports) >= 3, "the gateway, the worker and the Fleet service listen"
    async with fleet.client() as client:
        running = asyncio.create_task(stream(client, TOPICS[0], 32))
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(fleet.stop, number) == 0
        assert await running, "what was running was finished before the end"

    assert not [child for child in children if child.is_running()]
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_stopped_worker_does_not_stop_the_gateway(start_fleet: StartFleet, reference):
    expected = reference(TOPICS, 16)[:4]
    fleet = start_fleet(manifest(scaling={"minReplicas": 2, "maxReplicas": 2}))
    eventually("both are ready", lambda: fleet.status().get("readyReplicas") == 2)
    frozen = fleet.workers()[0]
    frozen.suspend()
    try:
        async with fleet.client() as client:
            answers = await asyncio.gather(*(ask(client, topic, 16) for topic in TOPICS[:4]))
        assert answers == expected
    finally:
        if frozen.is_running():
            frozen.resume()

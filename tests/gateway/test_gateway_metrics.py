"""What Prometheus reads of whole requests, and that no client makes a series."""

from __future__ import annotations

import grpc
from prometheus_client.parser import text_string_to_metric_families

from gateway_doubles import MODEL, Fleet, ScriptedWorker, eventually, running_fleet
from modelfleet_gateway.metrics import Metrics
from modelfleet_proto import worker_pb2
from modelfleet_proto.refusals import FORMAT_FAILED, refusal_metadata

BODY = {"model": "tiny", "prompt": "a"}


def samples(fleet: Fleet) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """By name and labels, without the buckets."""
    return {
        (sample.name.removeprefix("modelfleet_gateway_"), frozenset(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(fleet.metrics())
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_a_whole_request_is_observed_with_its_tokens():
    async with running_fleet(ScriptedWorker(tokens=8)) as fleet:
        for stream in (True, False):
            reply = await fleet.http.post("/v1/completions", json={**BODY, "stream": stream})
            assert reply.status_code == 200
        await fleet.http.post("/v1/completions", json={**BODY, "n": 0})
        found = samples(fleet)
    model = frozenset({("model", MODEL)})
    for name, count, total in [
        ("request_duration_seconds", 2, None),
        ("request_prompt_tokens", 2, 10),
        ("request_completion_tokens", 2, 16),
    ]:
        assert found[f"{name}_count", model] == count
        if total is not None:
            assert found[f"{name}_sum", model] == total
    assert found["cached_tokens_total", model] == 4
    assert found["tool_failures_total", model] == 0
    assert found["process_resident_memory_bytes", frozenset()] > 1e6


async def test_formats_that_fail_are_counted():
    async def fail(context, request, position):
        await context.abort(grpc.StatusCode.ABORTED, "failed", refusal_metadata(FORMAT_FAILED))

    async with running_fleet(ScriptedWorker(before_token=fail)) as fleet:
        assert (await fleet.http.post("/v1/completions", json=BODY)).status_code == 400
        assert await fleet.metric("modelfleet_gateway_format_failures_total") == 1


def test_calls_of_tools_that_fail_are_counted():
    metrics = Metrics()
    meter = metrics.model(MODEL)
    meter.observe_request(1.0, prompt=5, cached=0, completion=7, failed_calls=2)
    labels = {"model": MODEL}
    failures = "modelfleet_gateway_tool_failures_total"
    assert metrics.registry.get_sample_value(failures, labels) == 2


async def test_what_workers_say_is_there_while_they_are_ready():
    async with running_fleet(ScriptedWorker()) as fleet:
        model = frozenset({("model", MODEL)})
        stats = next(iter(fleet.gateway.dispatcher.queues[MODEL].workers.values())).stats
        assert stats is not None
        stats.MergeFrom(worker_pb2.Stats(running=3, waiting=2, kv_blocks=100, kv_blocks_used=25))
        found = samples(fleet)
        assert found["worker_running", model] == 3
        assert found["worker_waiting", model] == 2
        assert found["kv_cache_usage_ratio", model] == 0.25
        fleet.push()
        await eventually(lambda: ("worker_running", model) not in samples(fleet))


async def test_no_client_makes_a_series():
    async with running_fleet(ScriptedWorker()) as fleet:
        await fleet.http.post("/v1/completions", json=BODY)
        before = samples(fleet).keys()
        for number in range(20):
            await fleet.http.post(
                f"/v1/completions?x={number}",
                json={**BODY, "model": f"tiny-{number}", "user": f"u{number}"},
                headers={"x-request-id": f"r{number}", "authorization": f"Bearer k{number}"},
            )
            await fleet.http.post(
                "/v1/completions", json={**BODY, "user": f"u{number}", "seed": number}
            )
        fresh = samples(fleet).keys() - before
    assert {labels for _, labels in fresh} == {frozenset({("model", ""), ("code", "404")})}

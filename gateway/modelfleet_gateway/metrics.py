"""Prometheus metrics, the counters that go to the operator, and the timing of tokens."""

from __future__ import annotations

import asyncio
import math
import time
from array import array
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from modelfleet_proto import worker_pb2

WAITS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)  # seconds
LAST_WAITS: Final = 1000  # of which the 99th percentile is told
DURATIONS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600, 1200)  # seconds
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)  # of one request
TOKEN_TIMES: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)  # seconds

DIGEST_LENGTH: Final = 12  # characters of a model_digest, as in logs
LONGEST_LABEL: Final = 64  # characters
MOST_KEYS: Final = 200  # that have a label of their own
_COMPUTATION: Final = ("path", "instruction_set", "dtype", "threads", "arithmetic")


class Metrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._meters: dict[str, ModelMeter] = {}
        self._with_series: set[str] = set()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(
                f"modelfleet_gateway_{name}", text, ("model", *labels), registry=registry
            )

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"modelfleet_gateway_{name}", text, ("model",), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(
                f"modelfleet_gateway_{name}", text, ("model",), registry=registry, buckets=buckets
            )

        self.requests = counter(
            "requests", "Requests answered, by HTTP status; 499: the client went away", "code"
        )
        self.refusals = counter("refusals", "Requests refused before a worker had them", "code")
        self.limited = counter(
            "limited",
            "Requests refused with 429, by the API key (200 of them, then other) and the reason",
            "key",
            "reason",
        )
        self._keys: set[str] = set()  # that are labels
        self.prompt_tokens = counter("prompt_tokens", "Tokens of accepted prompts")
        self.completion_tokens = counter("completion_tokens", "Tokens generated for clients")
        self.cached_tokens = counter(
            "cached_tokens", "Tokens of prompts that workers found in their prefix caches"
        )
        self.tool_failures = counter(
            "tool_failures",
            "Calls of tools that a model began and did not write as its format asks",
        )
        self.format_failures = counter(
            "format_failures",
            "Answers that could not be held to their schema or grammar any further",
        )
        self.resumed = counter("resumed", "Choices that continued on another worker")
        self.continued = counter(
            "continued", "Choices that another worker continued, by how exactly", "exactness"
        )
        self.routed = counter("routed", "Choices that got a worker, by what decided which", "by")
        self.yielded = counter(
            "yielded", "Batch choices that made room for interactive ones, to go on later"
        )
        self.lost = counter("lost", "Accepted requests that ended with an error")
        self.queue_depth = gauge("queue_depth", "Choices that wait, streams to resume included")
        self.in_flight = gauge("in_flight", "Choices that have a worker's slot")
        self.ready_workers = gauge("ready_workers", "Workers that this gateway would route to")
        self.worker_running = gauge("worker_running", "Requests in the batches of ready workers")
        self.worker_waiting = gauge(
            "worker_waiting",
            "Requests that ready workers have taken and that wait for their batches",
        )
        self.kv_cache_usage = gauge(
            "kv_cache_usage_ratio", "Part of the KV cache of all ready workers that requests hold"
        )
        self.worker_info = Gauge(
            "modelfleet_gateway_worker_info",
            "Always 1: how a worker computes its model; streams go on exactly on an equal digest",
            ("model", "worker", *_COMPUTATION, "digest"),
            registry=registry,
        )
        self.queue_wait = histogram("queue_wait_seconds", "Wait for a worker", WAITS)
        self.queue_wait_p99 = gauge(
            "queue_wait_p99_seconds",
            "99th percentile of the last 1,000 waits, those that ended with holdTimeout included",
        )
        self.oldest_wait = gauge(
            "oldest_wait_seconds", "How long the oldest choice has waited by now; 0: none waits"
        )
        self.ttft = histogram(
            "time_to_first_token_seconds", "From the request's arrival to its first token", WAITS
        )
        self.tpot = histogram(
            "time_per_output_token_seconds", "Mean of a choice after its first token", TOKEN_TIMES
        )
        self.duration = histogram(
            "request_duration_seconds",
            "Whole requests with status 200, from arrival to end",
            DURATIONS,
        )
        self.request_prompt = histogram(
            "request_prompt_tokens", "Tokens of the prompts of a request with status 200", TOKENS
        )
        self.request_completion = histogram(
            "request_completion_tokens", "Tokens of the answer to a request with status 200", TOKENS
        )

        self.batch_lines = counter("batch_lines", "Lines of batches that have a result", "outcome")
        self.batch_lines_waiting = gauge(
            "batch_lines_waiting", "Lines that wait in batches which this gateway runs"
        )
        self.batch_lines_running = gauge("batch_lines_running", "Lines of batches in work")

    def set_batches(self, counts: Iterable[tuple[str, int, int]]) -> None:
        """By model, how many lines wait and run now: call it before Prometheus reads."""
        self.batch_lines_waiting.clear()
        self.batch_lines_running.clear()
        for model, waiting, running in counts:
            self.batch_lines_waiting.labels(model).set(waiting)
            self.batch_lines_running.labels(model).set(running)

    def count_batch_line(self, model: str, *, succeeded: bool) -> None:
        """A line of a batch has its result."""
        if model in self._with_series:
            self.batch_lines.labels(model, "completed" if succeeded else "failed").inc()

    def set_workers(self, workers: Iterable[tuple[str, worker_pb2.Stats]]) -> None:
        """These serve now, by model: call it before Prometheus reads."""
        for metric in (
            self.worker_info, self.worker_running, self.worker_waiting, self.kv_cache_usage
        ):  # fmt: skip
            metric.clear()
        blocks: dict[str, tuple[int, int]] = {}
        for model, stats in workers:
            self.worker_running.labels(model).inc(stats.running)
            self.worker_waiting.labels(model).inc(stats.waiting)
            used, there = blocks.get(model, (0, 0))
            blocks[model] = used + stats.kv_blocks_used, there + stats.kv_blocks
            how = [str(getattr(stats.computation, name))[:LONGEST_LABEL] for name in _COMPUTATION]
            digest = stats.model_digest[:DIGEST_LENGTH]
            self.worker_info.labels(model, stats.worker_id, *how, digest).set(1)
        for model, (used, there) in blocks.items():
            self.kv_cache_usage.labels(model).set(used / there if there else 0.0)

    def count_response(self, model: str, code: int) -> None:
        """A request ended with this HTTP status; `model` is empty when it named no known one."""
        if not model or model in self._with_series:
            self.requests.labels(model, str(code)).inc()

    def key_label(self, key: str) -> str:
        """A key's id, or what stands for it where there are too many."""
        if not key:
            return "none"
        if key not in self._keys:
            if len(self._keys) >= MOST_KEYS:
                return "other"
            self._keys.add(key)
        return key

    def model(self, name: str) -> ModelMeter:
        """The meter of a model in the view; the same one when a deleted model comes back."""
        self._with_series.add(name)
        meter = self._meters.get(name)
        if meter is None:
            meter = self._meters[name] = ModelMeter(self, name)
        else:
            meter.create_series(self)
        return meter

    def remove_series(self, name: str) -> None:
        """Ends the series of a deleted model. The meter keeps its counts, in case it comes back."""
        self._with_series.discard(name)
        for metric in (
            self.requests, self.refusals, self.limited, self.prompt_tokens, self.completion_tokens,
            self.resumed, self.yielded, self.continued, self.routed, self.lost, self.queue_depth,
            self.in_flight, self.ready_workers, self.queue_wait, self.queue_wait_p99,
            self.oldest_wait, self.ttft, self.tpot,
            self.cached_tokens, self.tool_failures, self.format_failures,
            self.duration, self.request_prompt, self.request_completion,
            self.worker_running, self.worker_waiting, self.kv_cache_usage,
            self.batch_lines, self.batch_lines_waiting, self.batch_lines_running,
        ):  # fmt: skip
            metric.remove_by_labels({"model": name})


class ModelMeter:
    """One model's metrics, and its counters since the gateway's start (fleet.proto)."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._model = model
        self.requests = 0
        self.refusals = 0
        self.resumed = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.last_request = 0.0  # seconds since the epoch; 0: none yet
        self._waits = array("f")  # the last of them, in a ring
        self._waited = 0  # choices that waited
        self.ttft_target = self.tpot_target = 0.0  # seconds; 0: not judged
        self.first_tokens = self.late_first_tokens = 0
        self.answers = self.slow_answers = 0
        self.create_series(metrics)

    def create_series(self, metrics: Metrics) -> None:
        """Creates its time series, again if the model came back."""
        model = self._model
        self._refusals = metrics.refusals
        self._metrics = metrics
        self._resumed = metrics.resumed.labels(model)
        self._continued = metrics.continued
        self._all_routed = metrics.routed
        self._routed: dict[str, Counter] = {}  # by what decided; made when it did
        self._lost = metrics.lost.labels(model)
        self._yielded = metrics.yielded.labels(model)
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._completion_tokens = metrics.completion_tokens.labels(model)
        self._published_tokens = self.completion_tokens
        self.queue_depth = metrics.queue_depth.labels(model)
        self.in_flight = metrics.in_flight.labels(model)
        self.ready_workers = metrics.ready_workers.labels(model)
        self._queue_wait = metrics.queue_wait.labels(model)
        self._queue_wait_p99 = metrics.queue_wait_p99.labels(model)
        self.oldest_wait = metrics.oldest_wait.labels(model)
        self._cached_tokens = metrics.cached_tokens.labels(model)
        self._tool_failures = metrics.tool_failures.labels(model)
        self._format_failures = metrics.format_failures.labels(model)
        self._duration = metrics.duration.labels(model)
        self._request_prompt = metrics.request_prompt.labels(model)
        self._request_completion = metrics.request_completion.labels(model)
        self.ttft = metrics.ttft.labels(model)
        self.tpot = metrics.tpot.labels(model)

    def count_arrival(self) -> None:
        """A request for the model arrived."""
        self.requests += 1
        self.last_request = time.time()

    def observe_first_token(self, seconds: float) -> None:
        """A choice had its first token so long after its request arrived."""
        self.ttft.observe(seconds)
        if self.ttft_target:
            self.first_tokens += 1
            self.late_first_tokens += seconds > self.ttft_target

    def observe_answer(self, seconds: float) -> None:
        """A choice of two tokens at least ended: what each token after the first took."""
        self.tpot.observe(seconds)
        if self.tpot_target:
            self.answers += 1
            self.slow_answers += seconds > self.tpot_target

    def observe_request(
        self, seconds: float, *, prompt: int, cached: int, completion: int, failed_calls: int
    ) -> None:
        """A request was answered; all but the seconds and the failed calls in tokens."""
        self._duration.observe(seconds)
        self._request_prompt.observe(prompt)
        if completion:
            self._request_completion.observe(completion)
        if cached:
            self._cached_tokens.inc(cached)
        if failed_calls:
            self._tool_failures.inc(failed_calls)

    def count_format_failure(self) -> None:
        """An answer could not be held to its format any further."""
        self._format_failures.inc()

    def count_refusal(self, code: int) -> None:
        """A request was refused (429, 503) before a worker had it."""
        self.refusals += 1
        self._refusals.labels(self._model, str(code)).inc()

    def count_limited(self, key: str, reason: str) -> None:
        """A request of this key was refused with 429."""
        label = self._metrics.key_label(key)
        self._metrics.limited.labels(self._model, label, reason).inc()

    def count_resumed(self) -> None:
        """A choice continues on another worker."""
        self.resumed += 1
        self._resumed.inc()

    def count_continued(self, exactness: str) -> None:
        """Another worker has taken it, so exactly (routing/continuation.py)."""
        self._continued.labels(self._model, exactness).inc()

    def count_routed(self, by: str) -> None:
        """A choice got a worker; `by`: a balance.RoutedBy."""
        counter = self._routed.get(by)
        if counter is None:
            counter = self._routed[by] = self._all_routed.labels(self._model, by)
        counter.inc()

    def count_yielded(self) -> None:
        """A batch choice makes room."""
        self._yielded.inc()

    def count_lost(self) -> None:
        """A request that a worker had accepted ended with an error."""
        self._lost.inc()

    def observe_wait(self, seconds: float) -> None:
        """A choice got a slot after so long."""
        self._queue_wait.observe(seconds)
        self.note_wait(seconds)

    def note_wait(self, seconds: float) -> None:
        """A choice waited for so long, and got a slot or none."""
        if len(self._waits) < LAST_WAITS:
            self._waits.append(seconds)
        else:
            self._waits[self._waited % LAST_WAITS] = seconds
        self._waited += 1

    def publish_waits(self) -> None:
        """Brings the percentile up to date; Prometheus has it when it asks."""
        if self._waits:
            waits = sorted(self._waits)
            self._queue_wait_p99.set(waits[math.ceil(0.99 * len(waits)) - 1])

    def count_prompt(self, tokens: int) -> None:
        """A prompt was accepted."""
        self.prompt_tokens += tokens
        self._prompt_tokens.inc(tokens)

    def count_completion(self, tokens: int) -> None:
        """A worker sent new tokens. Prometheus gets their sum when it asks: this is a hot path."""
        self.completion_tokens += tokens

    def publish_tokens(self) -> None:
        """Brings the time series of completion tokens up to date."""
        self._completion_tokens.inc(self.completion_tokens - self._published_tokens)
        self._published_tokens = self.completion_tokens


class RequestTimer:
    """Measures one request's token times, from its arrival, for each of its choices."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived_at = self._loop.time()
        self._first_token_at: dict[int, float] = {}  # by choice

    @property
    def elapsed(self) -> float:
        """Seconds since the request arrived."""
        return self._loop.time() - self._arrived_at

    @property
    def ttft(self) -> float | None:
        """Seconds from the arrival to the first token of any choice; None: there was none yet."""
        first = self._first_token_at.values()
        return min(first) - self._arrived_at if first else None

    def observe(
        self, index: int, event: worker_pb2.Tokens | worker_pb2.Finished, meter: ModelMeter
    ) -> None:
        """Call it for each event of the choice with this index."""
        first = self._first_token_at.get(index)
        if isinstance(event, worker_pb2.Tokens):
            if first is None and event.ids:
                now = self._first_token_at[index] = self._loop.time()
                meter.observe_first_token(now - self._arrived_at)
        elif first is not None and event.completion_tokens > 1:
            meter.observe_answer((self._loop.time() - first) / (event.completion_tokens - 1))

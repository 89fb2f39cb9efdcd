"""What the operator counts for Prometheus; docs/metrics.md lists it."""

from __future__ import annotations

import re
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .decisions.actions import Action
from .decisions.plan import Plan
from .decisions.pool_status import PoolStatus

_DURATIONS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RESOURCE = re.compile(
    r"/apis?/(?:[^/]+/)?v[^/]+/(?:namespaces/[^/]+/)?(?P<plural>[a-z]+)(?:/[^/]+/(?P<sub>[a-z]+))?"
)


class Metrics:
    """All metrics of one operator, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.leader = Gauge(
            "modelfleet_operator_leader", "1 if this replica leads", registry=registry
        )
        self.reconcile_duration = Histogram(
            "modelfleet_operator_reconcile_duration_seconds",
            "One reconcile of a deployment: deciding, and all writes that follow",
            registry=registry,
            buckets=_DURATIONS,
        )
        self.reconcile_errors = Counter(
            "modelfleet_operator_reconcile_errors",
            "Reconciles that failed and are repeated",
            registry=registry,
        )
        self.actions = Counter(
            "modelfleet_operator_actions",
            "Actions decided, by kind: Create, Unroute, Stop, ...",
            ("action",),
            registry=registry,
        )
        self._requests = Counter(
            "modelfleet_operator_api_requests",
            "Requests to the Kubernetes API but watches, by HTTP method and status",
            ("method", "resource", "code"),
            registry=registry,
        )

    def decided(self, action: Action) -> None:
        """Counts an action of a plan."""
        self.actions.labels(type(action).__name__).inc()

    def answered(self, method: str, url: str, outcome: str) -> None:
        """Counts a request to the Kubernetes API; `outcome` is a status or the name of an error."""
        found = _RESOURCE.search(url)
        resource = "/".join(filter(None, found.groups())) if found else "other"
        self._requests.labels(method, resource, outcome).inc()

    def collect_plans(
        self, plans: Callable[[], Mapping[str, Plan]], dirty: Callable[[], int]
    ) -> None:
        """Shows each deployment's latest plan, and how many deployments wait to be reconciled."""
        Gauge(
            "modelfleet_operator_reconcile_queue",
            "Deployments that something happened to and that were not reconciled since",
            registry=self.registry,
        ).set_function(dirty)
        self.registry.register(_Plans(plans))

    def collect_pools(self, statuses: Callable[[], Mapping[str, PoolStatus]]) -> None:
        """Shows each warm pool as its status does."""
        self.registry.register(_Pools(statuses))


class _Plans(Collector):
    """Read when asked, so that a deployment that is gone has no series left."""

    def __init__(self, plans: Callable[[], Mapping[str, Plan]]) -> None:
        self._plans = plans

    def collect(self) -> Iterable[Metric]:
        replicas = GaugeMetricFamily(
            "modelfleet_operator_replicas",
            "Workers that exist and are not stopping",
            labels=["model"],
        )
        ready = GaugeMetricFamily(
            "modelfleet_operator_ready_replicas",
            "Workers that every connected gateway can route to",
            labels=["model"],
        )
        target = GaugeMetricFamily(
            "modelfleet_operator_target_replicas", "Workers wanted", labels=["model"]
        )
        spot = GaugeMetricFamily(
            "modelfleet_operator_spot_replicas",
            "Workers that exist, are not stopping and are on spot",
            labels=["model"],
        )
        interruptions = GaugeMetricFamily(
            "modelfleet_operator_interruptions",
            "Workers that exist and were told to go, by the kind of notice",
            labels=["model", "kind"],
        )
        cold_starts = GaugeMetricFamily(
            "modelfleet_operator_cold_start_seconds",
            "What a worker's start takes: median of the last 5, by phase and as a whole (total)",
            labels=["model", "accelerator", "phase"],
        )
        deployments = GaugeMetricFamily(
            "modelfleet_operator_deployments",
            "ModelDeployments by the status and reason of each condition",
            labels=["condition", "status", "reason"],
        )
        counts: Counts[tuple[str, str, str]] = Counts()
        for model, plan in self._plans().items():
            replicas.add_metric([model], plan.status.replicas)
            ready.add_metric([model], plan.status.ready_replicas)
            if plan.memory.target is not None:
                target.add_metric([model], plan.memory.target)
            if plan.status.spot_replicas is not None:
                spot.add_metric([model], plan.status.spot_replicas)
            for kind, count in Counts(i.kind for i in plan.status.interruptions).items():
                interruptions.add_metric([model, kind], count)
            for learned in plan.status.cold_starts:
                for phase, seconds in learned.seconds.items():
                    cold_starts.add_metric([model, learned.accelerator, phase], seconds)
            counts.update((c.type, c.status, c.reason) for c in plan.status.conditions)
        for labels, count in sorted(counts.items()):
            deployments.add_metric(labels, count)
        return [replicas, ready, target, spot, interruptions, cold_starts, deployments]


class _Pools(Collector):
    """Read when asked, as `_Plans`."""

    def __init__(self, statuses: Callable[[], Mapping[str, PoolStatus]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterable[Metric]:
        workers = GaugeMetricFamily(
            "modelfleet_operator_pool_workers",
            "Workers of a warm pool, by state: standby, starting, claimed",
            labels=["pool", "state"],
        )
        claims = CounterMetricFamily(
            "modelfleet_operator_pool_claims",
            "Starts that a warm pool had a standby for (hit) or not (miss)",
            labels=["pool", "outcome"],
        )
        saved = CounterMetricFamily(
            "modelfleet_operator_pool_saved_seconds",
            "Seconds of starts that claims saved",
            labels=["pool"],
        )
        cost = GaugeMetricFamily(
            "modelfleet_operator_pool_hourly_cost",
            "What the standbys of a warm pool cost an hour",
            labels=["pool"],
        )
        for pool, status in self._statuses().items():
            workers.add_metric([pool, "standby"], status.standby)
            workers.add_metric([pool, "starting"], status.starting)
            workers.add_metric([pool, "claimed"], status.claimed)
            claims.add_metric([pool, "hit"], status.hits)
            claims.add_metric([pool, "miss"], status.misses)
            saved.add_metric([pool], status.seconds_saved)
            if status.hourly_cost is not None:
                cost.add_metric([pool], float(status.hourly_cost))
        return [workers, claims, saved, cost]

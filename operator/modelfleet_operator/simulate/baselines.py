"""The autoscalers that others run, by their documented formulas and defaults, to compare with.

Each decides the count as it would in a cluster, at its own interval, and all else is ours: they
write `spec.scaling.replicas` (mode External), and the same plan starts and drains workers. Scaled
to zero, the gateway holds requests for all of them. Targets are requests in flight of one replica.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import ScenarioError
from .scaler import Scaler, Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The deployment's own."""

    least: int
    most: int
    target: float  # spec.scaling.targetQueueDepth

    def of(self, replicas: float) -> int:
        """Within them."""
        return int(min(max(replicas, self.least), self.most))


@dataclass(slots=True)
class Hpa:
    """Kubernetes' HorizontalPodAutoscaler, autoscaling/v2, with its default behaviour.

    desired = ceil(replicas * metric / target), unless the ratio is within 10 % of 1; every 15 s;
    up at most to the double or by 4, down to the highest of the last 300 s.
    https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details
    """

    bounds: Bounds
    target: float
    metric: str  # "utilization": share of time that engines compute; "inflight": running requests
    interval: float = 15.0
    tolerance: float = 0.1
    stabilization: float = 300.0
    first: int = 0
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    _busy: float = 0.0
    _pods: int = 0

    def __post_init__(self) -> None:
        """It does not scale to zero."""
        self.first = max(self.bounds.least, 1)

    def decide(self, seen: Seen) -> tuple[int, str]:
        """Pods that are not ready have no metric: on the way up they count as 0."""
        pods = seen.ready
        if self.metric == "utilization":
            busy = max(seen.busy_seconds - self._busy, 0.0) if pods == self._pods else math.nan
            self._busy, self._pods = seen.busy_seconds, pods
            # Where pods came or went since: requests run or they do not.
            total = busy / self.interval if busy == busy else float(min(seen.running, pods))
        else:
            total = float(seen.running)
        if not pods:
            return _stabilized(self, seen, max(seen.replicas, 1), "no metric")
        desired, part = seen.replicas, "within the tolerance"
        ratio = total / pods / self.target
        if ratio > 1 and seen.starting:
            ratio = max(total / (pods + seen.starting) / self.target, 1.0)
            pods += seen.starting
        if abs(ratio - 1) > self.tolerance:
            desired = math.ceil(ratio * pods)
            part = "the metric above its target" if ratio > 1 else "the metric below its target"
        return _stabilized(self, seen, desired, part)


@dataclass(slots=True)
class Keda:
    """KEDA's ScaledObject: an HPA on the sum of a metric, and its own way to and from zero.

    It polls every 30 s: above 0 it is active and has 1 replica at least; 300 s after it was last
    active it has none. In between desired = ceil(metric / threshold), as an HPA does for
    AverageValue. https://keda.sh/docs/latest/concepts/scaling-deployments/
    """

    bounds: Bounds
    threshold: float
    metric: str  # "waiting", or "inflight": waiting and running
    interval: float = 15.0
    polling_interval: float = 30.0
    cooldown: float = 300.0
    tolerance: float = 0.1
    stabilization: float = 300.0
    first: int = 0
    recent: deque[tuple[float, int]] = field(default_factory=deque)
    _polled: float = -math.inf
    _active: float = -math.inf

    def __post_init__(self) -> None:
        """MinReplicaCount."""
        self.first = self.bounds.least

    def decide(self, seen: Seen) -> tuple[int, str]:
        """From zero only when it polls."""
        value = seen.waiting if self.metric == "waiting" else seen.in_flight
        if seen.now - self._polled >= self.polling_interval:
            self._polled = seen.now
            if value > 0:
                self._active = seen.now
            if seen.replicas == 0:
                return (self.bounds.of(1), "activation") if value > 0 else (0, "inactive")
            if seen.now - self._active >= self.cooldown:
                return self.bounds.least, "cooldown"
        if seen.replicas == 0:
            return 0, "inactive"
        desired, part = seen.replicas, "within the tolerance"
        if abs(value / (self.threshold * seen.replicas) - 1) > self.tolerance:
            desired = math.ceil(value / self.threshold)
            part = "the metric"
        return _stabilized(self, seen, desired, part)


def _stabilized(hpa: Hpa | Keda, seen: Seen, desired: int, part: str) -> tuple[int, str]:
    """As an HPA: the highest of its window, and at most twice the replicas or 4 more."""
    hpa.recent.append((seen.now, desired))
    while hpa.recent[0][0] <= seen.now - hpa.stabilization:
        hpa.recent.popleft()
    if desired < seen.replicas:
        held = min(max(n for _, n in hpa.recent), seen.replicas)
        if held > desired:
            desired, part = held, "the stabilization window"
    limit = max(seen.replicas * 2, seen.replicas + 4)
    return max(hpa.bounds.of(min(desired, limit)), 1), part


@dataclass(slots=True)
class Kpa:
    """Knative's Pod Autoscaler: the mean concurrency of 60 s, in a panic that of 6 s.

    desired = ceil(mean / target), at most 10 times the ready ones, at least half of them; panic
    when 6 s ask for twice the ready ones, and until 60 s after that: no fewer meanwhile. To zero
    after 60 s and a grace period of 30 s. The default target is 70 % of what a pod takes at once.
    https://knative.dev/docs/serving/autoscaling/kpa-specific/ and pkg/autoscaler/scaling of
    knative/serving.
    """

    bounds: Bounds
    target: float
    scale_down_delay: float = 0.0
    stable_window: float = 60.0
    panic_window: float = 6.0
    panic_threshold: float = 2.0
    max_up: float = 10.0
    max_down: float = 2.0
    grace: float = 30.0
    interval: float = 1.0  # it samples every second and decides every other one
    first: int = 0
    _samples: deque[int] = field(default_factory=deque)
    _panic: float = math.nan  # since when; NaN: it does not panic
    _most: int = 0
    _delayed: deque[tuple[float, int]] = field(default_factory=deque)
    _zero_since: float = math.nan
    _odd: bool = False
    _part: str = "stable"  # that decided last

    def __post_init__(self) -> None:
        """InitialScale."""
        self.first = max(self.bounds.least, 1)

    def decide(self, seen: Seen) -> tuple[int, str]:
        """As `Scale` in its autoscaler.go."""
        self._samples.append(seen.in_flight)
        while len(self._samples) > self.stable_window:
            self._samples.popleft()
        if seen.replicas == 0 and seen.in_flight:  # the activator pokes it
            self._most, self._panic = 1, seen.now
            return self.bounds.of(1), "activator"
        self._odd = not self._odd
        if self._odd:
            return seen.replicas, self._part
        ready = max(seen.ready, 1)
        recent = list(self._samples)[-int(self.panic_window) :]
        stable = math.ceil(sum(self._samples) / len(self._samples) / self.target)
        panic = math.ceil(sum(recent) / len(recent) / self.target)
        up, down = math.ceil(self.max_up * ready), math.floor(ready / self.max_down)
        wanted_stable = min(max(stable, down if stable or seen.ready else 0), up)
        wanted_panic = min(max(panic, down), up)
        if panic / ready >= self.panic_threshold:
            self._panic = seen.now
        elif self._panic == self._panic and self._panic + self.stable_window < seen.now:
            self._panic, self._most = math.nan, 0
        desired, part = wanted_stable, "stable"
        if self._panic == self._panic:
            self._most = max(self._most, wanted_stable, wanted_panic)
            desired, part = self._most, "panic"
        if self.scale_down_delay:
            self._delayed.append((seen.now, desired))
            while self._delayed[0][0] <= seen.now - self.scale_down_delay:
                self._delayed.popleft()
            most = max(n for _, n in self._delayed)
            if most > desired:
                desired, part = most, "scale-down delay"
        replicas, self._part = self._to_zero(seen, desired, part)
        return replicas, self._part

    def _to_zero(self, seen: Seen, desired: int, part: str) -> tuple[int, str]:
        """The last one goes after the window without traffic and the grace period."""
        if desired > 0 or any(self._samples):
            self._zero_since = math.nan
            return self.bounds.of(max(desired, 1)), part
        if self._zero_since != self._zero_since:
            self._zero_since = seen.now
        if seen.now - self._zero_since < self.grace:
            return self.bounds.of(1), "grace period"
        return self.bounds.of(0), "no traffic"


@dataclass(slots=True)
class KubeAi:
    """KubeAI: the mean of requests in flight over 10 minutes, sampled every 10 s.

    desired = ceil(mean / targetRequests), fewer only when asked for 30 s in a row; from zero at
    once. Defaults: targetRequests 100, scaleDownDelaySeconds 30.
    https://www.kubeai.org/concepts/autoscaling/ and internal/modelautoscaler of
    substratusai/kubeai.
    """

    bounds: Bounds
    target: float = 100.0
    window: float = 600.0
    scale_down_delay: float = 30.0
    interval: float = 1.0  # it decides every 10th; its proxy wakes a sleeping model at once
    first: int = 0
    _samples: deque[int] = field(default_factory=deque)
    _since: int = 9
    _downs: int = 0
    _part: str = "moving average"  # that decided last

    def __post_init__(self) -> None:
        """minReplicas; its history begins with zeros."""
        self.first = self.bounds.least
        self._samples.extend([0] * int(self.window / 10))

    def decide(self, seen: Seen) -> tuple[int, str]:
        """As `Start` in its autoscaler.go."""
        self._since += 1
        if seen.replicas == 0:
            if seen.in_flight:
                return self.bounds.of(1), "from zero"
            return 0, "asleep"
        if self._since < 10:
            return seen.replicas, self._part
        self._since = 0
        self._samples.append(seen.in_flight)
        self._samples.popleft()
        desired = self.bounds.of(math.ceil(sum(self._samples) / len(self._samples) / self.target))
        self._downs = self._downs + 1 if desired < seen.replicas else 0
        if 0 < self._downs < math.ceil(self.scale_down_delay / 10):
            desired, self._part = seen.replicas, "scale-down delay"
        else:
            self._downs, self._part = 0, "moving average"
        return desired, self._part


@dataclass(slots=True)
class Fixed:
    """A fleet that never changes."""

    first: int
    interval: float = 3600.0

    def decide(self, seen: Seen) -> tuple[int, str]:
        """The same."""
        return seen.replicas, "fixed"


Factory = Callable[[Bounds, Mapping[str, float]], Scaler]
BASELINES: Final[dict[str, Factory]] = {
    # 80 % is what an HPA without a metric gets (autoscaling/v2).
    "hpa-utilization": lambda b, o: Hpa(b, o.get("target", 0.8), "utilization"),
    "hpa-inflight": lambda b, o: Hpa(b, o.get("target", b.target), "inflight"),
    # 5 waiting is the threshold of vLLM production-stack's KEDA tutorial.
    "keda-waiting": lambda b, o: Keda(b, o.get("target", 5.0), "waiting"),
    "keda-inflight": lambda b, o: Keda(b, o.get("target", b.target), "inflight"),
    "kpa": lambda b, o: Kpa(
        b, o.get("target", 0.7 * o["slots"]), scale_down_delay=o.get("delay", 0.0)
    ),
    "kubeai": lambda b, o: KubeAi(b, o.get("target", 100.0)),
    "fixed": lambda b, o: Fixed(int(o.get("replicas", b.most))),
}
CLAIRVOYANT: Final = "clairvoyant"
ALL: Final = (*BASELINES, CLAIRVOYANT)


def parse_baseline(text: str) -> tuple[str, dict[str, float]]:
    """`kpa:target=11,delay=300` -> its name and options. ScenarioError says what is known."""
    name, _, rest = text.partition(":")
    options: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            options[key] = float(value)
        except ValueError:
            key = ""
        if key not in ("target", "delay", "replicas"):
            raise ScenarioError(
                f"--baseline {text}: expected NAME:target=NUMBER, found {part!r}; options are "
                "target (requests in flight, or a share), delay (kpa, seconds), replicas (fixed)"
            )
    if name not in ALL:
        raise ScenarioError(f"--baseline {text}: expected one of all, {', '.join(ALL)}")
    return name, options

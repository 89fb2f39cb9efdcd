"""The state of each observed worker (docs/worker-lifecycle.md): every worker is in one group."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from .memory import DIGEST_LENGTH, Memory
from .observed import Observed, Signals, Worker, WorkerState
from .reasons import Reason

UNHEALTHY_TIMEOUT = 30.0  # seconds that a worker which was ready may fail or be unreachable
LOST_NODE_TIMEOUT = 40.0  # seconds of NodeLost before a worker that never ran is placed anew

# Seconds in which the body hears from others who asked a draining worker to end, if they did.
UNASKED_DRAIN_TIMEOUT = 3.0
DRAINED_BY_OTHERS = "it drains, and the operator did not ask it to"

Reasoned = tuple[Worker, str]  # a worker, and why something is done to it


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroups:
    """The workers of one deployment; each is in exactly one of the first nine."""

    current: tuple[Worker, ...]  # serve; of the revision that the spec asks for
    old: tuple[Worker, ...]  # serve; of other revisions
    leaving: tuple[Worker, ...]  # serve yet; have a notice, so others are started in their place
    moved: tuple[Reasoned, ...]  # wait for a node and are replaced on another accelerator class
    failed: tuple[Reasoned, ...]  # run, but are to be replaced, and why
    draining: tuple[Worker, ...]  # get nothing new; what runs on them goes on
    stopping: tuple[Worker, ...]  # were asked to end
    lost: tuple[Worker, ...]  # stopping on a node that is gone: they hold nothing but their names
    exited: tuple[Worker, ...]  # ended without being asked to
    ready: frozenset[str]  # uids of serving ones that every connected gateway can route to
    unhealthy: Mapping[str, float]  # since when one is not what it should be, by uid

    @property
    def serving(self) -> tuple[Worker, ...]:
        """Those that gateways may route to."""
        return (*self.current, *self.old, *self.leaving)

    @property
    def drained_by_others(self) -> list[Worker]:
        """Those of the draining ones that drain unasked, until the body keeps that they do."""
        return [worker for worker in self.draining if worker.draining_since is None]

    @property
    def ready_current(self) -> int:
        """Ready workers of the revision that the spec asks for."""
        return sum(worker.uid in self.ready for worker in self.current)

    def with_leaving(self, worker: Worker) -> WorkerGroups:
        """As they are when this one, which serves, is to be replaced."""
        return replace(
            self,
            current=tuple(w for w in self.current if w.uid != worker.uid),
            old=tuple(w for w in self.old if w.uid != worker.uid),
            leaving=(*self.leaving, worker),
        )

    def after(
        self, drained: Collection[str], rerouted: Collection[Worker], revision: str
    ) -> WorkerGroups:
        """As they will be when these uids serve no more, and these draining workers do again.

        3 current, 1 draining; 1 of the current drained, the draining one rerouted -> 3 current.
        """
        if not drained and not rerouted:
            return self
        back = {worker.uid for worker in rerouted}
        return replace(
            self,
            current=(
                *(w for w in self.current if w.uid not in drained),
                *(w for w in rerouted if w.revision == revision),
            ),
            old=(
                *(w for w in self.old if w.uid not in drained),
                *(w for w in rerouted if w.revision != revision),
            ),
            leaving=tuple(w for w in self.leaving if w.uid not in drained),
            draining=tuple(w for w in self.draining if w.uid not in back),
            ready=self.ready.difference(drained),
        )


def group_workers(
    seen: Observed, signals: Signals, now: float, memory: Memory, moved: tuple[Reasoned, ...]
) -> WorkerGroups:
    """Sorts the workers by what was observed of them; `moved`: see placement.place.

    tiny-a-0 ready, tiny-a-1 says FAILED while loading, tiny-a-2 was killed, the spec asks for
    revision a -> current tiny-a-0 (ready), failed tiny-a-1, exited tiny-a-2.

    What others do to a worker makes it useless, too: tiny-a-3 says DRAINING for 3 s and was not
    unrouted -> draining; tiny-a-4 was ready and says STANDBY, or READY with another digest ->
    failed.
    """
    unhealthy = _find_unhealthy(seen, signals, now, memory)
    moves = {worker.uid for worker, _ in moved}
    revision = seen.deployment.revision
    current: list[Worker] = []
    old: list[Worker] = []
    leaving: list[Worker] = []
    failed: list[Reasoned] = []
    draining: list[Worker] = []
    stopping: list[Worker] = []
    lost: list[Worker] = []
    exited: list[Worker] = []
    for worker in seen.workers:
        if worker.failure is not None:
            exited.append(worker)
        elif worker.stopping:
            (lost if worker.is_lost(now) else stopping).append(worker)
        elif worker.draining_since is not None or _drains_unasked(worker, signals, now, unhealthy):
            draining.append(worker)
        elif why := _why_failed(worker, signals, now, memory, unhealthy, seen.deployment.key):
            failed.append((worker, why))
        elif worker.uid in moves:
            continue
        elif worker.notice is not None:
            leaving.append(worker)
        else:
            (current if worker.revision == revision else old).append(worker)
    return WorkerGroups(
        current=tuple(current),
        old=tuple(old),
        leaving=tuple(leaving),
        moved=moved,
        failed=tuple(failed),
        draining=tuple(draining),
        stopping=tuple(stopping),
        lost=tuple(lost),
        exited=tuple(exited),
        ready=frozenset(w.uid for w in (*current, *old, *leaving) if signals.is_ready(w.id)),
        unhealthy=unhealthy,
    )


def _find_unhealthy(
    seen: Observed, signals: Signals, now: float, memory: Memory
) -> dict[str, float]:
    """Workers that were ready and are not now, or do not even try to become it.

    Empty while a gateway's signals are missing.
    """
    if not signals.complete:
        return {}
    return {
        w.uid: min(memory.unhealthy.get(w.uid, now), now)
        for w in seen.workers
        if w.failure is None and not w.stopping and _is_unhealthy(w, signals, memory)
    }


def _is_unhealthy(worker: Worker, signals: Signals, memory: Memory) -> bool:
    if worker.draining_since is None and _says(WorkerState.DRAINING, worker, signals):
        return True
    if worker.uid not in memory.was_ready:
        # A deployment's worker begins to load by itself: its load was cancelled.
        return _says(WorkerState.STANDBY, worker, signals)
    return _is_unreachable(worker, signals) or _says(WorkerState.FAILED, worker, signals)


def _is_unreachable(worker: Worker, signals: Signals) -> bool:
    """Gateways do not route to a draining worker, so for it their connection is enough."""
    if worker.draining_since is not None:
        return not signals.hears(worker.id)
    return signals.reach(worker.id) == "none"


def _says(state: WorkerState, worker: Worker, signals: Signals) -> bool:
    stats = signals.stats.get(worker.id)
    return stats is not None and stats.state is state


def _drains_unasked(
    worker: Worker, signals: Signals, now: float, unhealthy: Mapping[str, float]
) -> bool:
    return (
        _says(WorkerState.DRAINING, worker, signals)
        and worker.uid in unhealthy
        and now - unhealthy[worker.uid] >= UNASKED_DRAIN_TIMEOUT
    )


def why_altered(worker: Worker, signals: Signals, memory: Memory, key: str) -> str:
    """How it became another worker than was started, not by us; empty: it did not.

    `key`: `namespace/name` of the deployment.
    """
    stats = signals.stats.get(worker.id)
    if stats is None or not signals.hears(worker.id):  # its last Stats are old then
        return ""
    if stats.model not in ("", key):
        return f"it holds another model, {stats.model}"
    if worker.uid not in memory.was_ready:
        return ""
    if stats.state in (WorkerState.STANDBY, WorkerState.LOADING):
        return "its model was unloaded, and the operator did not ask it to"
    digest = memory.digests.get(worker.uid, "")
    if stats.state is WorkerState.READY and digest and not stats.digest.startswith(digest):
        return f"its model changed: digest {stats.digest[:DIGEST_LENGTH]}, it was {digest}"
    return ""


def _why_failed(
    worker: Worker,
    signals: Signals,
    now: float,
    memory: Memory,
    unhealthy: Mapping[str, float],
    key: str,
) -> str:
    """The reason to replace a worker whose process still runs; empty: there is none."""
    if altered := why_altered(worker, signals, memory, key):
        return altered
    message = ""
    if _says(WorkerState.FAILED, worker, signals):
        message = signals.stats[worker.id].message
        if worker.uid not in memory.was_ready:
            return message or "loading failed"
    if _never_reached_its_node(worker, now):
        return "the node that it was placed on does not answer"
    if worker.uid in unhealthy and now - unhealthy[worker.uid] >= UNHEALTHY_TIMEOUT:
        if _says(WorkerState.STANDBY, worker, signals):
            return f"it has held no model for {UNHEALTHY_TIMEOUT:g} s"
        return message or f"no gateway has reached it for {UNHEALTHY_TIMEOUT:g} s"
    return ""


def _never_reached_its_node(worker: Worker, now: float) -> bool:
    """A scheduler that did not know yet that the node is gone placed it there: nothing runs."""
    problem = worker.problem
    return (
        problem is not None
        and problem.reason is Reason.NODE_LOST
        and not worker.address
        and now - problem.since >= LOST_NODE_TIMEOUT
    )

"""A rollout's counts turned into workers: which ones drain, serve again, or are started."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from .notices import choose_leaves, most_replacements, replacements_at
from .observed import Worker
from .placement import count_mix
from .plan_context import PlanContext, WorkerChanges
from .rollout import RevisionCounts, RolloutDecision, decide_rollout
from .spot import drop_within, may_reroute, next_capacities
from .worker_groups import Reasoned


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescue:
    """One serving worker for each old revision that streams wait for."""

    keep: frozenset[str] = frozenset()  # uids of serving ones that must stay
    reroute: tuple[Reasoned, ...] = ()
    start: tuple[tuple[str, str], ...] = ()  # revision and reason
    replaces_new: int = 0  # starts of the current revision that give their place to `start`
    make_room: tuple[Reasoned, ...] = ()  # a loading worker that goes, so that one can start
    revisions: tuple[str, ...] = ()  # all that streams wait for, whatever is done about it


def decide_worker_changes(context: PlanContext) -> WorkerChanges:
    """Brings the serving workers to what the rollout allows now.

    3 wanted, 1 new one ready, 3 old ones serve, maxSurge 1 -> 1 of the old ones drains, and none
    is started before it is gone.
    """
    groups = context.groups
    never_served = {w.uid for w in groups.old if not context.has_served(w)}
    previous = context.previous_revision
    strays = [w for w in groups.old if w.uid in never_served and w.revision != previous]
    old = [w for w in groups.old if w.uid not in never_served or w.revision == previous]
    counts = count_revisions(context, old, never_served)
    rollout = decide_rollout(context.rollout_policy, counts)

    new_again, old_again = choose_reroutes(context, rollout, len(old))
    planned_new = max(rollout.new - len(groups.current) - len(new_again), 0)
    planned_new = min(planned_new, most_replacements(context))
    planned_old = max(rollout.old - len(old) - len(old_again), 0)
    served = {w.revision for w, _ in (*new_again, *old_again)}
    if planned_old:
        served.add(previous)
    rescue = rescue_streams(context, served, planned_new)
    start_new, start_old = count_starts(context, planned_new, planned_old, rescue)
    drain = (
        *rescue.make_room,
        *choose_drains(context, rollout, old, strays, rescue),
        *choose_leaves(context),
    )
    reroute = (*new_again, *old_again, *rescue.reroute)
    unpaid = 0
    if context.most_starts is not None:
        starts = start_new + len(start_old)
        most = max(_count_paid(context, drain, reroute, starts), context.missing_minimum)
        unpaid = max(starts - most, 0)
        start_old = start_old[:most]
        start_new = min(start_new, most - len(start_old))
    refusal = context.seen.deployment.refusal
    not_before = max(context.now, refusal.retry_at) if refusal else context.now
    return WorkerChanges(
        rollout=rollout,
        drain=drain,
        reroute=reroute,
        rescued=rescue.revisions,
        start_new=start_new,
        start_new_at=max(not_before, context.memory.failures.retry_at, replacements_at(context)),
        start_old=start_old,
        start_old_at=max(not_before, context.memory.old_failures.retry_at),
        unpaid=unpaid,
    )


def _count_paid(
    context: PlanContext, drain: tuple[Reasoned, ...], reroute: tuple[Reasoned, ...], starts: int
) -> int:
    """Of the next workers, each at its own price, those that the budget has room for."""
    drained = {worker.uid for worker, _ in drain}
    groups = context.groups.after(drained, [worker for worker, _ in reroute], context.revision)
    wanted = context.target.replicas
    upcoming = next_capacities(context.seen, groups, context.placement, wanted)
    return context.budget.count_paid(itertools.islice(upcoming, starts))


def count_revisions(
    context: PlanContext, old: list[Worker], never_served: set[str]
) -> RevisionCounts:
    """What a rollout goes by: `old` serve, and came from a revision that was ready once.

    Revision b is asked for, a was ready last; a-0 and a-1 serve, a-2 drains, b-0 loads -> 1 new,
    0 of them ready, 2 old, both ready, 4 existing, 1 old that does not serve.
    """
    groups, target, existing = context.groups, context.target, context.existing
    revision, previous = context.revision, context.previous_revision
    serving_old = {worker.uid for worker in old}
    return RevisionCounts(
        target=target.replicas,
        demand=target.demand,
        new=len(groups.current) + len(context.reroutable(revision)),
        new_ready=groups.ready_current,
        old=len(old),
        old_ready=sum(w.uid in groups.ready for w in old),
        old_never_served=sum(w.uid in never_served for w in old),
        previous_draining=len(context.reroutable(previous)) if previous else 0,
        existing=len(existing),
        old_not_serving=sum(w.revision != revision and w.uid not in serving_old for w in existing),
        proven=context.is_proven,
        can_start_previous=bool(previous) and previous in context.history,
        given_up=context.memory.given_up == revision,
        blocked=bool(context.seen.deployment.error),
    )


def choose_reroutes(
    context: PlanContext, rollout: RolloutDecision, old: int
) -> tuple[list[Reasoned], list[Reasoned]]:
    """Draining workers that serve again before another is started, of the new and previous one.

    3 new ones are to serve, 2 do, tiny-b-4 drains and is ready -> tiny-b-4 serves again.
    """
    new = max(rollout.new - len(context.groups.current), 0)
    previous = max(rollout.old - old, 0)
    mix, wanted = count_mix(context.groups.serving), context.target.replicas

    def able(revision: str) -> list[Worker]:
        found = context.reroutable(revision)
        return [w for w in found if may_reroute(context.seen, mix, w, wanted)]

    why = f"revision {context.revision} is not ready: {context.target.reason}"
    return (
        [(w, "it is needed again") for w in able(context.revision)[:new]] if new else [],
        [(w, why) for w in able(context.previous_revision)[:previous]] if previous else [],
    )


def rescue_streams(context: PlanContext, served: set[str], planned_new: int) -> Rescue:
    """Keeps, reroutes or starts one worker for each old revision that streams wait for.

    `served` get a worker already. A stream waits for revision a, of which none serves or drains,
    and 1 worker of b is planned -> one of a is started in that one's place.
    """
    waiting = sorted(context.signals.awaited_revisions - {context.revision} - served)
    if not waiting or context.target.replicas == 0:
        return Rescue()
    keep, reroute, wanted = [], [], []
    for revision in waiting:
        why = f"a stream that revision {revision} began waits for a worker like it"
        if able := [w for w in context.groups.old if w.revision == revision]:
            keep.append(max(able, key=lambda w: _usefulness(context, w)).uid)
        elif again := context.reroutable(revision):
            reroute.append((again[0], why))
        elif revision in context.history:
            wanted.append((revision, why))
    replacing, beyond = wanted[:planned_new], wanted[planned_new:]
    may_start, make_room = _make_room(context, beyond)
    return Rescue(
        keep=frozenset(keep),
        reroute=tuple(reroute),
        start=tuple(wanted if may_start else replacing),
        replaces_new=len(replacing),
        make_room=make_room,
        revisions=tuple(waiting),
    )


def _make_room(
    context: PlanContext, beyond: list[tuple[str, str]]
) -> tuple[bool, tuple[Reasoned, ...]]:
    """Whether those may start that take no planned worker's place; else which ones make room.

    A stream that began comes before a worker that does not serve yet, and before the surge.
    """
    if not beyond:
        return True, ()
    target = context.target.replicas
    if len(context.existing) < target + context.rollout_policy.surge(target):
        return True, ()
    loading = [w for w in context.groups.current if not context.has_served(w)]
    if context.groups.stopping:
        return False, ()
    if not loading:
        return True, ()
    goes = min(loading, key=lambda w: _usefulness(context, w))
    return False, ((goes, beyond[0][1]),)


def count_starts(
    context: PlanContext, planned_new: int, planned_old: int, rescue: Rescue
) -> tuple[int, tuple[tuple[str, str], ...]]:
    """How many workers to start: of the current revision, and each old one with its reason.

    2 new planned, 1 gives its place to a rescue -> 1 new, 1 old. With an error in the spec -> 0
    new, 1 old. No asked accelerator class exists -> 0 and 0.
    """
    if not context.placement.is_possible:
        return 0, ()
    new = 0 if context.seen.deployment.error else planned_new - rescue.replaces_new
    why = f"revision {context.revision} is not ready: {context.target.reason}"
    return new, (*[(context.previous_revision, why)] * planned_old, *rescue.start)


def choose_drains(
    context: PlanContext,
    rollout: RolloutDecision,
    old: list[Worker],
    strays: list[Worker],
    rescue: Rescue,
) -> list[Reasoned]:
    """Which serving workers serve no more.

    The least useful beyond the rollout's counts, and `strays`: old ones that never served and are
    not of the previous revision. 3 current ones with 5, 1 and 9 requests, 2 new wanted -> the one
    with 1 request.
    """
    makes_room = {w.uid for w, _ in rescue.make_room}
    current = [w for w in context.groups.current if w.uid not in makes_room]
    return [
        *_least_useful(
            context, current, _fewer(context, len(current), rollout.new), _why_fewer(context)
        ),
        *((w, "its revision was never ready") for w in strays if w.uid not in rescue.keep),
        *_least_useful(
            context,
            (w for w in old if w.uid not in rescue.keep),
            len(old) - rollout.old,
            f"revision {context.revision} takes over",
        ),
    ]


def _fewer(context: PlanContext, current: int, new: int) -> int:
    """How many current ones go: one a plan where only the load fell, since it may rise again."""
    beyond = current - new
    is_scaling = context.is_proven and not context.groups.old and context.target.replicas
    if not is_scaling:
        return beyond
    return min(beyond, max(current - context.seen.deployment.scaling.max_replicas, 1))


def _why_fewer(context: PlanContext) -> str:
    if context.memory.given_up == context.revision:
        return f"it never was ready, and revision {context.previous_revision} needs its place"
    return context.target.reason


def _least_useful(
    context: PlanContext, workers: Iterable[Worker], count: int, why: str
) -> list[Reasoned]:
    """Those that never served first, then those that are not ready, the idlest, the youngest."""
    if count <= 0:
        return []
    ranked = sorted(workers, key=lambda worker: _usefulness(context, worker))
    groups = context.groups
    mix = count_mix((*groups.current, *groups.old))
    policy = context.seen.deployment.spot
    chosen = drop_within(policy, mix, ranked, count, context.target.replicas)
    return [(worker, why) for worker in chosen]


def _usefulness(context: PlanContext, worker: Worker) -> tuple[bool, bool, bool, int, float, int]:
    return (
        context.has_served(worker),
        worker.uid in context.groups.ready,
        worker.revision == context.previous_revision,
        context.running(worker),
        -worker.created,
        -worker.ordinal,
    )

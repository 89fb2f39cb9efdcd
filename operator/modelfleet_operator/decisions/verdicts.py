"""What each step of a plan decided, in a sentence for a person (`modelfleet explain`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .actions import (
    Action,
    AllowDisruptions,
    Claim,
    Create,
    Credit,
    Forget,
    Load,
    Protect,
    Record,
    Remove,
    Reroute,
    Stop,
    Unroute,
)
from .causes import budget_limits
from .claiming import why_not_claimed
from .memory import Failures
from .notices import describe, ends_at, hands_over
from .placement import count_mix
from .placement_status import describe_choice
from .plan_context import PlanContext
from .status import Status
from .target import cold_start


@dataclass(frozen=True, slots=True)
class Verdict:
    """One step's answer."""

    step: str  # one word or two, the same in every plan
    words: str


def make_verdicts(
    context: PlanContext,
    actions: tuple[Action, ...],
    status: Status,
    wake: tuple[float, str] | None,
) -> tuple[Verdict, ...]:
    """One for each step, in the order of `make_plan`; `context` holds what was decided.

    14 requests, target queue depth 8, 1 worker ready -> autoscale: "2 wanted: 14 waiting and 0
    running need 2 replicas"; start: "tiny-a-1: 14 waiting and 0 running need 2 replicas"; ...
    """
    return (
        Verdict("placement", _placement(context)),
        Verdict("workers", _workers(context)),
        Verdict("failures", _failures(context)),
        Verdict("interruptions", _interruptions(context)),
        Verdict("autoscale", _autoscale(context)),
        Verdict("learned", _learned(context)),
        Verdict("budget", _budget(context)),
        Verdict("spot", _spot(context)),
        Verdict("prove", _prove(context)),
        Verdict("give up", _give_up(context)),
        Verdict("rollout", _rollout(context)),
        Verdict("rescue", _rescue(context)),
        Verdict("drain", _drain(actions)),
        Verdict("reroute", _told(a for a in actions if isinstance(a, Reroute))),
        Verdict("stop", _told(a for a in actions if isinstance(a, Stop | Remove))),
        Verdict("claim", _claim(context, actions)),
        Verdict("start", _start(context, actions)),
        Verdict("protect", _protect(actions)),
        Verdict("history", _told(a for a in actions if isinstance(a, Record | Forget))),
        Verdict("status", _status(status)),
        Verdict("wake", _wake(context, wake)),
    )


def _placement(context: PlanContext) -> str:
    placement = context.placement
    if not context.seen.deployment.accelerators:
        return "no accelerator class is asked for"
    if not placement.is_possible:
        if placement.excluded:
            return describe_choice(context)
        return f"none of the classes exists: {', '.join(placement.missing)}"
    words = [f"new workers go to {placement.accelerator}"]
    words += filter(None, [describe_choice(context)])
    words += [f"{name} does not exist" for name in placement.missing]
    words += [f"{name} is short: {placement.shortages[name].why}" for name in placement.short]
    words += [f"{name} was taken back lately" for name in placement.avoided]
    words += [f"{worker.name} moves: {why}" for worker, why in placement.moved]
    return "; ".join(words)


def _interruptions(context: PlanContext) -> str:
    """Workers that were told to go, by whom, and what is done about it."""
    said = []
    for worker in context.seen.workers:
        if worker.notice is None:
            continue
        words = f"{worker.name}: {describe(worker.notice, ends_at(worker, context))}"
        if worker in context.groups.leaving:
            words += ", serves until others do"
        elif hands_over(worker, context):
            words += ", its streams go on elsewhere"
        said.append(words)
    return "; ".join(said) or "none"


def _spot(context: PlanContext) -> str:
    """How many are on spot, and how many may be."""
    policy = context.seen.deployment.spot
    if policy is None:
        return "spec.placement.spot asks for nothing"
    mix, wanted = count_mix(context.groups.serving), context.target.replicas
    words = (
        f"{mix.spot} on spot and {mix.on_demand} on demand, {policy.most_spot(wanted)} of {wanted} "
        f"may be on spot (policy {policy.policy})"
    )
    placement = context.placement
    if policy.policy == "Prefer" and placement.spot_is_short:
        words += "; new ones go on demand, since spot is short"
    if placement.avoid_zones:
        words += f"; rather not in {', '.join(placement.avoid_zones)}"
    return f"{words}; one is replaced: {context.returning}" if context.returning else words


def _workers(context: PlanContext) -> str:
    """Of each state how many, and why those in no normal state are there."""
    seen, groups = context.seen, context.groups
    if not seen.workers:
        return "none exist"
    words = [f"{len(seen.workers)} exist, {len(groups.ready)} ready"]
    for name, group in (
        ("leaving", groups.leaving),
        ("draining", groups.draining),
        ("stopping", groups.stopping),
        ("lost", groups.lost),
    ):
        if group:
            words.append(f"{len(group)} {name}")
    words += [f"{w.name} failed: {why}" for w, why in groups.failed]
    words += [f"{w.name} exited: {w.failure}" for w in groups.exited]
    if groups.unhealthy:
        words += [
            f"{w.name} is unhealthy for {context.now - groups.unhealthy[w.uid]:.0f} s"
            for w in seen.workers
            if w.uid in groups.unhealthy
        ]
    words += [f"{w.name} has a problem: {w.problem.message}" for w in groups.serving if w.problem]
    return "; ".join(words)


def _failures(context: PlanContext) -> str:
    """Of the current revision, then of the others together."""
    memory, changes = context.memory, context.changes
    if not memory.failures.count and not memory.old_failures.count:
        return "none counted"
    current = _row(context, memory.failures, changes.start_new_at, "the current revision")
    old = _row(context, memory.old_failures, changes.start_old_at, "old revisions")
    return "; ".join(filter(None, (current, old)))


def _row(context: PlanContext, failures: Failures, start_at: float, whose: str) -> str:
    if not failures.count:
        return ""
    waits = start_at - context.now
    then = f"the next start in {waits:.0f} s" if waits > 0 else "the next start may be now"
    return f"{failures.count} in a row of {whose} ({failures.error}), {then}"


def _autoscale(context: PlanContext) -> str:
    return f"{context.target.demand} wanted: {context.target.demand_reason}"


def _learned(context: PlanContext) -> str:
    """What the autoscaler goes by, where no targetQueueDepth says it."""
    scaling, learned = context.seen.deployment.scaling, context.memory.scaling
    start = cold_start(context.memory)
    took = f"a start took {start:.1f} s" if start else "no start was measured yet"
    limits, demand = learned.limits, learned.demand
    if limits is None:
        return f"not yet what a worker can take; {took}"
    words = (
        f"a worker takes {limits.in_flight:g} requests in flight and {limits.rate:.3g} a second; "
        f"{demand.base:.3g} a second come, {demand.deviation:.2g} more or less; {took}"
    )
    if learned.latency.strain > 1:
        words += f"; a {1 - 1 / learned.latency.strain:.0%} lower load of each, by missed latency"
    if scaling.mode == "External" or scaling.target_queue_depth is not None:
        words += "; it decides nothing, since the spec says the count or the queue depth"
    return words


def _budget(context: PlanContext) -> str:
    return budget_limits(context)[2]


def _prove(context: PlanContext) -> str:
    if context.is_proven:
        return f"revision {context.revision} was ready"
    previous = context.previous_revision
    words = f"revision {context.revision} was never ready"
    if context.target.only_proves:
        words += f": {context.target.reason}"
    return f"{words}; the previous one is {previous}" if previous else words


def _give_up(context: PlanContext) -> str:
    given_up = context.memory.given_up
    if not given_up:
        return "no revision is given up"
    return f"revision {given_up} failed and takes no previous worker's place until the next change"


def _rollout(context: PlanContext) -> str:
    rollout = context.changes.rollout
    words = f"{rollout.new} current and {rollout.old} old of {context.target.replicas} should serve"
    return f"{words}; {rollout.waits}" if rollout.waits else words


def _rescue(context: PlanContext) -> str:
    """Streams that wait for a worker of the revision that began them."""
    awaited = context.signals.awaited_revisions
    if not awaited:
        return "no stream waits for another revision"
    return f"streams wait for {', '.join(sorted(awaited))}"


def _drain(actions: tuple[Action, ...]) -> str:
    return _told(action for action in actions if isinstance(action, Unroute))


def _claim(context: PlanContext, actions: tuple[Action, ...]) -> str:
    """What becomes of workers that stand by in pools, and why a start is no claim."""
    words = [
        f"{a.create.name} is {a.candidates[0].name} of pool {a.candidates[0].pool}: {a.reason}"
        for a in actions
        if isinstance(a, Claim)
    ]
    words += [f"{a.worker.name}: {a.reason}" for a in actions if isinstance(a, Load | Credit)]
    created = (a for a in actions if isinstance(a, Create))
    words += dict.fromkeys(filter(None, (why_not_claimed(context, a) for a in created)))
    if not words and not context.seen.pools:
        return "no warm pool is there for it"
    return "; ".join(words) or "nothing to claim"


def _protect(actions: tuple[Action, ...]) -> str:
    """What node controllers are told anew."""
    told = [
        f"{a.worker.name} {'is' if a.is_protected else 'is not'} protected: {a.reason}"
        for a in actions
        if isinstance(a, Protect)
    ]
    told += [
        f"evictions leave {a.min_available}: {a.reason}"
        for a in actions
        if isinstance(a, AllowDisruptions)
    ]
    return "; ".join(told) or "nothing new"


def _start(context: PlanContext, actions: tuple[Action, ...]) -> str:
    """What starts now, and what is missing but may not start yet."""
    started = [action for action in actions if isinstance(action, Create)]
    words = [f"{a.name}: {a.reason}" for a in started]
    deployment = context.seen.deployment
    if deployment.error:
        words.append(f"none of the current revision: {deployment.error}")
    claims = sum(isinstance(action, Claim) for action in actions)
    waiting = context.changes.missing - len(started) - claims
    if waiting > 0:
        refusal = deployment.refusal
        why = refusal.message if refusal is not None else "back-off after failures"
        words.append(f"{waiting} more in {context.changes.start_at - context.now:.0f} s: {why}")
    return "; ".join(words) or "none"


def _status(status: Status) -> str:
    """The conditions that are not as they are when all is well, and Ready."""
    ready = status.conditions[0]
    words = [f"{ready.type} {ready.status}, {ready.reason}: {ready.message}"]
    words += [
        f"{c.type}, {c.reason}: {c.message}" for c in status.conditions[1:] if c.status == "True"
    ]
    return "; ".join(words)


def _wake(context: PlanContext, wake: tuple[float, str] | None) -> str:
    if wake is None:
        return "nothing but an event changes the plan"
    at, what = wake
    return f"again in {at - context.now:.0f} s: {what}"


def _told(actions: Iterable[Record | Forget | Unroute | Reroute | Stop | Remove]) -> str:
    told = [
        f"{a.revision if isinstance(a, Record | Forget) else a.worker.name}: {a.reason}"
        for a in actions
    ]
    return "; ".join(told) if told else "none"

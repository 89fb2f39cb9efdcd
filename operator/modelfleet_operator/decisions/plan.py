"""The plan: what to do so that the observed fleet becomes the desired one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .actions import Action, Claim, Create, Remove, Reroute, Stop, Unroute
from .budget import find_budget
from .capacity import SPOT
from .causes import find_cause
from .choice import choose_place, learn_placement, note_short
from .claiming import claim_or_create, count_standbys, credit_claims, load_claimed
from .cold_start import waking_since
from .conditions import make_status
from .draining import is_idle, stop_drained
from .history import keep_history
from .memory import Memory
from .memory_update import update_memory
from .names import lowest_free, with_yielded, worker_name
from .notices import nodes_that_go
from .observed import Observed, Signals
from .placement import note_reclaims, place
from .plan_context import PlanContext
from .prices import with_current_prices
from .protection import limit_disruptions, protect_workers
from .relocation import choose_relocation
from .spot import choose_return, new_reclaims, next_capacities
from .status import Status
from .target import decide_given_up, decide_target
from .verdicts import Verdict, make_verdicts
from .view import ModelView, make_view
from .wake import next_wake
from .worker_changes import decide_worker_changes
from .worker_groups import DRAINED_BY_OTHERS, group_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A decision about one deployment. Memory goes back in with the next one."""

    actions: tuple[Action, ...]
    status: Status
    memory: Memory
    view: ModelView
    wake_at: float | None  # when to reconcile though nothing happened, Unix seconds
    verdicts: tuple[Verdict, ...]  # what each step decided, in words
    decided_by: str  # the part of the policy that set the wanted count
    standbys: int = 0  # that the autoscaler counted on


def make_plan(
    seen: Observed, signals: Signals, now: float, memory: Memory, previous: Status | None
) -> Plan:
    """What to do now, and why; `previous` is the status that was last made.

    Raises nothing: whatever is wrong with the deployment becomes a condition. The same arguments
    give the same plan, so a saved state can be replayed.
    """
    deployment = seen.deployment
    if memory.yielded:
        seen = replace(seen, owners=with_yielded(deployment, seen.owners, memory.yielded))
    seen = with_current_prices(seen, now)
    # Of classes in no order, which place is the cheapest.
    choice, chosen = None, memory.placement
    if deployment.cheapest:
        chosen = learn_placement(chosen, seen, signals, now, memory.was_ready)
        choice, chosen = choose_place(chosen, seen, now)
    # Which accelerator class new workers get, and which waiting ones move to another.
    reclaims = note_reclaims(memory.reclaims, new_reclaims(seen, memory), now)
    placement = place(
        seen, now, memory.shortages, reclaims, choice.ranking if choice is not None else None
    )
    # The state of each worker.
    groups = group_workers(seen, signals, now, memory, placement.moved)
    # What the workers taught: which revision was ready, what failed, when a request was there.
    learned = update_memory(memory, seen, signals, now, groups)
    # How many workers are wanted: the autoscaler's count, 1 at least to prove a revision.
    budget = find_budget(seen, placement)
    serving = len(groups.serving)
    standbys = count_standbys(seen, placement)
    target = decide_target(deployment, signals, now, learned, serving, budget.affordable, standbys)
    # Whether a worker is to be replaced on the other of spot and on demand, or where it is cheaper.
    returning = choose_return(seen, groups, placement, target.replicas)
    if choice is not None:
        chosen = note_short(chosen, placement.short, now)
        returning = returning or choose_relocation(
            seen, groups, placement, choice, chosen, target.replicas, now
        )
    if returning is not None:
        groups = groups.with_leaving(returning[0])
    # Whether the revision failed where only a previous worker's place is left to try it.
    given_up = decide_given_up(deployment, now, learned, groups, target)
    context = PlanContext(
        seen=seen,
        signals=signals,
        now=now,
        memory=replace(
            learned,
            shortages=placement.shortages,
            reclaims=reclaims,
            placement=chosen,
            target=target.replicas,
            only_proves=target.only_proves,
            peaks=target.peaks,
            scaling=target.scaling,
            given_up=given_up,
            waking_since=waking_since(
                learned.waking_since,
                target.replicas,
                now,
                is_ready=bool(groups.ready),
                is_complete=signals.complete,
            ),
        ),
        placement=placement,
        target=target,
        groups=groups,
        budget=budget,
        returning=returning[1] if returning is not None else "",
        choice=choice,
    )
    # Which workers drain, serve again or are started: the rollout's counts, and streams that wait.
    changes = decide_worker_changes(context)
    drained = {worker.uid for worker, _ in changes.drain}
    rerouted = [worker for worker, _ in changes.reroute]
    decided = replace(
        context, changes=changes, groups=groups.after(drained, rerouted, deployment.revision)
    )
    # The same as actions, in an order in which nothing is lost if the operator ends between two.
    actions = (*_actions(decided), *credit_claims(decided, memory))
    # What the status says, what gateways are told, and when to decide again without an event.
    cause = find_cause(decided)
    status = make_status(decided, cause, previous)
    wake = next_wake(decided)
    return Plan(
        actions=actions,
        status=status,
        memory=decided.memory,
        view=make_view(decided, status, cause),
        wake_at=wake[0] if wake else None,
        verdicts=make_verdicts(decided, actions, status, wake),
        decided_by=target.decided_by,
        standbys=target.standbys,
    )


def _actions(context: PlanContext) -> Iterator[Action]:
    """History first, since workers are started of it; what frees a place before what takes one."""
    signals, memory, groups, changes = (
        context.signals,
        context.memory,
        context.groups,
        context.changes,
    )
    records, forgets = keep_history(context)
    yield from records
    for worker in groups.exited:
        yield Remove(worker, f"it exited: {worker.failure}")
    for worker, why in groups.failed:
        yield Stop(worker, why, is_idle(worker, signals, memory))
    # Before another class gets a worker for it: only one of the two ever waits.
    for worker, why in groups.moved:
        yield Stop(worker, why)
    for worker, why in changes.drain:
        if is_idle(worker, signals, memory):
            yield Stop(worker, why, is_idle=True)
        else:
            yield Unroute(worker, why)
    for worker in groups.drained_by_others:
        yield (
            Stop(worker, DRAINED_BY_OTHERS, is_idle=True)
            if is_idle(worker, signals, memory)
            else Unroute(worker, DRAINED_BY_OTHERS)
        )
    for worker, why in changes.reroute:
        yield Reroute(worker, why)
    yield from stop_drained(context)
    yield from load_claimed(context)
    yield from create_workers(context)
    yield from forgets
    yield from protect_workers(context)
    yield from limit_disruptions(context)


def create_workers(context: PlanContext) -> Iterator[Claim | Create]:
    """The starts whose time has come, each with the lowest ordinal that no worker has.

    One that a warm pool has a standby for is a claim.

    2 of revision b to start, tiny-b-0 stops -> tiny-b-1 and tiny-b-2: stopping and exited workers
    keep their names until they are gone.
    """
    changes, now = context.changes, context.now
    starts = list(changes.start_old) if changes.start_old_at <= now else []
    if changes.start_new_at <= now:
        starts += [(context.revision, context.target.reason)] * changes.start_new
    if not starts:
        return
    promised: set[str] = set()
    taken = {(worker.revision, worker.ordinal) for worker in context.seen.workers}
    placement = context.placement
    going = nodes_that_go(context)
    capacities = next_capacities(context.seen, context.groups, placement, context.target.replicas)
    for (revision, reason), capacity in zip(starts, capacities, strict=False):
        ordinal = lowest_free({number for name, number in taken if name == revision})
        taken.add((revision, ordinal))
        name = worker_name(context.seen.deployment.name, revision, ordinal)
        create = Create(
            name,
            revision,
            ordinal,
            reason,
            placement.class_for(capacity),
            capacity=capacity,
            avoid_zones=placement.avoid_zones if capacity == SPOT else (),
            avoid_nodes=going,
        )
        yield claim_or_create(context, create, promised)

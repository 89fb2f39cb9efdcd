"""How a change rolls: how many workers of the new and of old revisions should serve now.

Counts only; `worker_changes` chooses the workers. One that drains or stops still holds its
accelerator, so it counts against the surge until it is gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutPolicy:
    """`spec.rollout`; a count, or percent of the workers wanted ("25%")."""

    max_surge: int | str = 1
    max_unavailable: int | str = 0
    history_limit: int = 10  # old revisions that are kept

    def surge(self, target: int) -> int:
        """Workers beyond the target; percent round up, as in apps/v1."""
        return math.ceil(_share(self.max_surge, target))

    def unavailable(self, target: int) -> int:
        """Workers that may be missing; percent round down, but nothing moves if both are 0."""
        count = math.floor(_share(self.max_unavailable, target))
        return count or (0 if self.surge(target) else 1)


def _share(value: int | str, target: int) -> float:
    return value if isinstance(value, int) else target * int(value.removesuffix("%")) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionCounts:
    """Workers of the new revision, which the spec asks for, and of old ones, counted."""

    target: int  # workers wanted; 1 at least while a revision must prove itself
    demand: int  # workers that load and bounds ask for: 0 while a sleeping fleet only proves one
    new: int  # of the new revision: those that serve, and draining ones that can be rerouted
    new_ready: int
    old: int  # of other revisions: those that serve
    old_ready: int
    old_never_served: int = 0  # of `old`, those that never served
    previous_draining: int = 0  # beyond `old`: of the previous revision, those to be rerouted
    existing: int  # all that hold an accelerator, draining and stopping ones too
    old_not_serving: int = 0  # of `existing`, those of other revisions that are not in `old`
    proven: bool  # whether a worker of the new revision was ever ready
    can_start_previous: bool = False  # whether the history has the previous revision
    given_up: bool = False  # the new revision may not take a previous worker's place
    blocked: bool = False  # no worker of the new revision can be started at all


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDecision:
    """How many should serve now; the rest of the target waits, and `waits` says for what."""

    new: int
    old: int
    waits: str = ""  # written for a person; empty: nothing waits


def decide_rollout(policy: RolloutPolicy, counts: RevisionCounts) -> RolloutDecision:
    """Existing workers stay within the surge, ready ones above what may be missing.

    A revision that was never ready gets one worker to prove itself and replaces none, unless there
    is no surge to try it in. Old workers go as ready new ones take their place.

    3 wanted, maxSurge 1, 3 old ones ready: not proven -> 1 new, 3 old; that one ready -> 1 new,
    2 old; the drained old one gone -> 2 new, 2 old; and so on to 3 new, 0 old.
    """
    if counts.target == 0:
        return RolloutDecision(new=0, old=0)
    limit = counts.target + policy.surge(counts.target)
    room = max(limit - counts.existing, 0)
    if counts.proven:
        return _take_over(policy, counts, room)
    if counts.can_start_previous:
        return _prove_beside(policy, counts, room, limit)
    if counts.old + counts.old_not_serving == 0:
        return RolloutDecision(new=counts.target, old=0)
    # The history lacks the old workers' revision: new ones also fill in for those that are missing.
    serving = counts.old - counts.old_never_served
    wanted = max(counts.target - serving, 1)
    new = min(wanted, counts.new + room)
    return RolloutDecision(
        new=new,
        old=_kept(policy, counts, min(serving, limit - 1)),
        waits=_for_room(wanted - new),
    )


def _take_over(policy: RolloutPolicy, counts: RevisionCounts, room: int) -> RolloutDecision:
    """The new revision is proven: as many as there is room for, old ones as they are needed."""
    if counts.old + counts.old_not_serving == 0:
        # No rollout: what drains or stops must not keep its successors waiting.
        return RolloutDecision(new=counts.target, old=0)
    new = min(counts.target, counts.new + room)
    return RolloutDecision(
        new=new, old=_kept(policy, counts, 0), waits=_for_room(counts.target - new)
    )


def _prove_beside(
    policy: RolloutPolicy, counts: RevisionCounts, room: int, limit: int
) -> RolloutDecision:
    """One worker of the new revision; what load asks for is served by the previous one."""
    crowded = counts.demand + 1 > limit
    probe = 0 if counts.blocked or (crowded and counts.given_up) else 1
    old = min(counts.demand, limit - probe)
    more = max(old - counts.old, 0)
    rerouted = min(more, counts.previous_draining)
    started = min(more - rerouted, room)
    new = min(probe, counts.new + room - started)
    return RolloutDecision(
        new=new,
        old=_kept(policy, counts, old) if counts.old > old else counts.old + rerouted + started,
        waits=_for_room(probe - new),
    )


def _kept(policy: RolloutPolicy, counts: RevisionCounts, wanted: int) -> int:
    """Old workers that stay, `wanted` at least: more while they are needed to serve."""
    ready = counts.new_ready + counts.old_ready
    # Old ones that served are ready now, or again in a moment.
    served = counts.new_ready + counts.old - counts.old_never_served
    floor = counts.demand - policy.unavailable(counts.target)
    # Workers beyond the demand go because of scaling, whatever a rollout may take.
    spare = max(ready - floor, served - counts.demand, 0) + counts.old_never_served
    return max(wanted, counts.old - spare, 0)


def _for_room(missing: int) -> str:
    if missing <= 0:
        return ""
    return f"{missing} of the new revision wait for room (spec.rollout.maxSurge)"

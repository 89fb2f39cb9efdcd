"""How a change rolls: how many workers of the new and of old revisions should be routable now.

Counts only; who that is, `changes` decides. A worker that drains or ends still has its
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
    """Who is there, counted."""

    target: int  # workers wanted; 1 at least while a revision must prove itself
    demand: int  # workers that load and bounds ask for: 0 while a sleeping fleet only proves one
    new: int  # of the revision that the spec asks for, routable
    new_ready: int
    old: int  # of other revisions, routable
    old_ready: int
    old_idle: int = 0  # of `old`, those that never served
    old_draining: int = 0  # beyond `old`: those of the revision that served last that can come back
    holding: int  # all that exist, draining and ending ones too
    leaving_old: int = 0  # of `holding`, those of other revisions that drain or end
    proven: bool  # whether a worker of the new revision was ever ready
    restartable: bool = False  # whether workers of the revision that served last can be started
    given_up: bool = False  # the new revision may not take a place that an old worker needs
    blocked: bool = False  # no worker of the new revision can be started at all


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutDecision:
    """What should be routable now; the rest of the target waits, and `waits` says for what."""

    new: int
    old: int
    waits: str = ""  # written for a person; empty: nothing waits


def decide_rollout(policy: RolloutPolicy, there: RevisionCounts) -> RolloutDecision:
    """Existing workers stay within the surge, ready ones above what may be missing.

    A revision that was never ready gets one worker to prove itself and replaces nobody, unless
    there is no surge to try it in. Old workers go as ready new ones take their place.
    """
    if there.target == 0:
        return RolloutDecision(new=0, old=0)
    limit = there.target + policy.surge(there.target)
    room = max(limit - there.holding, 0)
    if there.proven:
        return _take_over(policy, there, room)
    if there.restartable:
        return _prove_beside(policy, there, room, limit)
    if there.old + there.leaving_old == 0:
        return RolloutDecision(new=there.target, old=0)
    # Old workers that nobody can start again: new ones also fill in for those that are missing.
    serving = there.old - there.old_idle
    wanted = max(there.target - serving, 1)
    new = min(wanted, there.new + room)
    return RolloutDecision(
        new=new,
        old=_kept(policy, there, min(serving, limit - 1)),
        waits=_for_room(wanted - new),
    )


def _take_over(policy: RolloutPolicy, there: RevisionCounts, room: int) -> RolloutDecision:
    if there.old + there.leaving_old == 0:
        # No rollout: what drains or ends must not keep its successors waiting.
        return RolloutDecision(new=there.target, old=0)
    new = min(there.target, there.new + room)
    return RolloutDecision(
        new=new, old=_kept(policy, there, 0), waits=_for_room(there.target - new)
    )


def _prove_beside(
    policy: RolloutPolicy, there: RevisionCounts, room: int, limit: int
) -> RolloutDecision:
    """One worker of the new revision; what load asks for is served by the old one."""
    crowded = there.demand + 1 > limit
    probe = 0 if there.blocked or (crowded and there.given_up) else 1
    old = min(there.demand, limit - probe)
    more = max(old - there.old, 0)
    back = min(more, there.old_draining)
    started = min(more - back, room)
    new = min(probe, there.new + room - started)
    return RolloutDecision(
        new=new,
        old=_kept(policy, there, old) if there.old > old else there.old + back + started,
        waits=_for_room(probe - new),
    )


def _kept(policy: RolloutPolicy, there: RevisionCounts, wanted: int) -> int:
    """Old workers that stay, `wanted` at least: more while they are needed to serve."""
    ready = there.new_ready + there.old_ready
    served = there.new_ready + there.old - there.old_idle  # ready now, or again in a moment
    floor = there.demand - policy.unavailable(there.target)
    # Whoever is beyond the demand goes because of scaling, whatever a rollout may take.
    spare = max(ready - floor, served - there.demand, 0) + there.old_idle
    return max(wanted, there.old - spare, 0)


def _for_room(missing: int) -> str:
    if missing <= 0:
        return ""
    return f"{missing} of the new revision wait for room (spec.rollout.maxSurge)"

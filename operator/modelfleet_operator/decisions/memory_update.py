"""What the observed workers and signals add to the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .cold_start import NODES_KEPT, learn_wake, wake_phases
from .load_estimate import PHASES, PhaseStart, learn_phases, note_phase
from .memory import DIGEST_LENGTH, STABLE, Failures, Memory
from .names import names_yielded
from .notices import note_notices
from .observed import Observed, Signals, Worker
from .reasons import Reason
from .worker_groups import DRAINED_BY_OTHERS, WorkerGroups

ERROR_LENGTH = 500  # characters of a failure that are kept


def update_memory(
    memory: Memory, seen: Observed, signals: Signals, now: float, groups: WorkerGroups
) -> Memory:
    """Brings up to date what was ready, what failed, and when a request was last there.

    The first ready worker of a revision makes it the `last_ready_revision`, and idle time counts
    from then. Another revision in the spec begins to count failures at 0.

    Revision b, 2 failures; its worker, created 30 s ago, is ready for the first time -> last ready
    revision b, cold start 30 s, last active now, still 2 failures (they are forgotten later).
    """
    revision, names = seen.deployment.revision, seen.deployment.served_names
    is_same = memory.revision == revision
    ready, was_ready = groups.ready, memory.was_ready
    new = [w for w in groups.current if w.uid in ready and w.uid not in was_ready]
    # Workers of a revision that the spec went back to may have been ready before.
    becomes_ready = memory.last_ready_revision != revision and any(
        w.uid in ready or w.uid in was_ready for w in groups.current
    )
    loading = _note_phases(memory, signals, now, groups)
    ready_at = {w.uid: signals.stats[w.id].ready_at or now for w in new}
    # A claimed worker is no measure of a start: there may be none to claim the next time.
    started = [w for w in new if not w.claimed_from]
    cold_starts = [max(ready_at[w.uid] - w.created, 0.0) for w in started]
    claims = [max(ready_at[w.uid] - w.created, 0.0) for w in new if w.claimed_from]
    learned = [learn_phases(loading[w.uid], ready_at[w.uid]) for w in started]
    wakes = memory.wakes
    for w in started:
        phases = wake_phases(w, loading[w.uid][1:], ready_at[w.uid])
        wakes = learn_wake(wakes, w.accelerator, phases, now)
    failures = memory.failures if is_same else Failures()
    old_failures = memory.old_failures if is_same else Failures()
    return replace(
        memory,
        revision=revision,
        last_active=now if becomes_ready else _last_active(memory, signals, now),
        last_ready_revision=revision if becomes_ready else memory.last_ready_revision,
        cold_start_seconds=max(cold_starts, default=memory.cold_start_seconds),
        claim_seconds=max(claims, default=memory.claim_seconds),
        phase_seconds=learned[-1] if learned else memory.phase_seconds,
        loading={uid: phases for uid, phases in loading.items() if uid not in ready},
        failures=count_failures(failures, memory, groups, revision, now, old=False),
        old_failures=count_failures(old_failures, memory, groups, revision, now, old=True),
        given_up=memory.given_up if is_same else "",
        wakes=wakes,
        weights_on=_weights_on(memory, seen, new, is_same=is_same),
        unhealthy=groups.unhealthy,
        noticed=note_notices(memory.noticed, seen, now),
        was_ready=(was_ready | ready) & {w.uid for w in seen.workers},
        digests=_digests(memory, seen, signals, groups),
        claimed=frozenset(n for n in names if seen.owners.get(n) == seen.deployment.key),
        yielded=names_yielded(seen.deployment, seen.owners, memory.yielded),
    )


def _weights_on(
    memory: Memory, seen: Observed, new: list[Worker], *, is_same: bool
) -> tuple[str, ...]:
    """Nodes where a worker of this revision became ready, if they keep what it fetched."""
    if not seen.deployment.keeps_weights:
        return ()
    known = memory.weights_on if is_same else ()
    nodes = {w.node for w in new if w.node} - set(known)
    return (*known, *sorted(nodes))[-NODES_KEPT:] if nodes else known


def _digests(
    memory: Memory, seen: Observed, signals: Signals, groups: WorkerGroups
) -> Mapping[str, str]:
    """The first digest of each worker that is ready; the same mapping while nothing changes."""
    known = memory.digests
    exist = {w.uid for w in seen.workers}
    new = {
        w.uid: signals.stats[w.id].digest[:DIGEST_LENGTH]
        for w in groups.serving
        if w.uid in groups.ready and w.uid not in known and signals.stats[w.id].digest
    }
    if not new and known.keys() <= exist:
        return known
    return {uid: digest for uid, digest in known.items() if uid in exist} | new


def _note_phases(
    memory: Memory, signals: Signals, now: float, groups: WorkerGroups
) -> dict[str, tuple[PhaseStart, ...]]:
    """Of each serving worker that was never ready: what it did so far, and what it does now."""
    loading: dict[str, tuple[PhaseStart, ...]] = {}
    for worker in groups.serving:
        if worker.uid in memory.was_ready:
            continue
        # A worker that waited for its node did not start yet.
        begun = max(worker.created, worker.placed_at or 0.0)
        stats = signals.stats.get(worker.id)
        if stats is not None and stats.phases:  # its own times: they survive the operator
            loading[worker.uid] = ((PHASES[0], begun), *stats.phases)
            continue
        phases = memory.loading.get(worker.uid, ((PHASES[0], begun),))
        phase = stats.phase if stats is not None and worker.uid not in groups.ready else ""
        loading[worker.uid] = note_phase(phases, phase, now) if phase else phases
    return loading


def _last_active(memory: Memory, signals: Signals, now: float) -> float:
    busy = signals.waiting + signals.running > 0
    latest = now if busy else max(memory.last_active, signals.last_request)
    return min(latest, now)  # clocks of gateways may be ahead


def count_failures(
    before: Failures, memory: Memory, groups: WorkerGroups, revision: str, now: float, *, old: bool
) -> Failures:
    """Of workers of `revision`, or of all other (`old`) ones together.

    2 counted so far, one more worker has exited -> 3 in a row, `last_at` is now. A ready worker and
    60 s without another failure, beyond the back-off -> 0.
    """
    failed = {
        w.uid: (why, reason)
        for w, why, reason in _failed(groups, memory.was_ready)
        if (w.revision != revision) is old
    }
    if not failed and not before.count and not before.counted:
        return before
    new = [failure for uid, failure in failed.items() if uid not in before.counted]
    # A worker that is being stopped stays counted until it is gone.
    not_gone = {w.uid for w in (*groups.draining, *groups.stopping)}
    counted = frozenset(failed) | (before.counted & not_gone)
    if new:
        return Failures(
            count=before.count + len(new),
            last_at=now,
            error=new[-1][0][:ERROR_LENGTH],
            reason=new[-1][1],
            counted=counted,
        )
    is_stable = now - before.retry_at >= STABLE
    is_ready = any(w.uid in groups.ready for w in (groups.old if old else groups.current))
    if before.count and is_ready and is_stable:
        return Failures(counted=counted)
    return before if counted == before.counted else replace(before, counted=counted)


def _failed(groups: WorkerGroups, was_ready: frozenset[str]) -> list[tuple[Worker, str, Reason]]:
    """Each exited and failed worker, with what it said and the reason for conditions.

    One that was told to go did not fail: its successor must not wait for a back-off.
    """
    exited = [(w, w.failure or "", w.failure_reason) for w in groups.exited]
    drained = [(w, DRAINED_BY_OTHERS, Reason.WORKER_FAILED) for w in groups.drained_by_others]
    failed = [(w, why, _reason(w, was_ready)) for w, why in groups.failed]
    return [found for found in exited + drained + failed if found[0].notice is None]


def _reason(worker: Worker, was_ready: frozenset[str]) -> Reason:
    if worker.problem is not None and worker.problem.reason is Reason.NODE_LOST:
        return Reason.NODE_LOST
    return Reason.WORKER_FAILED if worker.uid in was_ready else Reason.LOAD_FAILED

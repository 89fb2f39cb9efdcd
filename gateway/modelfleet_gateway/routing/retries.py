"""What a failed call means to its worker and its request, whatever kind of call it was."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import grpc

from modelfleet_proto.refusals import HANDED_OVER

from .claim import SlotClaim
from .failover import Attempts, Blame, End, Failure, Retry, after_failure
from .slots import Slot


def judge(slot: Slot, failure: Failure, attempts: Attempts, claim: SlotClaim, index: int) -> Retry:
    """How the claim's choice is tried again; its worker is marked accordingly.

    Where it is not, the slot is released, and the error that the client gets is raised.
    """
    worker = slot.worker
    is_lost = _was_lost(slot, failure, asyncio.get_running_loop().time())
    failure = replace(
        failure,
        accepted=slot.accepted,
        draining=worker.draining,
        lost=is_lost,
        losses=claim.charge(index, slot) if is_lost else 0,
    )
    verdict = after_failure(failure, attempts)
    if isinstance(verdict, End):
        slot.release()
        raise verdict.error
    if verdict.blame is Blame.FULL:
        worker.mark_full()
    elif verdict.blame is Blame.SUSPECT:
        worker.mark_suspect()
    if verdict.attempts != attempts:
        worker.count_failure()
    return verdict


def _was_lost(slot: Slot, failure: Failure, now: float) -> bool:
    """Whether the worker was lost with all its calls, rather than this call refused or failed.

    A worker that refuses marks it. A call that is cut in less than a second, before the worker has
    accepted it, found one that was going already. `now`: seconds on the loop's clock.
    """
    if slot.worker.draining or failure.moved or failure.mark == HANDED_OVER:
        return False
    if slot.was_aborted:
        return True
    if failure.code is not grpc.StatusCode.UNAVAILABLE:
        return False
    return slot.accepted or (not failure.mark and slot.seconds(now) > 1)

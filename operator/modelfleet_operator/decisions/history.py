"""Which revisions are kept, so that workers of an old one can be started again."""

from __future__ import annotations

from .actions import Forget, Record
from .plan_context import PlanContext


def keep_history(context: PlanContext) -> tuple[list[Record], list[Forget]]:
    """Records the current revision under the highest number; forgets those beyond the limit.

    One that is in use is never forgotten: workers of it exist, it was ready last, or streams wait
    for it.

    History a=1, b=2 and c is asked for, revisionHistoryLimit 1, b was ready last -> record c=3; a
    alone is unused, so nothing is forgotten. With limit 0 -> forget a.
    """
    seen = context.seen
    deployment = seen.deployment
    if deployment.error or not deployment.revision:
        return [], []
    numbers = {past.revision: past.number for past in seen.history}
    latest = max(numbers.values(), default=0)
    records = []
    if deployment.revision not in numbers:
        records = [Record(deployment.revision, latest + 1, "the spec asks for it")]
    elif numbers[deployment.revision] < latest:
        records = [Record(deployment.revision, latest + 1, "the spec went back to it")]

    used = {worker.revision for worker in seen.workers} | context.signals.awaited_revisions
    used |= {deployment.revision, context.memory.last_ready_revision}
    unused = sorted((number, name) for name, number in numbers.items() if name not in used)
    beyond = unused[: max(len(unused) - deployment.rollout.history_limit, 0)]
    return records, [Forget(name, "beyond spec.rollout.revisionHistoryLimit") for _, name in beyond]

"""Which revisions are kept, so that workers of an old one can be started again."""

from __future__ import annotations

from .actions import Forget, Record
from .memory import Memory
from .observed import Observed, Signals


def keep_history(
    seen: Observed, signals: Signals, memory: Memory
) -> tuple[list[Record], list[Forget]]:
    """Records the current revision under the highest number; forgets those beyond the limit.

    One that is in use is never forgotten: workers of it exist, it is the one that served last, or
    streams wait for it.
    """
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

    used = {worker.revision for worker in seen.workers} | signals.awaited
    used |= {deployment.revision, memory.proven}
    unused = sorted((number, name) for name, number in numbers.items() if name not in used)
    beyond = unused[: max(len(unused) - deployment.rollout.history_limit, 0)]
    return records, [Forget(name, "beyond spec.rollout.revisionHistoryLimit") for _, name in beyond]

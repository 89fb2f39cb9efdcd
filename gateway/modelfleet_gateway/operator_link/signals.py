"""The signals that a gateway sends to the operator."""

from __future__ import annotations

from collections.abc import Collection

from modelfleet_proto import fleet_pb2

from ..routing.dispatch import Dispatcher
from ..routing.queue import ModelQueue
from .limits import limits_said


class Reporter:
    """Builds the signals of one stream: of all models after a whole view, then of changed ones.

    Operators that do not take partial signals get all models each time.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._last_sent: dict[str, object] = {}  # by model
        self._takes_partial = False  # as the operator's view says

    def begin_again(self, *, takes_partial: bool) -> None:
        """A whole view came: an operator keeps nothing that was said of models before it."""
        self._takes_partial = takes_partial
        self._last_sent.clear()

    def say_again(self, models: Collection[str]) -> None:
        """These changed; one may have gone and come back, and nothing is kept of it either."""
        for model in models:
            self._last_sent.pop(model, None)

    def signals(self, now: float) -> fleet_pb2.Signals:
        """What the operator should know now. `now`: seconds on the loop's clock."""
        dispatcher = self._dispatcher
        signals = fleet_pb2.Signals(partial=self._takes_partial and bool(self._last_sent))
        if dispatcher.view is not None:
            signals.term = dispatcher.view.term
            signals.version = dispatcher.view.version
        if (said := limits_said(dispatcher.quotas, now)) is not None:
            signals.limits.CopyFrom(said)
        for model in self._last_sent.keys() - dispatcher.queues.keys():
            del self._last_sent[model]
        for model, queue in dispatcher.queues.items():
            content = _content(queue, now)
            if signals.partial and self._last_sent.get(model) == content:
                continue
            self._last_sent[model] = content
            _add(signals, queue, now)
        return signals


def load_of(queue: ModelQueue) -> int:
    """Running choices, as the operator counts them for replicas.

    Batches use what is idle: together they count as one, which keeps their worker and adds none.
    """
    return queue.running - max(min(queue.idle_work, queue.running) - 1, 0)


def _content(queue: ModelQueue, now: float) -> object:
    """All values in a model's signals, to compare with the last ones: cheaper than messages."""
    meter = queue.meter
    return (
        len(queue.requests),
        len(queue.requests.interactive),
        load_of(queue),
        queue.batch_running,
        meter.last_request,
        queue.requests.oldest_wait(now),
        (meter.requests, meter.refusals, meter.resumed),
        (meter.prompt_tokens, meter.completion_tokens),
        (meter.first_tokens, meter.late_first_tokens, meter.answers, meter.slow_answers),
        queue.awaited_revisions,
        [
            (w.worker_id, w.reachable, w.running, w.stats, w.tls_problem)
            for w in queue.workers.values()
        ],
    )


def _add(signals: fleet_pb2.Signals, queue: ModelQueue, now: float) -> None:
    meter = queue.meter
    signals.models.add(
        model=queue.view.model,
        waiting=len(queue.requests),
        running=load_of(queue),
        last_request=meter.last_request,
        oldest_wait=queue.requests.oldest_wait(now),
        requests=meter.requests,
        refusals=meter.refusals,
        resumed=meter.resumed,
        prompt_tokens=meter.prompt_tokens,
        completion_tokens=meter.completion_tokens,
        awaited_revisions=sorted(queue.awaited_revisions),
        first_tokens=meter.first_tokens,
        late_first_tokens=meter.late_first_tokens,
        answers=meter.answers,
        slow_answers=meter.slow_answers,
        interactive_waiting=len(queue.requests.interactive),
        batch_running=queue.batch_running,
    )
    for worker in queue.workers.values():
        entry = signals.workers.add(
            worker_id=worker.worker_id,
            reachable=worker.reachable,
            running=worker.running,
            tls_problem=worker.tls_problem,
        )
        if worker.stats is not None:
            entry.stats.CopyFrom(worker.stats)

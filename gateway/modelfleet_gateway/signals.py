"""What a gateway tells the operator."""

from __future__ import annotations

from modelfleet_proto import fleet_pb2

from .dispatch import Desk, Dispatcher


def build_signals(dispatcher: Dispatcher, now: float) -> fleet_pb2.Signals:
    """Every model and worker of the view in force. `now`: seconds on the loop's clock."""
    signals = fleet_pb2.Signals()
    if dispatcher.view is not None:
        signals.term = dispatcher.view.term
        signals.version = dispatcher.view.version
    for desk in dispatcher.desks.values():
        signals.models.append(_model(desk, now))
        for worker in desk.workers.values():
            entry = signals.workers.add(
                worker_id=worker.worker_id, reachable=worker.reachable, running=worker.running
            )
            if worker.stats is not None:
                entry.stats.CopyFrom(worker.stats)
    return signals


def _model(desk: Desk, now: float) -> fleet_pb2.ModelSignals:
    meter = desk.meter
    return fleet_pb2.ModelSignals(
        model=desk.route.model,
        waiting=len(desk.line),
        running=desk.running,
        last_request=meter.last_request,
        oldest_wait=desk.line.oldest_wait(now),
        requests=meter.requests,
        refusals=meter.refusals,
        resumed=meter.resumed,
        prompt_tokens=meter.prompt_tokens,
        completion_tokens=meter.completion_tokens,
        awaited_revisions=sorted(desk.awaited_revisions),
    )

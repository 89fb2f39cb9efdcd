"""The status in the shape that YAML and the Kubernetes API have, and back."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_args

from .cold_start import phase_times
from .model_memory import ModelNeeds
from .placement_figures import PlaceFigures, PlacementStatus
from .ranking import show_figure, show_gib
from .status import (
    ColdStartProgress,
    Condition,
    ConditionType,
    Interruption,
    LearnedColdStart,
    Queue,
    ScalingEvent,
    Status,
)
from .throughput import Basis

WRITE_INTERVAL = 10.0  # seconds between writes in which only queue, history or progress differ


def show_time(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds, as Kubernetes writes it."""
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


def show_money(amount: Decimal) -> str:
    """With two decimals, or as many as it needs."""
    whole = amount.quantize(Decimal("0.01"))
    return str(whole if whole == amount else amount.normalize())


def show_seconds(seconds: float) -> str:
    """A duration as Kubernetes writes it: `2.5s`."""
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"


def parse_seconds(text: str) -> float:
    """What `show_seconds` wrote."""
    return float(text.removesuffix("s"))


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 time."""
    return datetime.datetime.fromisoformat(text).timestamp()


def render(status: Status, endpoint: str = "") -> dict[str, Any]:
    """JSON types, camelCase; what is not known is absent. `endpoint`: URL of the gateways."""
    rendered: dict[str, Any] = {
        "observedGeneration": status.observed_generation,
        "conditions": [
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                "message": condition.message,
                "lastTransitionTime": show_time(condition.changed),
                "observedGeneration": condition.generation,
            }
            for condition in status.conditions
        ],
        "replicas": status.replicas,
        "desiredReplicas": status.desired_replicas,
        "readyReplicas": status.ready_replicas,
        "selector": status.selector,
        "revision": status.revision,
        "scalingHistory": [
            {
                "time": show_time(event.time),
                "from": event.before,
                "to": event.after,
                "reason": event.reason,
            }
            for event in status.scaling_history
        ],
    }
    if status.queue is not None:
        rendered["queue"] = {"waiting": status.queue.waiting, "running": status.queue.running}
    if status.cold_start is not None:
        cold = status.cold_start
        rendered["coldStart"] = _render_cold_start(cold)
    if status.cold_starts:
        rendered["coldStarts"] = [
            {
                "accelerator": learned.accelerator,
                "wakes": learned.wakes,
                "seconds": {name: show_seconds(s) for name, s in learned.seconds.items()},
            }
            for learned in status.cold_starts
        ]
    if status.weights_on:
        rendered["weightsOn"] = list(status.weights_on)
    if status.cost_per_hour is not None:
        rendered["cost"] = {"perHour": show_money(status.cost_per_hour)}
        if status.currency:
            rendered["cost"]["currency"] = status.currency
    if status.placement is not None:
        rendered["placement"] = _render_placement(status.placement)
    if status.spot_replicas is not None:
        rendered["spotReplicas"] = status.spot_replicas
    if status.interruptions:
        rendered["interruptions"] = [_render_interruption(i) for i in status.interruptions]
    if endpoint:
        rendered["url"] = f"{endpoint.rstrip('/')}/v1"
    return rendered


def _render_placement(placement: PlacementStatus) -> dict[str, Any]:
    rendered = _render_place(placement.chosen)
    if placement.currency:
        rendered["currency"] = placement.currency
    rendered["modelMemory"] = show_gib(placement.needs.total).replace(" GiB", "Gi")
    rendered["memoryBasis"] = placement.needs.basis
    if placement.runner_up is not None:
        rendered["runnerUp"] = {
            **_render_place(placement.runner_up),
            "why": placement.runner_up.why,
        }
    if placement.excluded:
        rendered["excluded"] = [{"accelerator": n, "why": why} for n, why in placement.excluded]
    return rendered


def _render_place(place: PlaceFigures) -> dict[str, Any]:
    rendered: dict[str, Any] = {"accelerator": place.accelerator}
    if place.capacity:
        rendered["capacity"] = place.capacity
    return rendered | {
        "costPerMillionTokens": show_figure(place.cost).replace(",", ""),
        "tokensPerSecond": show_figure(place.tokens).replace(",", ""),
        "basis": place.basis.value,
    }


def _parse_placement(rendered: Mapping[str, Any]) -> PlacementStatus:
    """What Events compare: the places. The figures are made anew with the next plan."""
    runner_up = rendered.get("runnerUp")
    return PlacementStatus(
        chosen=_parse_place(rendered),
        currency=rendered.get("currency", ""),
        needs=ModelNeeds(basis=rendered.get("memoryBasis", "")),
        runner_up=_parse_place(runner_up) if runner_up else None,
        excluded=tuple((e["accelerator"], e["why"]) for e in rendered.get("excluded", ())),
    )


def _parse_place(rendered: Mapping[str, Any]) -> PlaceFigures:
    return PlaceFigures(
        accelerator=rendered["accelerator"],
        capacity=rendered.get("capacity", ""),
        cost=float(rendered["costPerMillionTokens"]),
        tokens=float(rendered["tokensPerSecond"]),
        basis=Basis(rendered["basis"]),
        why=rendered.get("why", ""),
    )


def _render_interruption(told: Interruption) -> dict[str, Any]:
    rendered = {"worker": told.worker, "kind": told.kind, "source": told.source}
    if told.node:
        rendered["node"] = told.node
    if told.deadline:
        rendered["deadline"] = show_time(told.deadline)
    return rendered


def _render_cold_start(cold: ColdStartProgress) -> dict[str, Any]:
    """The times of the phases that are over; the one that runs has its begin."""
    rendered: dict[str, Any] = {"phase": cold.phase, "percent": cold.percent}
    times = {"eta": cold.eta, "since": cold.since, "deadline": cold.deadline}
    rendered |= {name: show_time(at) for name, at in times.items() if at}
    if cold.phases:
        running = cold.phases[-1]
        rendered["step"] = {"name": running.phase, "since": show_time(running.began)}
        over = phase_times(cold.phases[:-1], running.began)
        rendered["seconds"] = {name: show_seconds(s) for name, s in over.items()}
    return rendered


def parse(rendered: Mapping[str, Any]) -> Status | None:
    """What `render` wrote; None for a status that we never wrote."""
    if not rendered.get("conditions"):
        return None
    queue, cold = rendered.get("queue"), rendered.get("coldStart")
    cost = rendered.get("cost")
    return Status(
        observed_generation=rendered.get("observedGeneration", 0),
        conditions=tuple(
            Condition(
                type=condition["type"],
                status=condition["status"],
                reason=condition["reason"],
                message=condition["message"],
                changed=parse_time(condition["lastTransitionTime"]),
                generation=condition.get("observedGeneration", 0),
            )
            for condition in rendered["conditions"]
            if condition["type"] in get_args(ConditionType)
        ),
        replicas=rendered.get("replicas", 0),
        desired_replicas=rendered.get("desiredReplicas", 0),
        ready_replicas=rendered.get("readyReplicas", 0),
        selector=rendered.get("selector", ""),
        revision=rendered.get("revision", ""),
        queue=Queue(**queue) if queue else None,
        scaling_history=tuple(
            ScalingEvent(
                time=parse_time(event["time"]),
                before=event["from"],
                after=event["to"],
                reason=event["reason"],
            )
            for event in rendered.get("scalingHistory", ())
        ),
        cold_start=ColdStartProgress(
            phase=cold["phase"],
            percent=cold["percent"],
            eta=_parse_optional(cold, "eta"),
            since=_parse_optional(cold, "since"),
            deadline=_parse_optional(cold, "deadline"),
        )
        if cold
        else None,
        cold_starts=tuple(
            LearnedColdStart(
                accelerator=learned["accelerator"],
                wakes=learned["wakes"],
                seconds={name: parse_seconds(s) for name, s in learned["seconds"].items()},
            )
            for learned in rendered.get("coldStarts", ())
        ),
        weights_on=tuple(rendered.get("weightsOn", ())),
        cost_per_hour=Decimal(cost["perHour"]) if cost else None,
        currency=cost.get("currency", "") if cost else "",
        placement=_parse_placement(rendered["placement"]) if "placement" in rendered else None,
        spot_replicas=rendered.get("spotReplicas"),
        interruptions=tuple(
            Interruption(
                worker=told["worker"],
                node=told.get("node", ""),
                kind=told["kind"],
                source=told["source"],
                deadline=_parse_optional(told, "deadline"),
            )
            for told in rendered.get("interruptions", ())
        ),
    )


def _parse_optional(rendered: Mapping[str, Any], name: str) -> float:
    return parse_time(rendered[name]) if name in rendered else 0.0


def is_due(
    written: Mapping[str, Any] | None, written_at: float, rendered: Mapping[str, Any], now: float
) -> bool:
    """Whether to write a rendered status: conditions and counts at once, the rest every 10 s."""
    if written is None:
        return True
    if rendered == written:
        return False
    return _urgent(rendered) != _urgent(written) or not 0 <= now - written_at < WRITE_INTERVAL


def _urgent(rendered: Mapping[str, Any]) -> dict[str, Any]:
    """Condition messages may hold numbers that change all the time; those can wait."""
    rest = {
        name: value
        for name, value in rendered.items()
        if name not in ("queue", "scalingHistory", "coldStart", "conditions", "placement")
    }
    rest["conditions"] = [(c["type"], c["status"], c["reason"]) for c in rendered["conditions"]]
    return rest

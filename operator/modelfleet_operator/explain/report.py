"""A snapshot and what it makes the decisions do, as text for a person."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

import yaml
from pydantic import TypeAdapter

from ..decisions.actions import Action, AllowDisruptions, Claim, Create, Forget, Record
from .snapshot import Snapshot, installed_version

# Fields that hold Unix seconds: shown as a time and an age.
TIMES: Final = frozenset(
    {
        *("created", "draining_since", "gone_by", "placed_at", "since", "found", "retry_at"),
        *("last_active", "last_at", "last_request", "eta", "time", "changed"),
    }
)
# Messages come from workers and their containers: they must not steer the reader's terminal.
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_SNAPSHOT = TypeAdapter(Snapshot)


def report(snapshot: Snapshot) -> str:
    """What was observed, the gateways' signals, the memory; each step's verdict; the actions."""
    plan = snapshot.replay()
    now = snapshot.now
    deployment = snapshot.observed.deployment
    title = f"{deployment.key} at {_time(now)}, seen by Modelfleet {snapshot.modelfleet}"
    if snapshot.modelfleet != installed_version():
        title += f", decided again by {installed_version()}"
    lines = [title]
    seen = _SNAPSHOT.dump_python(snapshot, exclude_defaults=True)
    # Defaults of what the user chose decide as much as what is there.
    seen["observed"]["deployment"] |= {
        "scaling": asdict(deployment.scaling),
        "rollout": asdict(deployment.rollout),
    }
    for name in ("observed", "signals", "memory"):
        lines += ["", name.capitalize(), *_indented(seen[name], now)]
    lines += ["", "Decided"]
    lines += [f"  {n}. {v.step}: {v.words}" for n, v in enumerate(plan.verdicts, 1)]
    lines += ["", "Actions", *(f"  {describe(action)}" for action in plan.actions)]
    if not plan.actions:
        lines.append("  none: the fleet is as it should be, or what is missing is on its way")
    lines += ["", "Conditions"]
    for condition in plan.status.conditions:
        lines.append(
            f"  {condition.type}={condition.status} ({condition.reason})"
            + (f": {condition.message}" if condition.message else "")
        )
    return _CONTROL_CHARACTERS.sub("\N{REPLACEMENT CHARACTER}", "\n".join(lines))


def describe(action: Action) -> str:
    """The action, what it is about, and why: `Create smollm2-7f3a-0: 1 request waits`."""
    match action:
        case Create():
            subject = action.name
        case Claim():
            subject = f"{action.candidates[0].name} as {action.create.name}"
        case Record() | Forget():
            subject = action.revision
        case AllowDisruptions():
            subject = f"down to {action.min_available}"
        case _:
            subject = action.worker.name
    return f"{type(action).__name__} {subject}: {action.reason}"


def _indented(value: Any, now: float) -> Iterator[str]:
    plain = _readable(value, now)
    if not plain:
        yield "  nothing beyond the defaults"
        return
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)
    yield from (f"  {line}" for line in text.splitlines())


def _readable(value: Any, now: float, field: str = "") -> Any:
    """YAML's types; Unix seconds of the fields in `TIMES` as a time and an age."""
    match value:
        case list() | tuple() if field == "peaks":
            # A time of 0 stands for: nothing was wanted lately (autoscale.NOTHING_WANTED).
            return {f"{_time(t)} ({_age(now - t)})": n for t, n in value if t > 0}
        case dict() if field == "loading":
            return {
                uid: [f"{phase} since {_time(t)} ({_age(now - t)})" for phase, t in phases]
                for uid, phases in value.items()
            }
        case dict():
            return {str(k): _readable(v, now, str(k)) for k, v in value.items()}
        case set() | frozenset():
            return sorted(_readable(v, now) for v in value)
        case list() | tuple():
            return [_readable(v, now) for v in value]
        case float() | int() if field in TIMES and value > 0:
            return f"{_time(value)} ({_age(now - value)})"
        case str():  # YAML's writer knows no enumerations, which are texts, too
            return str(value)
        case None | bool() | int() | float():
            return value
        case _:  # enumerations and decimals
            return str(getattr(value, "value", value))


def _time(seconds: float) -> str:
    try:
        time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # no date: what a report must show, not end with
        return f"{seconds:g}"
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _age(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds >= 0 else f"in {-seconds:.0f} s"

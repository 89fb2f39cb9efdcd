"""Variables of worker pods: which are Modelfleet's own, and that none of them gets into a status.

Values may be secrets, and a status is read by more people than a pod's spec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ..decisions.observed import Signals
from ..errors import StartError
from ..reconciler import Gateways
from .pod_tls import VARIABLES as TLS_VARIABLES

ALLOWED_ENDPOINTS = "MODELFLEET_ALLOWED_ENDPOINTS"
# Set by Modelfleet, in pods of some sources or of all: not the podTemplate's, not the chart's.
OWN = frozenset(
    {"POD_NAMESPACE", "POD_NAME", "MODELFLEET_CACHE", "HF_HOME", "HOME", ALLOWED_ENDPOINTS}
    | {"MODELFLEET_PULL_SECRETS", *TLS_VARIABLES}
)
# The administrator's own choice of where models come from, and through what, allows it.
_ENDPOINTS = frozenset(
    {"HF_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}
    | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
)
# Of the operator's own environment, for its workers: where their traces go, and how many.
_TRACING = (
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    *("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
)
# Shorter values (true, cpu, 16) hide nothing, and stand in messages by chance.
_SHORTEST_SECRET = 4
# How the API server quotes a wrong field: spec.containers[0].env[3].name: Invalid value: "x": ...
_REFUSED = re.compile(
    r"""(\benv(?:From)?\[\d+\][\w.\[\]]*:\ (?:Invalid|Unsupported|Duplicate|Forbidden)\w*
    (?:\ value)?):\ (?:"(?:[^"\\]|\\.)*"|\{[^}]*\}|[^\s:]+)""",
    re.VERBOSE,
)

Variable = Mapping[str, Any]  # as a container's `env` has it


def read_variables(text: str, flag: str) -> tuple[Variable, ...]:
    """A JSON list as a container's `env` has it; StartError names the flag, and no value."""
    try:
        found = json.loads(text) if text else []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(_is_variable(entry) for entry in found):
        raise StartError(f'{flag}: expected JSON like [{{"name": "A", "value": "b"}}]')
    for entry in found:
        if entry["name"] in OWN:
            raise StartError(f"{flag}: {entry['name']} is set by Modelfleet: remove it")
    return tuple(found)


def tracing_variables(environment: Mapping[str, str]) -> tuple[Variable, ...]:
    """What workers get of the operator's environment; empty: no traces."""
    return tuple({"name": n, "value": environment[n]} for n in _TRACING if environment.get(n))


def _is_variable(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("value", ""), str)
        and isinstance(entry.get("valueFrom", {}), dict)
        and entry.keys() <= {"name", "value", "valueFrom"}
    )


def allowed_endpoints(
    listed: Iterable[str], hub_endpoint: str, variables: Iterable[Variable]
) -> str:
    """HOST or HOST:PORT, with commas: private addresses that workers may fetch models from.

    Those that the administrator lists, and those that the administrator's other settings name.
    """
    chosen = [v.get("value", "") for v in variables if v["name"].upper() in _ENDPOINTS]
    named = [_host_and_port(url) for url in (hub_endpoint, *chosen)]
    return ",".join(dict.fromkeys(filter(None, [*listed, *named])))


def _host_and_port(url: str) -> str:
    return urlsplit(url if "//" in url else f"//{url}").netloc.rpartition("@")[2]


def under(ours: list[Variable], chart: Iterable[Variable], users: list[Variable]) -> list[Variable]:
    """Ours first: the others may refer to them. What a podTemplate sets, the chart does not."""
    taken = {variable.get("name") for variable in (*ours, *users)}
    return [*ours, *(v for v in chart if v["name"] not in taken), *users]


def plain_values(spec: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Names and values that a pod's spec has under `env` and that are not Modelfleet's own."""
    return tuple(
        (str(variable.get("name")), value)
        for field in ("initContainers", "containers")
        for container in spec.get(field) or ()
        for variable in container.get("env") or ()
        if variable.get("name") not in OWN
        and len(value := variable.get("value") or "") >= _SHORTEST_SECRET
    )


def without_values(message: str, values: Iterable[tuple[str, str]]) -> str:
    """The message with the name of a variable where it quotes a value under a pod's `env`.

    (KEY, hunter2), 'key hunter2 is wrong' -> 'key $KEY is wrong'
    """
    message = _REFUSED.sub(r"\1", message)
    names = {part: name for name, value in values for part in _parts(value)}
    if not message or not names:
        return message
    # The longest first: one value may be part of another.
    any_value = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)(?:{any_value})(?!\w)", lambda found: f"${names[found[0]]}", message)


def _parts(value: str) -> Iterator[str]:
    """The value, and its lines: messages are on one."""
    yield value
    yield from (
        part for line in value.splitlines() if len(part := line.strip()) >= _SHORTEST_SECRET
    )


class DiscreetGateways:
    """Implements `reconciler.Gateways`: what workers say of themselves quotes no variable."""

    def __init__(
        self, fleet: Gateways, values: Callable[[str], Mapping[str, tuple[tuple[str, str], ...]]]
    ) -> None:
        """`values`: of a deployment, by the worker's id."""
        self._values = values
        self._fleet = fleet
        self.publish = fleet.publish
        self.withdraw = fleet.withdraw

    def signals(self, model: str) -> Signals:
        """What the connected gateways say about a model now."""
        said = self._fleet.signals(model)
        if not any(stats.message for stats in said.stats.values()):
            return said
        values = self._values(model)
        stats = {
            worker: replace(s, message=without_values(s.message, values.get(worker, ())))
            for worker, s in said.stats.items()
        }
        return replace(said, stats=stats)

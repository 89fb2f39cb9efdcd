"""`modelfleet status`: one line for each warm pool, below the deployments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..terminal import printable


def pool_lines(pools: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """`pool gpus: 2 of 3 stand by, 1 start; 4 of 5 starts were claims, 12 s saved`."""
    for pool in pools:
        metadata, status = pool["metadata"], pool.get("status", {})
        if not status:
            continue
        name = f"{metadata['namespace']}/{metadata['name']}".removeprefix("default/")
        words = f"{status['standby']} of {pool['spec'].get('size', 1)} stand by"
        if status["starting"]:
            words += f", {status['starting']} start"
        starts = status["hits"] + status["misses"]
        if starts:
            words += f"; {status['hits']} of {starts} starts were claims"
        if status["secondsSaved"]:
            words += f", {status['secondsSaved']} s saved"
        if "hourlyCost" in status:
            words += f"; {status['hourlyCost']} an hour"
        for condition in status["conditions"]:
            if condition["type"] == "Stalled" and condition["status"] == "True":
                words += f"; {condition['message']}"
        yield printable(f"pool {name}: {words}")

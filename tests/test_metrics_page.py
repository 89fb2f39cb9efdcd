"""docs/metrics.md and the registries say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from modelfleet_gateway.metrics import Metrics as GatewayMetrics
from modelfleet_operator.metrics import Metrics as OperatorMetrics

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
ROW = re.compile(
    r"^\| (?P<names>`[^|]+`) \|(?P<kind>[^|]*)\|(?P<labels>[^|]*)\| (?P<text>.+) \|$", re.MULTILINE
)


def operator_registry() -> CollectorRegistry:
    metrics = OperatorMetrics()
    metrics.collect_plans(dict, lambda: 0)
    metrics.collect_pools(dict)
    return metrics.registry


def described() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Name -> type, labels, meaning, as the page has it."""
    found = {}
    for row in ROW.finditer(PAGE.read_text()):
        labels = tuple(re.findall(r"`(\w+)`", row["labels"]))
        for name in re.findall(r"`(\w+)`", row["names"]):
            found[name] = (row["kind"].strip(), labels, row["text"])
    return found


def registered(registry: CollectorRegistry) -> dict[str, tuple[str, str]]:
    """Name -> type, meaning, as Prometheus would show it."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            family.documentation,
        )
        for family in registry.collect()
    }


@pytest.mark.parametrize("registry", [operator_registry(), GatewayMetrics().registry])
def test_every_metric_is_described_with_its_type(registry: CollectorRegistry):
    page = described()
    for name, (kind, text) in registered(registry).items():
        assert name in page
        if name.startswith("modelfleet_"):
            assert (page[name][0], page[name][2]) == (kind, text)


def test_nothing_is_described_that_does_not_exist():
    there = registered(operator_registry()) | registered(GatewayMetrics().registry)
    assert described().keys() == there.keys()


@pytest.mark.parametrize("metrics", [OperatorMetrics(), GatewayMetrics()])
def test_the_labels_are_those_described(metrics: Any):
    page = described()
    for metric in vars(metrics).values():
        labels = getattr(metric, "_labelnames", None)
        if labels is not None:
            (family,) = metric.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            assert page[name][1] == tuple(labels), name

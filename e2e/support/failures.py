"""When a test fails, its cluster is written to a folder that the report names.

E2E_DUMP_DIR: where, instead of `e2e-failures/`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from dump import Dump
from installation import NAMESPACE, Installation
from kube import Kube

ROOT = Path(__file__).parents[2]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """While the test's namespace is still there; whatever happens here, its own failure stays."""
    report = yield
    if report.failed and (kube := _cluster(item)) is not None:
        try:
            told = Dump(kube, _folder(item, report.when or "")).write(*_namespaces(item))
        except (Exception, pytest.fail.Exception) as error:  # pytest-timeout's, too
            told = f"the cluster could not be dumped: {error!r}"
        report.sections.append(("Cluster", told))
    return report


def _cluster(item: pytest.Item) -> Kube | None:
    """The cluster that the test has used, with every right; None: it has none (yet)."""
    given = _fixtures(item)
    if "administrator" in given:
        administrator: Kube = given["administrator"]
        return administrator
    machine = given.get("machine")
    return Kube(machine.kubeconfig, machine.kubectl) if machine is not None else None


def _namespaces(item: pytest.Item) -> list[str]:
    """The installation's, and those that were made for the test."""
    given = _fixtures(item)
    installation: Installation | None = given.get("installation")
    system = installation.namespace if installation is not None else NAMESPACE
    own = [kube.namespace for kube in given.values() if isinstance(kube, Kube)]
    return list(dict.fromkeys([system, *(name for name in own if name != "default")]))


def _fixtures(item: pytest.Item) -> dict[str, object]:
    return getattr(item, "funcargs", {})


def _folder(item: pytest.Item, when: str) -> Path:
    """Empty; a failure of the teardown keeps what was written for the test itself."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", item.name).strip("-")
    if when == "teardown":
        name += "-teardown"
    folder = Path(os.environ.get("E2E_DUMP_DIR") or ROOT / "e2e-failures") / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder

"""A cluster with Modelfleet on it, and a namespace for each test.

With KUBECONFIG set, that cluster is used (its nodes must be able to pull the images named by
MODELFLEET_OPERATOR_IMAGE and MODELFLEET_WORKER_IMAGE); without it, one is started on this machine,
and another one for each further process of pytest-xdist.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

# gw0 has the cluster of `make cluster`, gw1 the next one. Read when the cluster's modules are.
if process := os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw"):
    os.environ["MODELFLEET_CLUSTER_NUMBER"] = process

from cluster.cluster import Cluster
from failures import pytest_runtest_makereport  # noqa: F401  pytest finds it here
from installation import Installation
from kube import Kube, eventually

# The longest files, the longest of all first: begun at the end, one would run alone.
FIRST = (
    "test_interruptions.py",
    "test_operator_availability.py",
    "test_storage.py",
    "test_chaos.py",
    "test_upgrade.py",
    "test_warm_pool.py",
    "test_rollout.py",
    "test_gitops.py",
    "test_cluster.py",
    "test_nodes.py",
    "test_faults.py",
    "test_chart_release.py",
    "test_story.py",
)

_numbers = itertools.count(1)
_leaving: list[str] = []  # namespaces that were deleted and may still be there


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within a file, and among all others, the order stays."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(FIRST)))


@pytest.fixture(scope="session")
def machine() -> Iterator[Cluster]:
    """The cluster on this machine, with power over its parts; skips the test on any other.

    The first stays when the tests have ended, for a look at it.
    """
    if "KUBECONFIG" in os.environ:
        pytest.skip("this needs power over nodes, which only the cluster on this machine gives")
    cluster = Cluster()
    cluster.start()
    yield cluster
    if process not in ("", "0"):
        cluster.stop()


@pytest.fixture(scope="session")
def administrator(request: pytest.FixtureRequest) -> Iterator[Kube]:
    """The cluster, in the namespace `default`, with every right."""
    if given := os.environ.get("KUBECONFIG"):
        kube = Kube(Path(given))
    else:
        cluster: Cluster = request.getfixturevalue("machine")
        kube = Kube(cluster.kubeconfig, cluster.kubectl)
    yield kube
    _see_off(kube, staying=0)


@pytest.fixture(scope="session")
def installation(administrator: Kube, request: pytest.FixtureRequest) -> Installation:
    """The chart, installed with today's images; stays when the tests have ended."""
    installation = Installation(administrator)
    if "KUBECONFIG" not in os.environ:
        machine: Cluster = request.getfixturevalue("machine")
        machine.program("helm")  # built if it is missing
        installation.load_images(machine)
    installation.install()
    return installation


@pytest.fixture
def gateway(installation: Installation) -> str:
    """http://HOST:PORT of the gateway; another one when it was installed anew."""
    return installation.endpoint()


@pytest.fixture
def kube(
    administrator: Kube, installation: Installation, request: pytest.FixtureRequest
) -> Iterator[Kube]:
    """A new namespace, deleted afterwards with everything in it."""
    yield from _namespace(administrator, request.node.name)


@pytest.fixture
def other_namespace(administrator: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """A second one."""
    yield from _namespace(administrator, request.node.name)


def _namespace(administrator: Kube, test: str) -> Iterator[Kube]:
    words = re.sub(r"[^a-z0-9]+", "-", test.removeprefix("test_").lower())
    name = f"e2e-{words[:40].strip('-')}-{next(_numbers)}"
    administrator("delete", "namespace", name, "--ignore-not-found", timeout=120)
    administrator("create", "namespace", name)
    kube = administrator.within(name)
    yield kube
    kube("delete", "modeldeployments", "--all", "--wait=false")
    kube(
        "delete", "pods", "--all", "--grace-period=1", "--wait=false"
    )  # nothing is served any more
    administrator("delete", "namespace", name, "--wait=false")
    _leaving.append(name)
    # It goes while the next test begins; the nodes have room for one that is on its way.
    _see_off(administrator, staying=1)


def _see_off(administrator: Kube, *, staying: int) -> None:
    """No finalizer of ours holds a namespace: each goes as fast as its pods end."""
    while len(_leaving) > staying:
        name = _leaving.pop(0)
        gone = functools.partial(_is_gone, administrator, name)
        eventually(f"{name} is gone", gone, 120)


def _is_gone(administrator: Kube, namespace: str) -> bool:
    return administrator.find("namespace", namespace) is None

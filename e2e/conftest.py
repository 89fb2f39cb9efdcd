"""A cluster with Modelfleet on it, and a namespace for each test.

With KUBECONFIG set, that cluster is used (its nodes must be able to pull the images named by
MODELFLEET_OPERATOR_IMAGE and MODELFLEET_WORKER_IMAGE); without it, one is started on this machine,
and another one for each further process of pytest-xdist.
"""

from __future__ import annotations

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

_numbers = itertools.count(1)


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
def administrator(request: pytest.FixtureRequest) -> Kube:
    """The cluster, in the namespace `default`, with every right."""
    if given := os.environ.get("KUBECONFIG"):
        return Kube(Path(given))
    cluster: Cluster = request.getfixturevalue("machine")
    return Kube(cluster.kubeconfig, cluster.kubectl)


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
    # No finalizer of ours holds it: it goes as fast as its pods end.
    eventually("the namespace is gone", lambda: kube.find("namespace", name) is None, 120)

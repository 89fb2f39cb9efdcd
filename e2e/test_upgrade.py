"""From an earlier version to today's, part by part, under traffic that never pauses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from clients import tls
from cluster.cluster import Cluster
from images import operator_image, tree_of, worker_image
from installation import Installation
from kube import Kube, eventually, model_deployment
from traffic import Traffic

EARLIER = "17e8af871bbffbbf02e9901839dc4f08b37dacf4"  # v0.1.0-alpha.1; clones may lack the tag


@pytest.fixture(scope="module")
def earlier(installation: Installation, machine: Cluster) -> Iterator[tuple[Installation, Path]]:
    """The release as the earlier commit makes it, and that commit's chart; today's comes back."""
    with tree_of(EARLIER) as tree:
        operator, worker = operator_image(tree), worker_image(tree)
        for image in (operator, worker):
            machine.load_image(image.archive, image.reference)
        old = replace(installation, operator=operator.reference, worker=worker.reference)
        yield old, tree / "charts" / "modelfleet"
    installation.install()


@pytest.mark.timeout(900)  # six rollouts, on a machine that may be busy
def test_an_upgrade_from_an_earlier_version_keeps_every_model_serving(
    earlier: tuple[Installation, Path], installation: Installation, gateway: str, kube: Kube
):
    old, old_chart = earlier
    old.install(chart=old_chart)
    kube.apply(model_deployment("steady"))
    kube.wait("Ready", "modeldeployment/steady")
    # An earlier gateway that has lost its operator denies what is new.
    eventually("every gateway knows it", lambda: all_know(old, f"{kube.namespace}/steady"))
    with Traffic(gateway, f"{kube.namespace}/steady", clients=4) as traffic:
        traffic.wait_for_answers(8)

        # Workers of today, under an operator and gateways of then; then gateways of today, too.
        replace(old, worker=installation.worker).install(chart=old_chart)
        rolled(kube, installation.worker)
        traffic.wait_for_answers(8)
        set_gateway(installation, installation.operator)
        traffic.wait_for_answers(8)

        # An operator and gateways of today, with workers of then, which know no TLS.
        replace(installation, worker=old.worker).install(changes=tls_mode("Disabled"))
        rolled(kube, old.worker)
        traffic.wait_for_answers(8)

        # All of today; and gateways of then once more, with all else of today.
        installation.install(changes=tls_mode("Permissive"))
        rolled(kube, installation.worker)
        traffic.wait_for_answers(8)
        set_gateway(installation, old.operator)
        traffic.wait_for_answers(8)
        set_gateway(installation, installation.operator)
        traffic.wait_for_answers(8)

        # And at last none without a certificate; nothing is started anew for it but operators.
        workers = {pod["metadata"]["uid"] for pod in kube.workers("steady")}
        installation.install()
        eventually(
            "gateways are back", lambda: kube.condition("steady", "Ready")["status"] == "True"
        )
        traffic.wait_for_answers(8)
        assert {pod["metadata"]["uid"] for pod in kube.workers("steady")} == workers
    traffic.check()


def tls_mode(mode: str) -> dict[str, dict[str, dict[str, str]]]:
    return {"tls": {"internal": {"mode": mode}}}


def all_know(installation: Installation, model: str) -> bool:
    gateways = installation.gateways().values()
    return all(
        model in httpx.get(f"{gateway}/v1/models", verify=tls()).text for gateway in gateways
    )


def rolled(kube: Kube, image: str) -> None:
    """Returns when every worker runs this image, and serves."""

    def has() -> bool:
        workers = kube.workers("steady")
        images = {pod["spec"]["containers"][0]["image"] for pod in workers}
        return images == {image} and kube.condition("steady", "Ready").get("status") == "True"

    eventually(f"the workers run {image}", has, 180)


def set_gateway(installation: Installation, image: str) -> None:
    """As a person would who tries one part of another version."""
    system = installation.kube.within(installation.namespace)
    deployment = f"deployment/{installation.release}-gateway"
    system("set", "image", deployment, f"gateway={image}")
    system("rollout", "status", deployment, "--timeout=180s", timeout=200)


def test_the_earlier_version_is_an_ancestor_of_todays():
    """Else nothing is proved about upgrades."""
    known = subprocess.run(
        ["git", "merge-base", "--is-ancestor", EARLIER, "HEAD"],
        cwd=Path(__file__).parent, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert known.returncode == 0, f"expected {EARLIER} in the history: {known.stderr}"

"""The operator's story on a Kubernetes API, told by what it asks of the API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from kube_cluster import ApiServer, Gateway, eventually


async def test_a_deployment_becomes_a_pod_with_its_owner_and_labels(
    api: ApiServer, start_operator: Callable[..., Any]
):
    async with start_operator() as cluster:
        await cluster.apply()
        ((name, pod),) = (await eventually(api.pods)).items()

    (request,) = api.asked("POST", "pods")
    posted = json.loads(request.body)
    revision = posted["metadata"]["labels"]["modelfleet.dev/revision"]
    assert name == f"smol-{revision}-0"
    assert posted["metadata"]["labels"]["modelfleet.dev/deployment"] == "smol"
    (owner,) = posted["metadata"]["ownerReferences"]
    assert owner["uid"] == api.model()["metadata"]["uid"]
    assert owner["controller"] is True
